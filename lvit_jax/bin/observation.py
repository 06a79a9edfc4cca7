"""The papers' observation in miniature: what equal updates of MAE, MoCo-v3 and D² teach a small ViT, beside none.

  lvit observation --workdir=runs/observation           # on the bundled digits, some twelve minutes on two cores
  lvit observation --workdir=runs/cifar10 --labels=500,5000 --steps=2000 \\
      --config.data.source=folder:/data/cifar10 --config.data.val_split=test --config.data.statistics=cifar10 \\
      --config.data.flip=0.5 --config.model.image_size=32 --config.model.patch_size=4 --config.model.channels=3

Pre-trains a teacher and, with equal updates on equal images, a student by MAE, MoCo-v3 and D²-MAE; fine-tunes each and
an untrained one on several numbers of labels; measures accuracy by layer, CKA to the supervised model, and attention.
Writes WORKDIR/report/index.html and observation.json. Stopped and started again, it goes on where it was.
--config.a.b=value goes to every run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lvit_jax.bin import app, flags, places
from lvit_jax.bin.observation_plan import Plan, all_steps
from lvit_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the commands of all steps, runs them, and writes the report."""
    argv = list(sys.argv[1:] if argv is None else argv)
    overrides = tuple(arg for arg in argv if arg.startswith("--config."))
    parser = flags.Parser("observation", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder for all runs and the report")
    parser.add_argument("--steps", type=int, default=800, help="updates of each pre-training")
    parser.add_argument("--labels", default="50,200", help="numbers of labels to fine-tune on, beside all")
    parser.add_argument("--seeds", type=int, default=3, help="of fine-tuning with few labels; they also draw these")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object at the end")
    args = parser.parse_args([arg for arg in argv if arg not in overrides])
    plan = Plan(Path(args.workdir), args.steps, _numbers(args.labels), args.seeds, 1, overrides)
    _check(plan)
    places.check_out(args.workdir, "--workdir")
    app.start()
    from lvit_jax.bin import observation_report, observation_run

    plan = plan._replace(images=observation_run.count_images(plan))
    results = observation_run.run_all(plan)
    page = observation_report.write(plan, results)
    print("\n" + "\n".join(results["findings"]) + f"\n\nreport: {page}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        app.report(results, True)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    """'50,100' -> (50, 100)"""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise InputError(f"--labels={text!r} is no list of numbers; write --labels=50,100") from None


def _check(plan: Plan) -> None:
    """What is wrong with the flags or with a field of a config is told before anything starts."""
    for flag, value, least in (("steps", plan.steps, 4), ("labels", plan.labels[0], 1), ("seeds", plan.seeds, 1)):
        if value < least:
            raise InputError(f"--{flag}={value}; the least is {least}")
    if (plan.root / "config.json").exists():
        raise InputError(f"--workdir={plan.root} holds another run; name a folder of its own")
    for step in all_steps(plan):
        if step.binary == "train":
            parser = flags.Parser("train", "")
            parser.add_argument("--workdir")
            flags.parse_with_config(parser, step.argv)


if __name__ == "__main__":
    app.run(main)
