"""What a compiled TPU program moves to and from the HBM, read from its text.

XLA's own figure ("bytes accessed") adds up the operands and results of every instruction wherever they lie; most of
them never leave the chip's vector memory, which the text shows as memory space S(1). Sizes here are those of the tiles
that arrays are padded to.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ARRAY = r"\b(pred|[a-z]+\d+)\[([\d,]*)\](?:\{([^}]*)\})?"
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}  # else 4
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
# They name or rearrange what is there; what they wait for was counted where it started.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")

# What runs other computations -> where their names stand; what those move is counted there.
CALLED = {
    "while": r"body=%?[\w.\-]+",
    "call": r"to_apply=%?[\w.\-]+",
    "async-start": r"calls=%?[\w.\-]+",
    "call-start": r"to_apply=%?[\w.\-]+",  # TPU7x: collectives that the SparseCore does in the background
    "conditional": r"branch_computations=\{[^}]*\}|(?:true|false)_computation=%?[\w.\-]+",
}


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    result: str  # its type, as text
    kind: str
    rest: str  # operands and attributes


class UnknownLength(Exception):
    """A loop that does not state its length."""


def hbm_bytes(text: str) -> int:
    """Bytes that one run of a program reads and writes, as `compiled.as_text()` describes it; loops are multiplied out.

    An instruction that reads a part of an operand by computed places (a gather) counts as reading all of it.

    Raises:
      UnknownLength: a loop that does not state its length.
    """
    return sum(times * _moved(each, defined) for each, defined, times in executed(text))


def executed(text: str, inside_fusions: bool = False) -> Iterator[tuple[Instruction, dict[str, str], int]]:
    """Every instruction of a program, the types by name around it, and how often one run does it.

    A fusion is one instruction, as its inside stays in the chip, or all those it holds too: XLA fuses collectives.
    Of a conditional, all branches count as if they were taken.

    Raises:
      UnknownLength: a loop that does not state its length.
    """
    calls = CALLED | {"fusion": r"calls=%?[\w.\-]+"} if inside_fusions else CALLED
    return _executed("ENTRY", read_computations(text), calls, 1)


def _executed(
    name: str, computations: dict, calls: dict[str, str], times: int
) -> Iterator[tuple[Instruction, dict[str, str], int]]:
    defined = {each.name: each.result for each in computations[name]}
    for each in computations[name]:
        yield each, defined, times
        inside = times * _trips(each, computations) if each.kind == "while" else times
        for called in re.findall(r"%([\w.\-]+)", " ".join(re.findall(calls.get(each.kind, "(?!)"), each.rest))):
            yield from _executed(called, computations, calls, inside)


def read_computations(text: str) -> dict[str, list[Instruction]]:
    """{name, or "ENTRY": its instructions}."""
    computations: dict[str, list[Instruction]] = {}
    inside: list[Instruction] = []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = []
            name = "ENTRY" if line.startswith("ENTRY") else line.split()[0].lstrip("%")
            computations[name] = inside
        elif found := LINE.match(line):
            inside.append(Instruction(*found.groups()))
    return computations


def _moved(each: Instruction, defined: dict[str, str]) -> int:
    """Bytes of one instruction."""
    if each.kind in FREE or each.kind in CALLED or each.kind.endswith(("-done", "-update")):
        return 0
    if each.kind in ("copy-start", "slice-start"):
        return _transfer(each.result)
    operands = re.findall(r"%([\w.\-]+)", each.rest.split("), ")[0])
    return in_hbm(each.result) + sum(in_hbm(defined[operand]) for operand in set(operands) if operand in defined)


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop turns: what it states, or the constant that the counter of `lax.scan` is less than."""
    if stated := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(stated[1])
    condition = computations[_called(loop.rest, "condition")]
    constants = {each.name: each.rest.split(")")[0] for each in condition if each.kind == "constant"}
    last = condition[-1]
    bound = [constants[name] for name in re.findall(r"%([\w.\-]+)", last.rest.split("), ")[0]) if name in constants]
    if last.kind != "compare" or "direction=LT" not in last.rest or len(bound) != 1:
        raise UnknownLength(loop.name)
    return int(bound[0])


def _called(rest: str, attribute: str) -> str:
    return re.search(rf"{attribute}=%?([\w.\-]+)", rest)[1]


def _transfer(result: str) -> int:
    """A copy in the background, whose result is (both ends, a semaphore): the smaller end, once per end in the HBM."""
    ends = [array for array in re.findall(ARRAY, result) if array[1]]
    sizes = [_size(*array) for array in ends]
    return min(sizes) * sum("S(" not in layout for _, _, layout in ends)


def in_hbm(kind: str) -> int:
    """Bytes of the arrays of a type that lie in the HBM."""
    return sum(_size(*array) for array in re.findall(ARRAY, kind) if "S(" not in array[2])


def _size(dtype: str, sides: str, layout: str) -> int:
    """Bytes of an array in its tiles: 'bf16', '64,196,16', '2,1,0:T(8,128)(2,1)'."""
    numbers = [int(side) for side in sides.split(",") if side]
    order, _, tiling = layout.partition(":")
    physical = [numbers[int(i)] for i in order.split(",") if i] or numbers[::-1]  # from the minor dimension on
    if tile := re.match(r"T\(([\d,]+)\)", tiling):
        for i, side in enumerate(reversed(tile[1].split(","))):
            if i < len(physical):
                physical[i] = math.ceil(physical[i] / int(side)) * int(side)
    return WIDTHS.get(dtype, 4) * math.prod(physical)
