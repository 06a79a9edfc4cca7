"""Features of images as a table with their names: Parquet or NPZ, of any layer, pooled.

  lvit embed --workdir=runs/mae --source=folder:/my/images --split=train --out=train.parquet
  lvit embed --workdir=runs/mae --images=/any/tree/of/images --layer=9 --pool=cls --out=features.npz

Columns: name, label and class (where images have them), feature. A command that was stopped goes on where it is given
again: its parts lie in OUT.parts until all are there. An image that cannot be read is named on stderr and left out.
"""

from collections.abc import Sequence
from pathlib import PurePath

from lvit_jax.bin import app, distributed, flags, places
from lvit_jax.build.table import MERGE
from lvit_jax.errors import InputError, unknown

POOLS = ("mean", "cls", "dist")


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the flags, reads the model, makes the table."""
    parser = flags.Parser("embed", __doc__)
    parser.add_argument("--workdir", required=True, help="a run or an import; untrained:DIR for fresh weights")
    parser.add_argument(
        "--out", required=True, help="a new file, NAME.parquet or NAME.npz (this one passes through memory)"
    )
    parser.add_argument("--source", help="a tfds name, folder:PATH or digits; default: the run's own")
    parser.add_argument("--split", help="default: the validation images")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the run's")
    parser.add_argument("--images", help="instead of a source: a folder of images, searched through, without labels")
    parser.add_argument("--layer", type=int, help="0: what the first block sees, ..., -1: the last; default: -1")
    parser.add_argument("--pool", default="mean", help="mean over the patches; cls; dist (a distillation token)")
    parser.add_argument("--batch_size", type=int, help="default: the run's eval.batch_size")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    distributed.check_flags(args)
    if PurePath(args.out).suffix not in MERGE:
        raise unknown("suffix of --out", PurePath(args.out).suffix, MERGE)
    if args.pool not in POOLS:
        raise unknown("--pool", args.pool, POOLS)
    if args.images and (args.source or args.split or args.data_dir):
        raise InputError("--images is a folder of its own; leave out --source, --split and --data_dir, or --images")
    from etils import epath

    out = epath.Path(args.out)
    if out.exists():
        raise InputError(f"--out={args.out} exists already; remove it or name another file")
    places.check_out(str(out.parent))
    places.check_models([args.workdir])
    app.start(args)
    from lvit_jax.build.backbone import load_backbone
    from lvit_jax.build.embed import choose, embed
    from lvit_jax.build.images import open_chosen
    from lvit_jax.data.folders import open_images

    model = load_backbone(args.workdir, ema=not args.no_ema)
    choice = choose(model, args.layer, args.pool)
    chosen = (args.source, args.split, args.data_dir)
    source = open_images(args.images) if args.images else open_chosen(model, *chosen)
    size = model.config["eval"]["batch_size"] if args.batch_size is None else args.batch_size
    figures = embed(model, source, choice, size, out)
    app.report({"out": args.out, **choice._asdict(), **figures}, args.json)
    return 0


if __name__ == "__main__":
    app.run(main)
