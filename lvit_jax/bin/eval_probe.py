"""Accuracy of every layer of an encoder, frozen: by k nearest neighbours.

  lvit eval_probe --workdir=runs/mae                       # on the run's own images, in seconds where these are few
  lvit eval_probe --workdir=untrained:runs/mae --json      # the same architecture with fresh weights, to compare with

Layer 0 is the patch embedding, the last one the end of the encoder. Any run or import with an encoder will do.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lvit_jax.bin import app, distributed, flags
from lvit_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Loads the encoder, measures, prints."""
    parser = flags.Parser("eval_probe", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a run or an import; or untrained:FOLDER")
    parser.add_argument("--source", help="a tfds name, folder:PATH or digits; default: the run's own")
    parser.add_argument("--train_split", help="the images whose labels are known; default: the run's")
    parser.add_argument("--val_split", help="the images that are judged; default: the run's")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the run's")
    parser.add_argument("--layers", help="such as 6,12; default: all")
    parser.add_argument("--pools", help="mean, cls; default: both where there is a CLS token")
    parser.add_argument("--k", default="10,20,100,200", help="numbers of neighbours")
    parser.add_argument("--batch_size", type=int, help="default: the run's eval.batch_size")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    distributed.check_flags(args)
    args.layers, args.k = numbers("layers", args.layers), numbers("k", args.k)
    args.pools = tuple(args.pools.split(",")) if args.pools else ()
    app.start(args)
    figures = measure(args)
    if args.json:
        app.report(figures, True)
    elif distributed.is_first():
        print(table(figures))
    return 0


def measure(args: Any) -> dict[str, Any]:
    """{'workdir', 'source', 'train_split', 'val_split', 'bank', 'examples', 'rows': see `build.probe.knn_rows`}."""
    from lvit_jax.build.backbone import labelled_splits, load_backbone
    from lvit_jax.build.probe import choose_spots, knn_rows

    backbone = load_backbone(args.workdir, ema=not args.no_ema)
    layers, pools = choose_spots(backbone, args.layers, args.pools)
    train, val = labelled_splits(backbone, args.source, args.train_split, args.val_split, args.data_dir)
    names = {"workdir": args.workdir, "source": train.name, "train_split": train.split, "val_split": val.split}
    rows = knn_rows(backbone, train, val, layers, pools, args.k, args.batch_size)
    return {**names, "bank": train.size, "examples": val.size, "rows": rows}


def numbers(flag: str, text: str | None) -> tuple[int, ...]:
    """'6,12' -> (6, 12)."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--{flag}={text} is no list of numbers; write --{flag}=6,12") from None


def table(figures: dict[str, Any]) -> str:
    """Top-1 in percent, a line per layer and pooling."""
    columns: dict[str, Callable] = {"layer": lambda row: f"{row['layer']}", "pool": lambda row: row["pool"]}
    for k in figures["rows"][0]["knn"]:
        columns[f"{k}-NN"] = lambda row, k=k: f"{row['knn'][k]['top1']:.1f}"
    lines = [list(columns), *([cell(row) for cell in columns.values()] for row in figures["rows"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
    about = f"top-1, %, of {figures['examples']} images of {figures['source']} ({figures['val_split']}), "
    return about + f"{figures['bank']} labelled ones ({figures['train_split']}) to compare with\n{text}"


if __name__ == "__main__":
    app.run(main)
