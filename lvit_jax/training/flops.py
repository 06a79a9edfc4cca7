"""FLOPs of a traced function: what its matrix products and convolutions take, loops multiplied out.

XLA's own count (`cost_analysis`) takes the body of a loop once, whatever its length (gradient accumulation), and
differs between backends; this one is a property of the mathematics. A multiply-add counts as two; element-wise work,
softmax and reductions are left out, as usual where FLOPs are compared with the peak of a matrix unit.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *args: Any) -> int:
    """FLOPs of `function(*args)`; args may be ShapeDtypeStructs. What no result depends on does not count.

    Raises:
      ValueError: a product inside a `while` loop or a Pallas kernel, whose number of turns the jaxpr does not say.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count(jaxpr: core.Jaxpr, wanted: list[bool]) -> tuple[int, list[bool]]:
    """FLOPs behind the wanted results, and which arguments they need: XLA drops the rest, so it must not count."""
    live = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and isinstance(var, core.Var)}
    total = 0
    for eqn in reversed(jaxpr.eqns):
        outs = [var in live for var in eqn.outvars]
        if not any(outs) and not eqn.effects:
            continue
        flops, needed = _equation(eqn, outs)
        total += flops
        live |= {var for var, need in zip(eqn.invars, needed, strict=True) if need and isinstance(var, core.Var)}
    return total, [var in live for var in jaxpr.invars]


def _equation(eqn: core.JaxprEqn, outs: list[bool]) -> tuple[int, list[bool]]:
    """FLOPs of one equation for its wanted results, and which of its operands they need."""
    everything = [True] * len(eqn.invars)
    if eqn.primitive.name == "dot_general":
        return _dot(eqn), everything
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution(eqn), everything
    bodies = list(_bodies(eqn))
    if len(bodies) == 1 and eqn.primitive.name not in ("scan", "while", "pallas_call"):
        body = bodies[0]
        if (len(body.invars), len(body.outvars)) == (len(eqn.invars), len(eqn.outvars)):  # jit, remat, custom_vjp
            return _count(body, outs)
    counts = [_count(body, [True] * len(body.outvars))[0] for body in bodies]
    if eqn.primitive.name == "cond":
        return max(counts), everything
    if sum(counts) and eqn.primitive.name in ("while", "pallas_call"):
        raise ValueError(f"how often a {eqn.primitive.name} multiplies is not known: write a scan, or a product")
    return sum(counts) * eqn.params.get("length", 1), everything


def _bodies(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The functions that an equation calls."""
    for param in eqn.params.values():
        for item in param if isinstance(param, tuple | list) else (param,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot(eqn: core.JaxprEqn) -> int:
    """2 · (numbers in the result) · (length of what is contracted)."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)


def _convolution(eqn: core.JaxprEqn) -> int:
    """2 · (numbers in the result) · (window · channels of its group); zeros put between inputs do not count."""
    kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
    window = math.prod(kernel[i] for i in numbers.rhs_spec[1:])  # input channels of a group, and the sides
    return 2 * math.prod(eqn.outvars[0].aval.shape) * window // math.prod(eqn.params["lhs_dilation"])
