"""MoCo-v3 (arXiv:2104.02057): a query of one view is told its own image's key of the other view (recipes 3.1)."""

import math

import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.contrastive import Perceptron, predictor, projector
from lvit_jax.models.heads import pool
from lvit_jax.models.initial import moco_start
from lvit_jax.models.vit import ViT
from lvit_jax.objectives.losses import accuracy
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_moco(
    encoder: ViT,
    *,
    steps: int | None,
    hidden: int = 4096,
    dim: int = 256,
    temperature: float = 0.2,
    momentum: float = 0.99,
) -> Objective:
    """MoCo-v3: params {encoder, projector, predictor}; batch["image"] is [B,2,H,W,C], two views of each image.

    extra holds "momentum" {encoder, projector}, the slow copies that make the keys; "stats", the running statistics
    of the BatchNorms of projector, predictor and the slow projector; and "updates", the steps whose update of the slow
    copies is done. In training all three heads, the slow one too, normalise by the statistics of the batch, one view
    at a time. The running ones (PyTorch's: 0.1 of each new one, the first view's before the second's) serve `predict`.

    Under gradient accumulation the slow copies are still updated once a step, but BatchNorm and the negatives see one
    microbatch: unlike elsewhere, `train.accumulate` changes the mathematics.

    Args:
      encoder: a ViT with a CLS token, which is the feature; it gets a final norm.
      steps: T, the length of the run, for the momentum's schedule.
      hidden, dim: widths of the heads.
      temperature: of the similarities.
      momentum: m₀, of the first step; rises to 1 by half a cosine.

    Raises:
      InputError: no steps, a width or temperature that is not positive, a momentum outside [0, 1]; from `init`,
        batches that are no pairs of views.
    """
    _check(steps, hidden, dim, temperature, momentum)
    encoder = encoder.clone(final_norm=True)
    project, predict_key = projector(hidden, dim, encoder.dtype), predictor(hidden, dim, encoder.dtype)

    def features(params: Tree, images: jax.Array, rng: jax.Array | None) -> jax.Array:
        """The CLS token of images [B,H,W,C]: float32 [B,D]."""
        rngs = {} if rng is None else {"dropout": rng}
        return pool(encoder.apply({"params": params}, images, train=rng is not None, rngs=rngs), "cls")

    def of_views(params: Tree, views: jax.Array, rng: jax.Array) -> jax.Array:
        """[B,2,H,W,C] -> [B,2,D]: the views of an image stay on its device."""
        return features(params, views.reshape(-1, *views.shape[2:]), rng).reshape(*views.shape[:2], -1)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        if batch["image"].ndim != 5 or batch["image"].shape[1] != 2:
            raise InputError("moco compares two views of each image; set --config.data.recipe=moco")
        return _variables(rng, batch["image"][:1, 0], encoder, project, predict_key)

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        old, stats = state.extra, state.extra["stats"]
        slow = follow(old["momentum"], params, _rate(old["updates"], state.step, steps, momentum))
        query_rng, key_rng = jax.random.split(rng)
        tokens = of_views(params["encoder"], batch["image"], query_rng)
        z, projector_stats = both(project, params["projector"], stats["projector"], tokens)
        queries, predictor_stats = both(predict_key, params["predictor"], stats["predictor"], z)
        tokens = of_views(slow["encoder"], batch["image"], key_rng)
        keys, slow_stats = both(project, slow["projector"], stats["momentum_projector"], tokens)
        queries, keys = normalise(queries), jax.lax.stop_gradient(normalise(keys))
        first = contrast(queries[:, 0], keys[:, 1], temperature)
        second = contrast(queries[:, 1], keys[:, 0], temperature)
        stats = {"projector": projector_stats, "predictor": predictor_stats, "momentum_projector": slow_stats}
        extra = {"momentum": slow, "stats": jax.lax.stop_gradient(stats), "updates": state.step + 1}
        metrics = {"matched": (first[1] + second[1]) / 2, "momentum": momentum_at(state.step, steps, momentum)}
        return first[0] + second[0], Aux(metrics, extra)

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """ "features": CLS tokens [B,D] of single images; "projection": [B,dim], by the running statistics."""
        tokens = features(params["encoder"], batch["image"], None)
        variables = {"params": params["projector"], "batch_stats": state.extra["stats"]["projector"]}
        return {"features": tokens, "projection": project.apply(variables, tokens, False)}

    return Objective(init, loss, predict)


def both(head: Perceptron, params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    """A head in training on the first view, then on the second: [B,2,D] -> [B,2,E], and the running statistics."""
    outputs = []
    for view in (0, 1):
        variables = {"params": params, "batch_stats": stats}
        out, changed = head.apply(variables, x[:, view], True, mutable=["batch_stats"])
        outputs, stats = [*outputs, out], changed["batch_stats"]
    return jnp.stack(outputs, axis=1), stats


def contrast(queries: jax.Array, keys: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """InfoNCE over the global batch times 2T, and the share of queries nearest to their own key.

    queries, keys: float32 [B,E] of length 1; row i of both is image i, all other rows are its negatives.
    """
    # Exact products: similarities of up to 1/T would keep two digits in bfloat16.
    logits = jnp.einsum("be,ce->bc", queries, keys, precision="highest") / temperature
    # Not the diagonal of the product: over devices that is a gather, and its gradient a scatter within a conditional,
    # whose collectives can meet others in another order and wait for ever (XLA for CPU).
    own = (queries * keys).sum(axis=-1) / temperature
    value = (jax.nn.logsumexp(logits, axis=1) - own).mean()
    return 2 * temperature * value, accuracy(logits, jnp.arange(len(logits)))


def normalise(x: jax.Array) -> jax.Array:
    """[...,E] scaled to length 1, as torch's `normalize`; without the root's infinite slope at 0."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def momentum_at(step: jax.Array, steps: int, start: float) -> jax.Array:
    """m_t = 1 - ½(1 + cos(π t/T))(1 - m₀), t counted from 0: float32 []."""
    t = step.astype(jnp.float32)
    return 1 - 0.5 * (1 + jnp.cos(math.pi * t / steps)) * (1 - start)


def follow(slow: Tree, params: Tree, rate: jax.Array) -> Tree:
    """Slow copies moved towards {encoder, projector} of params, before the keys are made: m·slow + (1-m)·params."""
    quick = jax.lax.stop_gradient({name: params[name] for name in slow})
    return jax.tree.map(lambda k, q: rate * k + (1 - rate) * q, slow, quick)


def _rate(updates: jax.Array, step: jax.Array, steps: int, start: float) -> jax.Array:
    """m of this call. In the first step 0, so that the copies start equal to weights that `init.encoder` loaded; in
    later microbatches of a step 1, as the step's update is done.
    """
    rate = jnp.where(step == 0, 0.0, momentum_at(step, steps, start))
    return jnp.where(updates > step, 1.0, rate)


def _variables(rng: jax.Array, images: jax.Array, encoder: ViT, project: Perceptron, predict_key: Perceptron):
    """Fresh variables: the slow copies equal the parameters."""
    rngs = jax.random.split(rng, 4)
    body = moco_start(rngs[3], encoder.init(rngs[0], images)["params"])
    head = project.init(rngs[1], jnp.zeros((1, encoder.width)), True)
    last = predict_key.init(rngs[2], jnp.zeros((1, project.widths[-1])), True)
    params = {"encoder": body, "projector": head["params"], "predictor": last["params"]}
    stats = {"projector": head["batch_stats"], "predictor": last["batch_stats"]}
    stats["momentum_projector"] = jax.tree.map(jnp.copy, stats["projector"])
    slow = jax.tree.map(jnp.copy, {name: params[name] for name in ("encoder", "projector")})
    return Variables(params, extra={"momentum": slow, "stats": stats, "updates": jnp.zeros((), jnp.int32)})


def _check(steps: int | None, hidden: int, dim: int, temperature: float, momentum: float) -> None:
    if not steps or steps < 1:
        raise InputError(f"moco needs the number of steps of its run, not {steps}: its momentum follows them")
    for name, value in {"hidden": hidden, "dim": dim, "temperature": temperature}.items():
        if value <= 0:
            raise InputError(f"objective.{name}={value} must be above 0")
    if not 0 <= momentum <= 1:
        raise InputError(f"objective.momentum={momentum} is outside [0, 1]; nearest: {min(1, max(0, momentum))}")
