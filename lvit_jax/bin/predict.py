"""The five most probable classes of each image in a folder, as CSV (default) or JSON.

lvit predict --workdir=runs/ft --images=/my/new/images > predictions.csv
"""

import collections
import csv
import json
import sys
from collections.abc import Iterable, Sequence

from lvit_jax.bin import app, distributed, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Classifies every image under the folder; one that cannot be read is named on stderr and left out."""
    parser = flags.Parser("predict", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a fine-tuned run")
    parser.add_argument("--images", required=True, help="a folder of images, searched through")
    parser.add_argument("--top", type=int, default=5, help="classes per image")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of CSV")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    distributed.check_flags(args)
    app.start(args)
    from lvit_jax.build.trained import load_trained, predict_folder

    trained = load_trained(args.workdir, ema=not args.no_ema)
    rows = predict_folder(trained, args.images, args.batch_size, args.top)
    if not distributed.is_first():
        collections.deque(rows, maxlen=0)  # its part of the work
        return 0
    (write_json if args.json else write_csv)(rows)
    return 0


def write_csv(rows: Iterable[tuple[str, list[tuple[str, float]]]]) -> None:
    """name, class_1, probability_1, class_2, ..."""
    writer = csv.writer(sys.stdout)
    for i, (name, guesses) in enumerate(rows):
        if i == 0:
            writer.writerow(
                ["name"] + [f"{what}_{k + 1}" for k in range(len(guesses)) for what in ("class", "probability")]
            )
        writer.writerow([name] + [cell for label, p in guesses for cell in (label, f"{p:.6f}")])


def write_json(rows: Iterable[tuple[str, list[tuple[str, float]]]]) -> None:
    """{"predictions": [{"name": ..., "classes": [...], "probabilities": [...]}]}, on one line."""
    predictions = [
        {"name": name, "classes": [label for label, _ in guesses], "probabilities": [p for _, p in guesses]}
        for name, guesses in rows
    ]
    print(json.dumps({"predictions": predictions}))


if __name__ == "__main__":
    app.run(main)
