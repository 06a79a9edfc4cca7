"""`lvit bench probe`: a step of linear probes on every layer and pooling, beside one of a single probe."""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

from lvit_jax.bin.bench_step import SIZES, timed
from lvit_jax.errors import unknown


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `lvit bench probe`."""
    parser.add_argument("--model", default="vit_tiny", help=", ".join(SIZES))
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each times one side, then the other")
    parser.add_argument("--steps", type=int, default=2, help="steps per round and side")


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per step of both, in turn in one process, and the median over rounds of their ratio."""
    if flags.model not in SIZES:
        raise unknown("plain ViT", flags.model, SIZES)
    depth = _encoder(flags).depth
    sides = {"one": side(flags, (depth,), ("cls",)), "all": side(flags, (), ())}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(flags.rounds):
        for name, step in sides.items():
            seconds[name].append(timed(step, flags.steps))
        times = ", ".join(f"{name} {1000 * values[-1]:.0f}" for name, values in seconds.items())
        print(f"round {number + 1}/{flags.rounds}  ms per step: {times}", file=sys.stderr)
    ratios = [b / a for a, b in zip(seconds["one"], seconds["all"], strict=True)]
    figures = {"model": flags.model, "image_size": flags.image_size, "batch": flags.batch, "dtype": flags.dtype}
    figures |= {"probes": 2 * (depth + 1), "classes": flags.classes}
    figures |= {f"{name}_ms": 1000 * statistics.median(values) for name, values in seconds.items()}
    return figures | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def _encoder(flags: argparse.Namespace) -> Any:
    from lvit_jax.models.vit import vit

    return vit(flags.model, dtype=flags.dtype)


def side(flags: argparse.Namespace, layers: tuple[int, ...], pools: tuple[str, ...]) -> Callable[[], None]:
    """A compiled and warm step of the probes on a batch that is already on the device."""
    import jax

    from lvit_jax.data.synthetic import random_batch
    from lvit_jax.objectives.probe import make_probe
    from lvit_jax.training import mesh as mesh_lib
    from lvit_jax.training.optim import make_tx
    from lvit_jax.training.step import make_init

    mesh = mesh_lib.make_mesh()
    objective = make_probe(_encoder(flags), classes=flags.classes, layers=layers, pools=pools)
    batch = mesh_lib.put(mesh, random_batch(flags.batch, flags.image_size, classes=flags.classes))
    abstract = jax.eval_shape(objective.init, jax.random.key(0), batch)
    plan = {"steps": 10_000, "steps_per_epoch": 100, "batch_size": flags.batch, "warmup_epochs": 1.0}
    tx, _ = make_tx(abstract.params, name="lars", blr=0.1, weight_decay=0.0, momentum=0.9, **plan)
    state = [mesh_lib.place(mesh, make_init(objective, tx), jax.random.key(0), batch, {}, {})]
    update = mesh_lib.jit_step(mesh, objective, tx, state[0])

    def step() -> None:
        state[0], metrics = update(state[0], batch, 0)
        jax.block_until_ready(metrics)

    step()
    return step
