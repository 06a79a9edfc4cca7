"""A distillation of two real ViTs on four forced devices, cut in several ways: a program that test_fsdp.py runs."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from lvit_jax.data.synthetic import random_batch
from lvit_jax.models.vit import vit
from lvit_jax.objectives.distill import make_distill
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import Checkpoints, restore
from lvit_jax.training.optim import make_tx
from lvit_jax.training.step import make_init
from lvit_jax.tree import flatten

BATCH, STEPS = 16, 20
WAYS = {"one": (1, 1), "data": (4, 1), "fsdp": (4, 4), "both": (4, 2)}  # name -> devices, fsdp
SIZE = {"width": 64, "depth": 2, "heads": 4, "patch_size": 4, "dtype": "float32"}


def batch(step):
    return random_batch(BATCH, 16, seed=step)


def setting():
    """The objective with a teacher of the same size, and its optimizer with an average."""
    student, teacher = vit("vit_micro", **SIZE), vit("vit_micro", **SIZE)
    objective = make_distill(student, teacher, decoder="micro", pairs=((2, 2),))
    abstract = jax.eval_shape(objective.init, jax.random.key(0), batch(0)).params
    length = {"steps": STEPS, "steps_per_epoch": 5, "batch_size": BATCH, "warmup_epochs": 1}
    return objective, make_tx(abstract, blr=1.5e-3, weight_decay=0.05, ema=0.9, **length)[0]


def start(mesh):
    objective, tx = setting()
    return mesh_lib.place(mesh, make_init(objective, tx), jax.random.key(3), batch(0), {}, {})


def train(name, workdir):
    """20 steps cut in one way, the last state saved: losses, FLOPs per device, bytes of one kernel and its moment."""
    (objective, tx), mesh = setting(), mesh_lib.make_mesh(*WAYS[name])
    state, seed = start(mesh), jax.device_put(np.uint32(5), mesh_lib.replicated(mesh))
    gradient = jax.jit(jax.grad(lambda p, s, b: objective.loss(p, s, b, jax.random.key(0))[0]))
    first = gradient(state.params, state, mesh_lib.put(mesh, batch(0)))
    np.savez(workdir / f"{name}.npz", **{k.replace("/", "."): np.asarray(v) for k, v in flatten(first).items()})
    step = mesh_lib.jit_step(mesh, objective, tx, state).lower(state, mesh_lib.put(mesh, batch(0)), seed).compile()
    kernels = {
        "params": state.params["encoder"]["block_0"]["mlp"]["fc1"]["kernel"],
        "frozen": state.frozen["teacher"]["block_0"]["mlp"]["fc2"]["kernel"],
        "moment": next(x for x in jax.tree.leaves(state.opt_state) if x.shape == (64, 256)),
        "bias": state.params["encoder"]["block_0"]["mlp"]["fc1"]["bias"],
    }
    held = {key: leaf.addressable_shards[0].data.nbytes / leaf.nbytes for key, leaf in kernels.items()}
    losses = []
    for n in range(STEPS):
        state, metrics = step(state, mesh_lib.put(mesh, batch(n)), seed)
        losses.append(float(metrics["loss"]))
    with Checkpoints(workdir / name, keep=1) as checkpoints:
        checkpoints.save(STEPS, state)
    return {"losses": losses, "flops": step.cost_analysis()["flops"], "held": held}


def restored(first, then, workdir):
    """A checkpoint of one way, restored onto another: whether every number is the same and lies as it should."""
    objective, tx = setting()
    state = jax.eval_shape(make_init(objective, tx), jax.random.key(3), batch(0), {}, {})

    def read(way):
        placed = mesh_lib.shardings(mesh_lib.make_mesh(*WAYS[way]), state)
        wanted = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed)
        loaded = restore(workdir / first, wanted).replace(frozen={})
        laid = jax.tree.map(lambda x, s: x.sharding == s, loaded, placed.replace(frozen={}))
        return jax.tree.leaves(loaded), all(jax.tree.leaves(laid))

    (ours, laid_out), (theirs, _) = read(then), read(first)
    equal = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return {"equal": equal, "laid_out": laid_out}


def main(workdir):
    results = {name: train(name, workdir) for name in WAYS}
    results["restored"] = {f"{a}-{b}": restored(a, b, workdir) for a, b in (("fsdp", "one"), ("one", "fsdp"))}
    (workdir / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
