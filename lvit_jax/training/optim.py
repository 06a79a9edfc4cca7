"""The optimizer: warm-up and cosine, decay mask, layer-wise rates, freezing, weight averaging; all by path rules."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lvit_jax.errors import InputError, unknown
from lvit_jax.tree import flatten, match, matches, unflatten
from lvit_jax.types import Tree

Schedule = Callable[[jax.Array | int], jax.Array]
TRUST = 0.001  # of LARS
STEM = r".*/(cls_token|dist_token|mask_token|pos_embed|patch_(embed|norm)/.*)"


class EmaState(NamedTuple):
    """The running average of the parameters: the same tree, float32."""

    average: Tree


def make_schedule(
    peak: float, steps: int, warmup: int, start: float = 0.0, end: float = 0.0, milestones: Sequence[int] = ()
) -> Schedule:
    """Linear warm-up from `start` to `peak`, then half a cosine to `end`, per iteration (MAE-Lite lr_scheduler.py).

    Args:
      peak: learning rate after warm-up, already scaled by the batch.
      steps, warmup: lengths in iterations.
      milestones: iterations from which on the rate is a tenth of what it was, in place of the cosine (SimMIM).

    Raises:
      InputError: a warm-up that leaves no step for the cosine.
    """
    if not 0 <= warmup < steps:
        raise InputError(
            f"a warm-up of {warmup} steps does not fit a run of {steps} steps; shorten optim.warmup_epochs"
        )

    def schedule(step):
        t = jnp.asarray(step, jnp.float32)
        rising = start + (peak - start) * t / max(warmup, 1)
        if milestones:
            falls = (t >= jnp.asarray(milestones)).sum()
            return jnp.where(t < warmup, rising, peak * 0.1**falls)
        q = 0.5 * (1 + jnp.cos(jnp.pi * (t - warmup) / (steps - warmup)))
        return jnp.where(t < warmup, rising, peak * q + end * (1 - q))

    return schedule


def layer_id(name: str, depth: int) -> int:
    """The layer of a parameter (recipes 5.2): 0 for the stem, i+1 for encoder block i, depth+1 for all the rest.

    The patch merging after block i of a hierarchical encoder has that block's layer, as in SimMIM.
    """
    if re.fullmatch(STEM, name):
        return 0
    block = re.match(r"encoder/(?:block|merge)_(\d+)/", name)
    layer = int(block[1]) + 1 if block else depth + 1
    if layer > depth + 1:
        raise InputError(f"layer decay is set for depth {depth}, but there is a parameter {name!r}")
    return layer


def layer_scales(params: Tree, decay: float, depth: int) -> Tree:
    """decay^(depth + 1 - layer) for each parameter: the head learns at the full rate, the stem slowest."""
    return unflatten({name: decay ** (depth + 1 - layer_id(name, depth)) for name in flatten(params)})


def decay_mask(params: Tree, no_decay: Sequence[str] = (), frozen: Sequence[str] = (), decay_all: bool = False) -> Tree:
    """Which parameters decay: not vectors and scalars, not biases, not what a regex of `no_decay` or `frozen` names.

    `decay_all`: vectors, scalars and biases too, as torch.optim without parameter groups (MoCo-v3).
    """
    exempt = flatten(match([(pattern, True) for pattern in no_decay], params, False, "optim.no_decay"))
    still = flatten(match([(pattern, True) for pattern in frozen], params, False, "optim.frozen"))

    def decays(name, leaf):
        plain = leaf.ndim > 1 and not name.endswith("/bias")
        return (plain or decay_all) and not exempt[name] and not still[name]

    return unflatten({name: decays(name, leaf) for name, leaf in flatten(params).items()})


def scale_by_tree(scales: Tree) -> optax.GradientTransformation:
    """Multiplies each update by the number at its place in `scales`."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales))


def average_weights(decay: float) -> optax.GradientTransformation:
    """Averages what the parameters become: the last link of a chain, so exact under gradient accumulation.

    Starts at the parameters and does not correct for that, as timm's ModelEma.
    """

    def init(params):
        # A copy: an average that shared the buffers of the parameters could not be donated beside them.
        return EmaState(jax.tree.map(jnp.copy, params))

    def update(updates, state, params):
        after = optax.apply_updates(params, updates)
        return updates, EmaState(optax.incremental_update(after, state.average, 1 - decay))

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Tree) -> Tree | None:
    """The averaged parameters that `make_tx(ema=...)` keeps, or None where the run keeps none."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, EmaState))
    return next((node.average for node in nodes if isinstance(node, EmaState)), None)


def with_average(opt_state: Tree, average: Tree) -> Tree:
    """`opt_state` with another tree in the place of the averaged parameters."""

    def swap(node):
        return EmaState(average) if isinstance(node, EmaState) else node

    return jax.tree.map(swap, opt_state, is_leaf=lambda node: isinstance(node, EmaState))


def _core(name, mask, weight_decay, b1, b2, eps, momentum, nesterov) -> list[optax.GradientTransformation]:
    """Decoupled decay after Adam's rescaling; for SGD the decay is part of the gradient, both as in torch.optim.

    LARS as MoCo-v3 (moco/optimizer.py): gradient and decay of each matrix rescaled to TRUST times the matrix's norm,
    then momentum, never Nesterov's; vectors take the plain gradient. A norm of 0 leaves the scale at 1.
    """
    decay = optax.add_decayed_weights(weight_decay, mask)
    if name == "adamw":
        return [optax.scale_by_adam(b1, b2, eps), decay]
    if name == "sgd":
        return [decay, optax.trace(momentum, nesterov)]
    if name == "lars":
        trust = optax.scale_by_trust_ratio(trust_coefficient=TRUST)
        matrices = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        return [decay, optax.masked(trust, matrices), optax.trace(momentum)]
    raise unknown("optimizer", name, ("adamw", "sgd", "lars"))


def _gradient(params: Tree, frozen: Sequence[str], clip: float | None) -> list[optax.GradientTransformation]:
    """Gradients of frozen parameters are zero before the norm is taken: they do not count in it."""
    still = unflatten({path: matches(frozen, path) for path in flatten(params)})
    return [optax.masked(optax.set_to_zero(), still), *([] if clip is None else [optax.clip_by_global_norm(clip)])]


def _rates(schedule: Schedule, params: Tree, layer_decay: float, depth: int) -> list[optax.GradientTransformation]:
    """The rate of the step, and that of each layer."""
    layers = [] if layer_decay == 1.0 else [scale_by_tree(layer_scales(params, layer_decay, depth))]
    return [*layers, optax.scale_by_learning_rate(schedule)]


def _warmup(epochs: float, steps: int, steps_per_epoch: float) -> int:
    """Steps of a warm-up, where they leave one for what follows."""
    warmup = round(epochs * steps_per_epoch)
    if warmup >= steps:
        most = int(10 * (steps - 1) / steps_per_epoch) / 10
        raise InputError(
            f"a warm-up of {warmup} steps does not fit a run of {steps} steps; set --config.optim.warmup_epochs={most}"
        )
    return warmup


def make_tx(
    params: Tree,
    *,
    steps: int,
    steps_per_epoch: float,
    batch_size: int,
    blr: float,
    warmup_epochs: float,
    weight_decay: float,
    name: str = "adamw",
    min_lr: float = 0.0,
    warmup_lr: float = 0.0,
    milestones: Sequence[float] = (),
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.0,
    nesterov: bool = False,
    layer_decay: float = 1.0,
    depth: int | None = None,
    clip: float | None = None,
    no_decay: Sequence[str] = (),
    decay_all: bool = False,
    frozen: Sequence[str] = (),
    ema: float | None = None,
) -> tuple[optax.GradientTransformation, Schedule]:
    """The gradient transformation of a run, and its learning rate per step.

    Args:
      params: the trained parameters, or their ShapeDtypeStructs; names decide decay, layer and freezing.
      steps, steps_per_epoch: length of the run in iterations; iterations per epoch of the warm-up.
      blr: learning rate per 256 images; the peak is blr * batch_size / 256.
      milestones: epochs from which on the rate is a tenth of what it was, in place of the cosine to `min_lr`.
      layer_decay: rate and weight decay of layer l are scaled by layer_decay^(depth+1-l), with `depth` encoder blocks.
      clip, ema: largest global l2 norm; decay per step of an average of the parameters (see `averaged`); None for none.
      no_decay, frozen: regexes on names: exempt from weight decay; neither updated nor decayed.
      decay_all: biases and norms decay too.

    Raises:
      InputError: an unknown optimizer, LARS with `decay_all`, a regex that matches no parameter, a warm-up as long as
        the run.
    """
    if name == "lars" and decay_all:
        raise InputError("optim.decay_all=True, but LARS decays no vectors; set --config.optim.decay_all=False")
    warmup, falls = _warmup(warmup_epochs, steps, steps_per_epoch), [round(e * steps_per_epoch) for e in milestones]
    schedule = make_schedule(blr * batch_size / 256, steps, warmup, warmup_lr, min_lr, falls)
    mask = decay_mask(params, no_decay, frozen, decay_all)
    core = _core(name, mask, weight_decay, b1, b2, eps, momentum, nesterov)
    links = [*_gradient(params, frozen, clip), *core, *_rates(schedule, params, layer_decay, depth)]
    return optax.chain(*links, *([] if ema is None else [average_weights(ema)])), schedule
