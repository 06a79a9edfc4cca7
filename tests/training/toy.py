"""A run small enough to test the loop with: a two-layer network on random data; also a program, to be killed."""

import argparse
import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.training.loop import Run, fit
from lvit_jax.training.mesh import make_mesh, place
from lvit_jax.training.optim import make_tx
from lvit_jax.training.step import make_init
from lvit_jax.tree import flatten
from lvit_jax.types import Aux, Objective, Variables

BATCH = 16


def forward(params, x):
    """[B,8] -> [B,4]."""
    hidden = jnp.tanh(x @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    return hidden @ params["fc2"]["kernel"]


def make_objective(noise=0.1, poison=None):
    """Regression on a frozen teacher of the same shape; `extra` counts images; NaN gradients at step `poison`."""

    def weights(rng):
        a, b = jax.random.split(rng)
        fc1 = {"kernel": jax.random.normal(a, (8, 16)), "bias": jnp.zeros(16)}
        return {"fc1": fc1, "fc2": {"kernel": jax.random.normal(b, (16, 4))}}

    def init(rng, batch):
        a, b = jax.random.split(rng)
        return Variables(weights(a), {"teacher": weights(b)}, {"seen": jnp.zeros((), jnp.int32)})

    def loss(params, state, batch, rng):
        x = batch["image"] + noise * jax.random.normal(rng, batch["image"].shape)
        error = forward(params, x) - forward(state.frozen["teacher"], batch["image"])
        value = jnp.mean(error**2)
        if poison is not None:  # the loss stays finite, its gradient does not
            value += jnp.sqrt(jnp.sum(0 * params["fc1"]["bias"]) + (state.step != poison - 1))
        extra = {"seen": state.extra["seen"] + batch["image"].shape[0]}
        return value, Aux({"error": jnp.mean(jnp.abs(error))}, extra)

    def predict(params, state, batch):
        return {"out": forward(params, batch["image"])}

    return Objective(init, loss, predict)


def batches(step):
    """Batch s is a function of s, as in the real pipeline; one broken image in every third."""
    while True:
        rng = np.random.default_rng((7, step))
        image = rng.normal(size=(BATCH, 8)).astype(np.float32)
        broken = np.eye(1, BATCH, 0, dtype=np.int32)[0] * (step % 3 == 0)
        yield {"image": image, "index": np.arange(BATCH), "broken": broken}
        step += 1


def make_run(workdir, *, steps=12, accumulate=1, ema=None, devices=None, poison=None, noise=0.1, **kwargs):
    """A Run of the toy; kwargs replace any of its fields."""
    objective = make_objective(noise, poison)
    sample = {"image": np.zeros((BATCH, 8), np.float32)}
    shapes = jax.eval_shape(objective.init, jax.random.key(0), sample).params
    optimizer = {"blr": 0.16, "warmup_epochs": 1, "weight_decay": 0.05, "clip": 1.0, "ema": ema}
    tx, schedule = make_tx(shapes, steps=steps, steps_per_epoch=2, batch_size=BATCH, **optimizer)
    mesh = make_mesh(devices)

    def init():
        return place(mesh, make_init(objective, tx), jax.random.key(3), sample, {}, {})

    settings = {"steps": steps, "seed": 5, "batch_size": BATCH, "accumulate": accumulate, "tensorboard": False}
    settings |= {"save_every": 4, "keep": 2, "log_every": 1}
    settings |= {"objective": objective, "tx": tx, "schedule": schedule, "batches": batches, "evals": ()}
    return Run(**settings | {"mesh": mesh, "init": init, "workdir": workdir} | kwargs)


def values(state):
    """Every saved number of a state, by name."""
    tree = {"params": state.params, "extra": state.extra, "step": state.step}
    flat = flatten(tree) | {f"opt/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def slowly(step):
    """Batches slow enough that the test can kill the run where it wants."""
    for batch in batches(step):
        time.sleep(0.05)
        yield batch


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--noise", type=float, default=0.1)
    for name in ("steps", "devices", "accumulate"):
        parser.add_argument(f"--{name}", type=int, default=None)
    args = parser.parse_args()
    options = {k: v for k, v in vars(args).items() if v is not None and k not in ("workdir", "slow")}
    state = fit(make_run(args.workdir, ema=0.9, batches=slowly if args.slow else batches, **options))
    np.savez(os.path.join(args.workdir, "final.npz"), **{k.replace("/", "."): v for k, v in values(state).items()})
    json.dump({"devices": len(state.params["fc1"]["kernel"].devices())}, sys.stdout)


if __name__ == "__main__":
    main()
