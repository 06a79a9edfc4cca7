"""Makes a data set ready for training and evaluation: downloads it, or reads the archives that you have put in place.

  lvit prepare --source=cifar100
  lvit prepare --source=imagenet2012 --data_dir=/data/tfds

A name of tensorflow_datasets ('name', 'name/config'), or one of ours. What may not be downloaded for you lies in
DATA_DIR/downloads/manual; `lvit doctor` says which archives. Written as ArrayRecord, which is read in any order.
"""

from collections.abc import Sequence

from lvit_jax.bin import app, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares, and prints the splits."""
    parser = flags.Parser("prepare", __doc__)
    parser.add_argument("--source", required=True, help="the data set, such as cifar100 or imagenet_v2/topimages")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: ~/tensorflow_datasets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    app.start()
    from lvit_jax.data.prepared import prepare

    app.report({"source": args.source, "splits": prepare(args.source, args.data_dir)}, args.json)
    return 0


if __name__ == "__main__":
    app.run(main)
