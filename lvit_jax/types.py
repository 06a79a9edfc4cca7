"""The contracts between the rooms of the house: what a batch, a state, an objective and an evaluation are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax

Batch = dict[str, jax.Array]
Tree = Any  # a nested dict of arrays


@flax.struct.dataclass
class Variables:
    """What an objective needs to start: see TrainState for the meaning of the three trees."""

    params: Tree
    frozen: Tree = flax.struct.field(default_factory=dict)
    extra: Tree = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and writes. `step` is the only clock: no epoch, no iterator, no rng."""

    step: jax.Array  # int32 []
    params: Tree  # trained
    opt_state: Tree
    frozen: Tree  # a teacher or a probed backbone: an argument of the step, never trained, never saved
    extra: Tree  # batch statistics, momentum encoders: changed by the loss, saved


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its value: float32 scalars to report, and the next `TrainState.extra`."""

    metrics: dict[str, jax.Array]
    extra: Tree


class Objective(NamedTuple):
    """A training method, to losses what `optax.GradientTransformation` is to updates: three pure functions."""

    init: Callable[[jax.Array, Batch], Variables]  # (rng, batch) -> Variables
    loss: Callable[[Tree, TrainState, Batch, jax.Array], tuple[jax.Array, Aux]]  # (params, state, batch, rng)
    predict: Callable[[Tree, TrainState, Batch], dict[str, jax.Array]]  # (params, state, batch)


class Eval(NamedTuple):
    """A measurement made every `every` steps (and after the last): floats are scalars, uint8 [H,W,3] pictures."""

    name: str
    every: int
    run: Callable[[TrainState], dict[str, Any]]
