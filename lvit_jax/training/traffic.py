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
    return _moved("ENTRY", read_computations(text))


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


def _moved(name: str, computations: dict[str, list[Instruction]]) -> int:
    defined = {each.name: each.result for each in computations[name]}
    return sum(_instruction(each, defined, computations) for each in computations[name])


def _instruction(each: Instruction, defined: dict[str, str], computations: dict) -> int:
    if each.kind in FREE or each.kind.endswith(("-done", "-update")):
        return 0
    if each.kind == "while":
        return _trips(each, computations) * _moved(_called(each.rest, "body"), computations)
    if each.kind == "call":
        return _moved(_called(each.rest, "to_apply"), computations)
    if each.kind == "conditional":
        branches = re.findall(r"%([\w.\-]+)", re.search(r"(?:branch_computations|true_computation)=.*", each.rest)[0])
        return max(_moved(branch, computations) for branch in branches if branch in computations)
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


def executed(text: str) -> Iterator[tuple[Instruction, int]]:
    """Every instruction of a program, and how often one run of it does that; all branches as if they were taken.

    Raises:
      UnknownLength: a loop that does not state its length.
    """
    computations = read_computations(text)
    return _executed("ENTRY", computations, 1)


def _executed(name: str, computations: dict, times: int) -> Iterator[tuple[Instruction, int]]:
    for each in computations.get(name, ()):
        yield each, times
        inside = times
        if each.kind == "while":
            inside *= _trips(each, computations)
        for called in re.findall(r"(?:body|to_apply|calls|(?:true|false)_computation)=%?([\w.\-]+)", each.rest):
            yield from _executed(called, computations, inside)
        for branches in re.findall(r"branch_computations=\{([^}]*)\}", each.rest):
            for branch in re.findall(r"%?([\w.\-]+)", branches):
                yield from _executed(branch, computations, times)


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
