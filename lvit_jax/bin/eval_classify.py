"""Top-1, top-5 and mean-per-class accuracy of a fine-tuned run, on its own validation split or on other images.

  lvit eval_classify --workdir=runs/ft
  lvit eval_classify --workdir=runs/ft --source=folder:/my/other --split=val --json

Classes of another source are matched by name. mean_per_class leaves out the classes that have no image there; classes
is how many have some.
"""

from collections.abc import Sequence

from lvit_jax.bin import app, distributed, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Loads the run, measures, prints."""
    parser = flags.Parser("eval_classify", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a fine-tuned run")
    parser.add_argument("--source", help="a tfds name, folder:PATH or digits; default: the run's own")
    parser.add_argument("--split", help="default: the run's validation split")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the run's")
    parser.add_argument("--batch_size", type=int, help="default: the run's eval.batch_size")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    distributed.check_flags(args)
    app.start(args)
    from lvit_jax.build.trained import evaluate_classifier, load_trained

    trained = load_trained(args.workdir, ema=not args.no_ema)
    figures = evaluate_classifier(trained, args.source, args.split, args.data_dir, args.batch_size)
    app.report({"workdir": args.workdir, **figures}, args.json)
    return 0


if __name__ == "__main__":
    app.run(main)
