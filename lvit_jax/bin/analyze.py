"""What encoders have learnt: CKA between their layers, reach and breadth of their attention, attention maps.

  lvit analyze --workdir=runs/deit --against=runs/mae,runs/d2,untrained:runs/mae --out=analysis
  lvit analyze --workdir=runs/mae --source=folder:/my/images --queries='7,7;3,10' --block=12 --out=analysis

The first model is compared with itself and with the others, on the same images, each prepared as its model wants them.
Writes analysis.json, analysis.npz and figures (.png and .svg, for light and dark paper) into --out.
"""

import io
import json
import math
from argparse import Namespace
from collections.abc import Sequence

from lvit_jax.bin import app, flags, places
from lvit_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the models, measures all, draws all, and then writes the folder in one go."""
    parser = flags.Parser("analyze", __doc__)
    parser.add_argument("--workdir", required=True, help="a run or an import; untrained:DIR for fresh weights")
    parser.add_argument("--against", help="others, with commas between them")
    parser.add_argument("--out", required=True, help="a new folder for the results")
    parser.add_argument("--source", help="a tfds name, folder:PATH or digits; default: the first run's own")
    parser.add_argument("--split", help="default: the first run's validation images")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the first run's")
    parser.add_argument("--images", type=int, default=1024, help="how many, drawn at random")
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images of CKA's mini-batches, the n of its formula"
    )
    parser.add_argument("--queries", help="'row,column;...' of patches whose attention is drawn; default: the middle")
    parser.add_argument("--block", type=int, help="whose attention is drawn, from 1; default: the last")
    parser.add_argument("--map_images", type=int, default=4, help="how many images to draw attention on")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where a run averages them")
    parser.add_argument("--json", action="store_true", help="print analysis.json, on one line")
    args = parser.parse_args(argv)
    queries = _queries(args.queries)
    for flag in ("images", "map_images"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag}={getattr(args, flag)}; the least is 1")
    out = _new_folder(args.out)
    places.check_models(_models(args))
    app.start()
    figures, files = _analysis(args, queries)
    _write(out, files)
    app.report(figures if args.json else _summary(figures) | {"out": args.out}, args.json)
    return 0


def _queries(text: str | None) -> list[tuple[int, int]] | None:
    """'7,7;3,10' -> [(7, 7), (3, 10)]"""
    if text is None:
        return None
    try:
        pairs = [tuple(map(int, pair.split(","))) for pair in text.split(";")]
    except ValueError:
        pairs = [()]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"--queries={text!r} is no list of patches; write --queries='row,column;row,column'")
    return pairs


def _new_folder(name: str):
    from etils import epath

    out = epath.Path(name.rstrip("/"))
    if out.exists():
        raise InputError(f"--out={name} exists already; remove it or name another folder")
    places.check_out(name)
    return out


def _models(args: Namespace) -> list[str]:
    return [args.workdir, *(args.against.split(",") if args.against else [])]


def _write(out, files: dict[str, bytes]) -> None:
    part = out.with_name(out.name + ".part")
    if part.exists():
        part.rmtree()  # of a start that was killed while it wrote
    part.mkdir(parents=True)
    for name, contents in files.items():
        (part / name).write_bytes(contents)
    part.replace(out)


def _analysis(args: Namespace, queries: list[tuple[int, int]] | None) -> tuple[dict, dict[str, bytes]]:
    """(the contents of analysis.json, {file name: contents} of all files)"""
    from lvit_jax.build import analysis, maps
    from lvit_jax.build.images import open_chosen

    models = analysis.load_models(_models(args), ema=not args.no_ema)
    wishes = maps.check_queries(models, queries, args.block)
    source = open_chosen(next(iter(models.values())), args.source, args.split, args.data_dir)
    source = analysis.choose_images(source, args.images, args.batch_size)
    figures, arrays = analysis.analyse(models, source, args.batch_size)
    drawn = {label: maps.draw_maps(models[label], source, args.map_images, *wish) for label, wish in wishes.items()}
    arrays |= {f"maps/{label}": found.weights for label, found in drawn.items()}
    return figures, _files(figures, arrays, drawn)


def _files(figures: dict, arrays: dict, maps: dict) -> dict[str, bytes]:
    import numpy as np

    from lvit_jax.bin import analyze_figures as drawings
    from lvit_jax.bin.figures import render

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files = {"analysis.json": (json.dumps(figures, indent=2) + "\n").encode(), "analysis.npz": buffer.getvalue()}
    files |= render("cka", lambda: drawings.cka(figures["cka"]))
    for what in drawings.AXES:
        files |= render(f"attention_{what}", lambda what=what: drawings.heads(figures["models"], what))
    for label, found in maps.items():
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in label)
        files |= render(f"attention_maps_{name}", lambda label=label, found=found: drawings.maps(label, found))
    return files


def _summary(figures: dict) -> dict[str, object]:
    """For a person: what each model has of the first one, layer by layer, and its heads' means, block by block."""
    shown = {key: figures[key] for key in ("source", "split", "images", "cka_images")}
    for pair in figures["cka"]:
        # A layer that is the same for all images, as of a collapsed model, is like none.
        best = [
            max((value for value in row if value is not None), default=math.nan) for row in pair["rows_are_layers_of_y"]
        ]
        shown[f"{pair['y']}: CKA with the nearest layer of {pair['x']}"] = _line(best, 2)
    for model in figures["models"]:
        for what, unit in (("distance", "pixels"), ("entropy", "nats")):
            means = [sum(block) / len(block) for block in model[what]]
            shown[f"{model['label']}: attention {what}, {unit}"] = _line(means, 2)
    return shown


def _line(values: Sequence[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


if __name__ == "__main__":
    app.run(main)
