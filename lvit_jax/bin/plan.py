"""What a run takes on a TPU, without a TPU: parameters, FLOPs, memory against what the chip has, time.

  lvit plan --config=configs/pretrain/mae_tiny.py --topology=v5e:4x4
  lvit plan --config=configs/pretrain/d2_tiny.py --teacher=vit_base --topology=v6e:2x4 --sweep=batch

The real step is compiled with libtpu (pip install 'lvit_jax[tpu]'; nothing is run, no data and no weights are read).
Full-size models take minutes on two cores. Without libtpu it says what can be told from shapes.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from lvit_jax.bin import app, flags
from lvit_jax.errors import InputError, unknown
from lvit_jax.models import ENCODERS
from lvit_jax.training.chips import CHIPS, libtpu_environment, parse_topology

RINGS = (
    "the compiler counts fewer FLOPs than there are: it made loops, in which shards go round a ring, and counts each"
    " loop's body once"
)
SWEEPS = ("batch", "remat", "fsdp")
MISSING = (
    "libtpu is not installed: HBM bytes, temporaries, whether it fits, and collectives are unknown, and time is that"
    " of the matrix units alone; pip install 'lvit_jax[tpu]', or the libtpu that your jax names in its extra 'tpu'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks names and shapes at once, then counts, compiles and prints."""
    parser = flags.Parser("plan", __doc__)
    parser.add_argument("--topology", required=True, help=f"CHIP:SHAPE, as v5e:4x4; chips: {', '.join(CHIPS)}")
    parser.add_argument("--slices", type=int, default=1, help="how many such slices, data parallel across them")
    parser.add_argument("--teacher", help="where init.teacher names none: its size, as vit_base, or its config")
    parser.add_argument("--images", type=int, help="of the training set, where it is not ImageNet or digits")
    parser.add_argument("--classes", type=int, help="of the data, likewise")
    parser.add_argument(
        "--efficiency", type=float, default=0.5, help="share of the roofline's rate that the hours are reckoned with"
    )
    parser.add_argument("--sweep", help=f"find the largest batch that fits, over: {', '.join(SWEEPS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, config = flags.parse_with_config(parser, argv)
    topology = parse_topology(args.topology, args.slices)
    _check(args)
    teacher = _teacher(args.teacher)
    os.environ.update(libtpu_environment(topology))  # before jax is imported
    app.start()
    from lvit_jax.build.plan import make_job, plan, sweep

    job = make_job(config.to_dict(), topology, args.images, args.classes, teacher)
    if args.sweep:
        rows = sweep(job, args.sweep, _say)
        app.report({"topology": str(topology), "sweep": rows} if args.json else _rows(rows), args.json)
        return 0
    figures = plan(job, args.efficiency, _say)
    app.report(figures if args.json else lines(figures), args.json)
    return 0


def _teacher(name: str | None) -> str | dict[str, Any] | None:
    """A size as it is, a config as a dict."""
    if name is None or name in ENCODERS:
        return name
    if "/" not in name and not name.endswith(".py"):
        raise unknown("teacher", name, ENCODERS)
    return flags.check(flags.load_config(name)).to_dict()


def _check(args: Any) -> None:
    if args.sweep and args.sweep not in SWEEPS:
        raise unknown("sweep", args.sweep, SWEEPS)
    if not 0 < args.efficiency <= 1:
        raise InputError(f"--efficiency={args.efficiency}; it is a share above 0, at most 1")
    for name in ("images", "classes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}={value}; the least is 1")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def lines(figures: dict[str, Any]) -> dict[str, str]:
    """The figures of `build.plan.plan` as a table for a person."""
    chips, size, accumulate = (figures[key] for key in ("chips", "batch_size", "accumulate"))
    mesh = " ".join(f"{axis}={count}" for axis, count in figures["mesh"].items())
    shown = {
        "topology": f"{figures['topology']}, {chips} chip(s), mesh {mesh}",
        "batch": f"{size}: {size / chips:g} a chip, in {accumulate} microbatch(es); remat {figures['remat']}",
        "parameters": f"{_si(figures['parameters'])} trained, {_si(figures['frozen_parameters'])} frozen",
        "FLOPs per image": f"{_si(figures['flops_per_image'])} in matrix products and convolutions, both passes; "
        f"the compiler counts {_si(figures['compiler_flops_per_image'])}",
        "HBM bytes per image": _si(figures["hbm_bytes_per_image"]),
        "memory per chip": _memory(figures["memory"]),
        "least time per step": _roofline(figures["roofline"]),
        "images/s/chip": _rate(figures),
        "whole run": f"{figures['hours']:.1f} hours: {figures['steps']} steps at {figures['efficiency']:.0%} of that",
        "collectives per step": _collectives(figures["collectives"]),
    }
    if not figures["compiled"]:
        return shown | {"missing": MISSING}
    theirs = figures["compiler_flops_per_image"]
    return shown | {"note": RINGS} if theirs and theirs < 0.9 * figures["flops_per_image"] else shown


def _si(count: float | None) -> str:
    if count is None:
        return "unknown"
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.4g}T"


def _memory(memory: dict[str, Any]) -> str:
    available = f"{memory['available_gib']:.2f} GiB available (the chip has {memory['chip_gib']})"
    if memory["total_gib"] is None:
        verdict = "" if memory["fits"] is None else f": does not fit, by at least {memory['over_gib']:.2f} GiB"
        return f"at least {memory['state_and_batch_gib']:.2f} GiB (state and batch) of {available}{verdict}"
    if memory["arguments_gib"] is None:
        parts = f"{memory['total_gib']:.2f} GiB, of which state and batch {memory['state_and_batch_gib']:.2f}"
    else:
        parts = f"arguments {memory['arguments_gib']:.2f} + temporaries {memory['temporaries_gib']:.2f}"
        parts += f" = {memory['total_gib']:.2f} GiB"
    verdict = "fits" if memory["fits"] else f"does not fit, by {memory['over_gib']:.2f} GiB"
    return f"{parts} of {available}: {verdict}"


def _roofline(time: dict[str, Any]) -> str:
    memory = "unknown" if time["memory_s"] is None else f"{1e3 * time['memory_s']:.2f} ms"
    binds = "" if time["memory_s"] is None else f": {time['bound']} binds"
    return f"compute {1e3 * time['compute_s']:.2f} ms, HBM {memory}{binds}"


def _rate(figures: dict[str, Any]) -> str:
    """The compute bound holds whatever the compiler does; the other takes the bytes that it counts."""
    compute = f"{figures['images_per_s_per_chip_compute']:.0f} if the matrix units never waited"
    if figures["roofline"]["memory_s"] is None:
        return f"at most {compute}"
    return f"at most {figures['images_per_s_per_chip']:.0f} ({compute})"


def _collectives(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not readable"
    each = [f"{kind} {value['count']} ({value['mib']:.1f} MiB)" for kind, value in found.items()]
    return ", ".join(each) or "none"


def _rows(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A line per row of a sweep."""
    shown = {}
    for row in rows:
        value = next((f"{key}={row[key]}" for key in SWEEPS if key in row), "batch")
        found = (
            f"largest batch {row['batch_size']}: {row['total_gib'] or 0:.2f} of {row['available_gib']:.2f} GiB a chip"
        )
        shown[value] = found if row["batch_size"] else "does not fit even with one image a device"
    return shown


if __name__ == "__main__":
    app.run(main)
