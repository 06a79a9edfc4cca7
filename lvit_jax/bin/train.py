"""Runs one config: pre-training, distillation or fine-tuning. The same command again resumes.

  lvit train --config=configs/pretrain/mae_tiny.py --workdir=runs/mae --config.data.source=folder:/my/images

With --grid it first tries settings, each on a part of the training images and scored on the rest of them:

  lvit train --config=configs/transfer/cars.py --workdir=runs/cars --grid=blr,layer_decay

A workdir holds config.json, checkpoints/, metrics/ (JSON lines), figures/ and tensorboard/.
"""

import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lvit_jax.bin import app, distributed, flags, grid, places
from lvit_jax.errors import InputError, Stopped
from lvit_jax.objectives import NEEDS_ENCODER, NEEDS_TEACHER


def main(argv: Sequence[str] | None = None) -> int:
    """Checks everything that can be checked, then trains to the end or goes on from the last checkpoint."""
    parser = flags.Parser("train", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--grid", metavar="FIELDS", help="try settings: blr,layer_decay or 'blr=0.01,0.02;epochs=5,9'")
    parser.add_argument("--json", action="store_true", help="with --grid: print one JSON object instead of a table")
    distributed.add_flags(parser)
    argv = list(sys.argv[1:] if argv is None else argv)
    args, config = flags.parse_with_config(parser, argv)
    if args.json and args.grid is None:
        raise InputError("--json is for --grid; the figures of a run are in metrics/")
    cells = None if args.grid is None else grid.make_cells(args.grid, config)
    distributed.check_flags(args)
    places.check_out(args.workdir, "--workdir")
    if cells:
        grid.check_place(args.workdir)
    app.start(args)
    if cells:
        return grid.search(cells, args.workdir, argv, train, args.json)
    train(config, args.workdir)
    return 0


def train(config: ConfigDict, workdir: str) -> bool:
    """Trains one config in one workdir; a demo config without teacher or encoder trains its demo's first.

    Returns:
      whether the run came to its end: it may have been preempted, and goes on when started again.
    """
    from etils import epath

    from lvit_jax.build.run import check_before_teacher

    role = "encoder" if config.objective.name in NEEDS_ENCODER else "teacher"
    needed = config.objective.name in NEEDS_TEACHER | NEEDS_ENCODER
    if needed and not config.init[role] and config.init.demo_teacher:
        place = str(epath.Path(workdir) / role)
        teacher = flags.check(flags.load_config(config.init.demo_teacher))
        check_before_teacher(config.to_dict(), teacher.to_dict(), workdir)
        config.init[role] = place
        if distributed.is_first():
            print(f"no {role} given: {config.init.demo_teacher} in {place}", file=sys.stderr)
        if not train(teacher, place):
            return False
    run, state = finish(config, workdir)
    return int(state.step) >= run.steps


def finish(config: ConfigDict, workdir: str) -> tuple[Any, Any]:
    """Trains one config in one workdir to its end, or until it is preempted: (its Run, its TrainState)."""
    from lvit_jax.build.run import build_run
    from lvit_jax.training.checkpoint import steps
    from lvit_jax.training.loop import fit
    from lvit_jax.training.mesh import check_shared
    from lvit_jax.training.record import write_record

    run, record = build_run(config.to_dict(), workdir)
    check_shared(workdir)
    if distributed.is_first():
        write_record(workdir, record)
    try:
        return run, fit(run)
    except KeyboardInterrupt:
        last = next(iter(steps(workdir)), 0)
        print(f"\nstopped; the same command goes on from step {last}", file=sys.stderr)
        raise
    except OSError as error:  # no mistake of the user's any more: started again, it may well go on
        raise Stopped(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    app.run(main)
