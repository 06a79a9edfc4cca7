"""Accuracy of every layer of a frozen encoder: by k nearest neighbours and, with --linear, by linear probes.

  lvit eval_probe --workdir=runs/mae                       # k-NN on the run's own images
  lvit eval_probe --workdir=untrained:runs/mae --json      # the same architecture with fresh weights, to compare with
  lvit eval_probe --workdir=runs/mae --out=runs/mae_probe --linear --config.train.epochs=50

Layer 0 is the patch embedding, the last one the end of the encoder. Any run or import with an encoder will do. Linear
probes are a run like others, in OUT/linear: of all layers at once, and resumed by the same command.
"""

import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lvit_jax.bin import app, distributed, flags, places, probe_report
from lvit_jax.errors import InputError, Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Loads the encoder, measures, prints, writes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args([arg for arg in argv if not arg.startswith("--config.")])
    distributed.check_flags(args)
    args.layers, args.k = numbers("layers", args.layers), numbers("k", args.k)
    args.pools = tuple(args.pools.split(",")) if args.pools else ()
    args.overrides = [arg for arg in argv if arg.startswith("--config.")]
    if (args.linear or args.overrides) and not (args.linear and args.out):
        raise InputError("linear probes are trained in a folder and by a config: name both, --out=DIR --linear")
    if args.linear and args.no_ema:
        raise InputError("--no-ema is for k-NN alone: linear probes read the weights that other runs start from")
    if args.linear:  # misspelt keys are told at once
        flags.override(flags.load_config(args.linear), args.overrides)
    if args.k and min(args.k) < 1:
        raise InputError(f"--k={min(args.k)}; the least is 1")
    places.check_models([args.workdir])
    if args.out:
        places.check_out(args.out)
    app.start(args)
    figures = measure(args)
    if args.out and distributed.is_first():
        probe_report.write(args.out, figures)
    if args.json:
        app.report(figures, True)
    elif distributed.is_first():
        print(probe_report.table(figures))
    return 0


def _parser() -> flags.Parser:
    parser = flags.Parser("eval_probe", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a run or an import; or untrained:FOLDER")
    parser.add_argument("--source", help="a tfds name, folder:PATH or digits; default: the run's own")
    parser.add_argument("--train_split", help="the images whose labels are known; default: the run's")
    parser.add_argument("--val_split", help="the images that are judged; default: the run's")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the run's")
    parser.add_argument("--layers", help="such as 6,12; default: all")
    parser.add_argument("--pools", help="mean, cls; default: both where there is a CLS token")
    parser.add_argument("--k", default="10,20,100,200", help="numbers of neighbours")
    parser.add_argument("--linear", nargs="?", const="probe/linear", metavar="CONFIG", help="default: probe/linear")
    parser.add_argument("--out", help="a folder for probe.json, probe.png and .svg, and the run of the linear probes")
    parser.add_argument("--batch_size", type=int, help="of what is not trained; default: the run's eval.batch_size")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    return parser


def measure(args: Any) -> dict[str, Any]:
    """{'workdir', 'source', 'train_split', 'val_split', 'bank', 'examples', 'rows': see `build.probe.knn_rows`}.

    With --linear each row has 'linear': {'top1', 'top5' in percent, 'loss' in nats} too.
    """
    from lvit_jax.build.backbone import labelled_splits, load_backbone
    from lvit_jax.build.probe import check_bank, choose_spots, knn_rows, linear_config, linear_figures

    backbone = load_backbone(args.workdir, ema=not args.no_ema)
    layers, pools = choose_spots(backbone, args.layers, args.pools)
    own = {"train_split": args.train_split, "val_split": args.val_split, "data_dir": args.data_dir}
    train, val = labelled_splits(backbone, args.source, **own)
    names = {"workdir": args.workdir, "source": train.name, "train_split": train.split, "val_split": val.split}
    check_bank(backbone, args.k, train, val, args.batch_size)  # before hours of training
    linear = None
    if args.linear:
        own["source"] = args.source
        linear = train_linear(args, linear_config(flags.load_config(args.linear), backbone, layers, pools, own))
    rows = knn_rows(backbone, train, val, layers, pools, args.k, args.batch_size)
    if linear:
        rows = linear_figures(*linear, rows)
    return {**names, "bank": train.size, "examples": val.size, "rows": rows}


def train_linear(args: Any, config: ConfigDict) -> tuple[Any, Any]:
    """The finished run of the linear probes in OUT/linear, and its state."""
    from lvit_jax.bin.train import finish

    run, state = finish(flags.check(flags.override(config, args.overrides)), f"{args.out}/linear")
    if int(state.step) < run.steps:
        raise Stopped(f"the linear probes were preempted at step {int(state.step)}; the same command goes on")
    return run, state


def numbers(flag: str, text: str | None) -> tuple[int, ...]:
    """'6,12' -> (6, 12)."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--{flag}={text} is no list of numbers; write --{flag}=6,12") from None


if __name__ == "__main__":
    app.run(main)
