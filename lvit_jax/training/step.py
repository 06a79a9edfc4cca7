"""The pure core of training: make_init and make_step. The step knows no device, no clock but its own, no file."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lvit_jax.tree import flatten, unflatten
from lvit_jax.types import Batch, Objective, TrainState, Tree

Metrics = dict[str, jax.Array]


def overlay(tree: Tree, loaded: Tree) -> Tree:
    """`tree` with the leaves that `loaded` holds in the places of those of the same names.

    Raises:
      KeyError: a leaf of `loaded` that `tree` does not have.
    """
    leaves, new = flatten(tree), flatten(loaded)
    if extra := new.keys() - leaves.keys():
        raise KeyError(f"no place for {sorted(extra)[0]!r}")
    return unflatten({name: new[name].astype(leaf.dtype) if name in new else leaf for name, leaf in leaves.items()})


def make_init(objective: Objective, tx: optax.GradientTransformation) -> Callable[..., TrainState]:
    """(rng, batch, params, frozen) -> the state at step 0; for `mesh.place`.

    `params` and `frozen` are the loaded leaves, nested dicts that may hold only a part (or nothing) of either tree;
    what they do not hold keeps the value that `objective.init` drew.
    """

    def init(rng: jax.Array, batch: Batch, params: Tree, frozen: Tree) -> TrainState:
        fresh = objective.init(rng, batch)
        trained = overlay(fresh.params, params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=trained,
            opt_state=tx.init(trained),
            frozen=overlay(fresh.frozen, frozen),
            extra=fresh.extra,
        )

    return init


def make_step(
    objective: Objective, tx: optax.GradientTransformation, seed: int | jax.Array, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """(state, batch) -> (state, metrics): one update; metrics are the objective's, `loss` and `grad_norm`, float32 [].

    Randomness is fold_in(key(seed), step), so a step depends on nothing but its arguments.

    Args:
      accumulate: the batch is cut into that many microbatches, whose gradients are averaged before the one update.
    """
    gradient = jax.value_and_grad(objective.loss, has_aux=True)

    def whole(state, batch, rng):
        (loss, aux), grads = gradient(state.params, state, batch, rng)
        return grads, aux.metrics | {"loss": loss}, aux.extra

    def accumulated(state, batch, rng):
        def body(extra, inputs):
            index, part = inputs
            grads, metrics, extra = whole(state.replace(extra=extra), part, jax.random.fold_in(rng, index))
            return extra, (grads, metrics)

        return _scan_mean(body, state.extra, (jnp.arange(accumulate), _microbatches(batch, accumulate)))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics, extra = (accumulated if accumulate > 1 else whole)(state, batch, rng)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        metrics["grad_norm"] = optax.global_norm(grads)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra), metrics

    return step


def _microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B/count, ...]: every count-th row, so that each device cuts up only its own rows."""

    def cut(rows):
        return rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def _scan_mean(body, extra, inputs):
    """`lax.scan` that keeps only the mean of the (gradients, metrics) it yields, not all of them."""
    first = jax.tree.map(lambda x: x[0], inputs)
    shapes = jax.eval_shape(body, extra, first)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    count = jax.tree.leaves(inputs)[0].shape[0]

    def add(carry, item):
        extra, total = carry
        extra, out = body(extra, item)
        return (extra, jax.tree.map(jnp.add, total, out)), None

    (extra, total), _ = jax.lax.scan(add, (extra, zeros), inputs)
    grads, metrics = jax.tree.map(lambda x: x / count, total)
    return grads, metrics, extra
