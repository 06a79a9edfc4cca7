"""Twenty steps of MoCo-v3 on one and on four forced host devices, saved for test_moco_runs.py: run as a program."""

import sys

import jax
import numpy as np
import optax
from common import small

from lvit_jax.objectives.moco import make_moco
from lvit_jax.training.mesh import make_mesh, place, put
from lvit_jax.training.step import make_init, make_step
from lvit_jax.tree import flatten


def batch(step):
    """32 images in two views."""
    image = np.random.default_rng((3, step)).standard_normal((32, 2, 8, 8, 3), np.float32)
    return {"image": image}


def run(devices):
    """{name: array}: losses of the steps; gradients (SGD's first momentum) and extra after the first."""
    objective = make_moco(small(width=32, depth=1, heads=2), steps=20, hidden=32, dim=16)
    tx, mesh = optax.chain(optax.trace(0.9), optax.scale(-0.003)), make_mesh(devices)
    state = place(mesh, make_init(objective, tx), jax.random.key(0), batch(0), {}, {})
    step, losses = jax.jit(make_step(objective, tx, seed=0)), []
    values = {}
    for number in range(20):
        state, metrics = step(state, put(mesh, batch(number)))
        losses.append(metrics["loss"])
        if not number:
            values |= {f"grads/{name}": leaf for name, leaf in flatten(state.opt_state[0].trace).items()}
            values |= {f"extra/{name}": leaf for name, leaf in flatten(state.extra).items()}
    assert len(losses[0].devices()) == devices
    return {name: np.asarray(leaf) for name, leaf in values.items()} | {"losses": np.array(losses)}


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        for count in (1, 4):
            np.savez(f"{sys.argv[1]}/{count}.npz", **{k.replace("/", "."): v for k, v in run(count).items()})
