"""Prints the commands that start a run on one machine or on a TPU slice; --yes runs them.

  lvit launch --on=local --processes=2 --devices=2 --config=configs/demo/mae.py --workdir=runs/mae --yes
  lvit launch --on=queued --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --cluster.tpu=v5e:4x4 \\
      --cluster.project=my-project --cluster.zone=us-west4-a --cluster.package='lvit_jax[tpu] @ git+https://...'

--on: local (processes on this machine), queued (queued resources: TPU v2 to v6e), gce (Compute Engine: v5p, v6e,
tpu7x), gke (a JobSet: v4 to tpu7x), skypilot (a managed job). All run the same `lvit train ... --distributed`, and the
same command resumes. Cluster fields come from configs/cluster.py, or from a copy of it given as --cluster=FILE, and are
set with --cluster.a=value. launch/README.md goes through each way.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

import lvit_jax
from lvit_jax.bin import app, flags, launch_local, launch_script, launch_tpu
from lvit_jax.errors import InputError, unknown
from lvit_jax.objectives import NEEDS_TEACHER


def main(argv: Sequence[str] | None = None) -> int:
    """Checks config, workdir and cluster, then prints the commands or, with --yes, runs them."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = flags.Parser("launch", __doc__)
    parser.add_argument("--on", required=True, help=f"local, {', '.join(launch_script.WAYS)}")
    parser.add_argument("--workdir", required=True, help="the folder of the run; gs://... where machines share it")
    parser.add_argument("--yes", action="store_true", help="run the commands")
    parser.add_argument("--processes", type=int, help="local: how many, 2 if not given")
    parser.add_argument("--devices", type=int, help="local: CPU devices that each process pretends to have")
    parser.add_argument("--cluster", help="a file like configs/cluster.py")
    fields = [arg for arg in argv if arg.startswith("--cluster.")]
    args, config = flags.parse_with_config(parser, [arg for arg in argv if arg not in fields])
    if args.on != "local" and args.on not in launch_script.WAYS:
        raise unknown("way of launching, --on", args.on, ("local", *launch_script.WAYS))
    overrides = [arg for arg in argv if arg.startswith("--config.")]
    for text in (args.workdir, args.config, *overrides, *fields):
        if not text.isprintable():
            raise InputError(f"{text!r} has a line break or another control character, which scripts do not keep")
    return _local(args, fields, overrides) if args.on == "local" else _remote(args, fields, overrides, config)


def _local(args: argparse.Namespace, fields: Sequence[str], overrides: Sequence[str]) -> int:
    for name, given in (("--cluster", args.cluster), *((field, True) for field in fields)):
        if given:
            raise InputError(f"{name} is not for --on=local; the nearest flags are --processes and --devices")
    processes = 2 if args.processes is None else args.processes
    for name, value in (("--processes", processes), ("--devices", args.devices)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value}; the least is 1")
    train = train_command(args.config, args.workdir, overrides)
    plan = launch_local.plan(train, processes, args.devices)
    if args.yes:
        return launch_local.run(plan, dict(os.environ))
    print("\n".join(map(launch_local.spell, plan)))
    _not_run()
    return 0


def _remote(args: argparse.Namespace, fields: Sequence[str], overrides: Sequence[str], config: ConfigDict) -> int:
    """Prints the script of a slice, or becomes it."""
    for name, given in (("--processes", args.processes), ("--devices", args.devices)):
        if given is not None:
            raise InputError(f"{name} is for --on=local; a slice has one process per machine (--cluster.tpu)")
    if not re.fullmatch(rf"gs://{launch_script.BUCKET}/[^/].*", args.workdir):
        raise InputError(f"--workdir={args.workdir}: the machines of a slice share no disk; write gs://BUCKET/FOLDER")
    cluster = flags.override(flags.load_config(args.cluster or "cluster"), fields, "cluster").to_dict()
    if cluster["tpu"] is None:
        raise InputError(f"--on={args.on} needs cluster.tpu; give --cluster.tpu=v5e:4x4 or another slice")
    tpu = launch_tpu.read_slice(cluster["tpu"])
    check_devices(config, tpu)
    if config.objective.name in NEEDS_TEACHER and not config.init.teacher:
        raise InputError(f"objective {config.objective.name!r} needs --config.init.teacher=WORKDIR")
    train = train_command(portable(args.config), args.workdir, overrides)
    text = launch_script.script(args.on, launch_script.Job(train, tpu, cluster))
    if not args.yes:
        print(text)
        _not_run()
        return 0
    program = launch_script.WAYS[args.on].program
    if not shutil.which(program):
        raise InputError(f"{program!r} is not on the PATH; launch/README.md says how to install it")
    sys.stdout.flush()
    os.execvp("bash", ["bash", "-c", text])  # so that signals reach the script, which says what is left


def _not_run() -> None:
    print("# nothing was run; add --yes", file=sys.stderr)


def train_command(config: str, workdir: str, overrides: Sequence[str]) -> list[str]:
    """The one command of every way; the same again resumes."""
    return ["lvit", "train", f"--config={config}", f"--workdir={workdir}", *overrides, "--distributed"]


def portable(name: str) -> str:
    """The config as the workers can name it: by its place in configs/, which installs with the package.

    Raises:
      InputError: a file from elsewhere, which the workers do not have.
    """
    path = flags.config_path(name).resolve()
    home = Path(lvit_jax.__file__).resolve().parent
    for configs in (home / "configs", home.parent / "configs"):
        if path.is_relative_to(configs):
            return f"configs/{path.relative_to(configs)}"
    raise InputError(f"the workers do not have {path}; put it into configs/ of what cluster.package installs")


def check_devices(config: ConfigDict, tpu: launch_tpu.Slice) -> None:
    """A run that the slice's devices do not divide fails there after minutes; here at once."""
    wanted = config.mesh.devices
    if wanted is not None and wanted != tpu.devices:
        raise InputError(
            f"mesh.devices={wanted}, but {tpu.name} has {tpu.devices} devices; write None or {tpu.devices}"
        )
    fsdp, divisors = config.mesh.fsdp, [n for n in range(1, tpu.devices + 1) if tpu.devices % n == 0]
    if fsdp not in divisors:
        near = min(divisors, key=lambda n: abs(n - fsdp))
        raise InputError(f"mesh.fsdp={fsdp} does not divide the {tpu.devices} devices of {tpu.name}; nearest: {near}")
    for field, size, parts in (
        ("train.batch_size", config.train.batch_size, tpu.devices * config.train.accumulate),
        ("eval.batch_size", config.eval.batch_size, tpu.devices),
    ):
        if size % parts:
            near = max(parts, round(size / parts) * parts)
            raise InputError(
                f"{field}={size} does not divide over the {parts} parts of {tpu.name}; the nearest is {near}"
            )


if __name__ == "__main__":
    app.run(main)
