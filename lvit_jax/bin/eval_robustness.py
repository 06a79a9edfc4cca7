"""How a fine-tuned classifier fares on ImageNet-A, -R, -V2, ReaL and -C, and on corruptions of one's own.

  lvit eval_robustness --workdir=runs/ft --source=imagenet_a,imagenet_r,imagenet_c --out=reports/ft
  lvit eval_robustness --workdir=runs/ft --source=folder:/my/corrupted --mapping=/my/corrupted/mapping.json
  lvit eval_robustness --workdir=runs/ft --corrupt        (the run's validation images; or --corrupt=1,3,5)

imagenet_a, imagenet_r        top-1 among the 200 classes of each
imagenet_v2                   and imagenet_v2/threshold-0.7, imagenet_v2/topimages: top-1
imagenet2012_real             top-1 against sets of labels; images without a label are left out
imagenet_c                    mCE by AlexNet's errors, and the mean error that no one's errors divide, of the published
                              images as they are stored; lvit_jax/data/builders/imagenet_c.py prepares the archives
imagenet2012_corrupted        the same of tfds' regenerated images, labelled so
folder:PATH                   error by corruption; --mapping is a JSON file
                              {"folders": {"rain/light": ["rain", 1], ...}, "classes": {"dogs": "dog", ...}}
                              of folders below PATH, each with class folders, and of class folders that the model calls
                              otherwise. Images of exactly the model's size are neither resized nor cropped.
--corrupt                     the 15 corruptions of ImageNet-C, made on the way from the run's validation images or
                              from those of another --source with the same classes (needs the extra `robust`)
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvit_jax.bin import app, distributed, flags, places
from lvit_jax.errors import InputError, unknown
from lvit_jax.evals.benchmarks import NAMES, SEVERITIES
from lvit_jax.evals.mapping import Mapping, read_mapping
from lvit_jax.training.record import read_record


def main(argv: Sequence[str] | None = None) -> int:
    """Loads the classifier, measures every benchmark named, prints and writes."""
    args = _flags(argv)
    mapping = read_mapping(args.mapping) if args.mapping else None
    read_record(args.workdir)  # a folder that is none is said before jax is imported
    app.start(args)
    from lvit_jax.build.trained import load_trained

    trained = load_trained(args.workdir, ema=not args.no_ema)
    args.data_dir = args.data_dir or trained.config["data"]["data_dir"]
    results = _measure(trained, args, mapping)
    if not distributed.is_first():
        return 0
    from lvit_jax.bin.robustness_report import show, write

    if args.json:
        app.report({"workdir": args.workdir, "results": results}, True)
    else:
        show(results)
    if args.out:
        write(Path(args.out), {"workdir": args.workdir, "results": results})
    return 0


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser("eval_robustness", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a fine-tuned run, or of imported weights")
    parser.add_argument("--source", help=f"benchmarks, with commas between: {', '.join(NAMES)}; or folder:PATH")
    parser.add_argument("--mapping", metavar="FILE", help="which corruption each folder below PATH holds")
    every = ",".join(map(str, SEVERITIES))
    parser.add_argument("--corrupt", nargs="?", const=every, metavar="SEVERITIES", help=f"default: {every}")
    parser.add_argument("--split", help="with --corrupt: of the source; default: its validation split")
    parser.add_argument("--data_dir", help="where tfds data sets lie; default: the run's")
    parser.add_argument("--batch_size", type=int, help="default: the run's eval.batch_size")
    parser.add_argument("--no-ema", action="store_true", help="the raw weights, where the run averages them")
    parser.add_argument("--out", metavar="DIR", help="writes results.json and a picture of each table of errors there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    distributed.check_flags(args)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that do not go together, and makes lists of --corrupt and --source."""
    folder = bool(args.source and args.source.startswith("folder:"))
    if args.corrupt is None and args.source is None:
        raise InputError(f"name benchmarks with --source= ({', '.join(NAMES)}, folder:PATH), or give --corrupt")
    if args.split and args.corrupt is None:
        raise InputError("--split is for --corrupt; benchmarks have one split")
    if args.mapping and (args.corrupt is not None or not folder):
        raise InputError("--mapping is for --source=folder:PATH without --corrupt")
    if args.out and (out := Path(args.out)).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out={args.out} is there already and not an empty folder")
    if args.out:
        places.check_out(args.out)
    if args.corrupt is not None:
        args.corrupt = _severities(args.corrupt)
        if importlib.util.find_spec("imagecorruptions") is None:
            raise InputError("--corrupt needs imagecorruptions-imaug: pip install 'lvit_jax[robust]'")
    elif folder and not args.mapping:
        raise InputError(f"--source={args.source} needs --mapping=FILE; see lvit eval_robustness --help")
    elif not folder:
        args.source = list(dict.fromkeys(args.source.split(",")))
        strange = next((name for name in args.source if name not in NAMES), None)
        if strange is not None:
            raise unknown("benchmark", strange, [*NAMES, "folder:PATH"])


def _severities(text: str) -> list[int]:
    wanted = text.split(",")
    wrong = next((part for part in wanted if part not in map(str, SEVERITIES)), None)
    if wrong is not None:
        raise InputError(f"--corrupt={text}: {wrong!r} is no severity; give some of {','.join(map(str, SEVERITIES))}")
    return sorted(set(map(int, wanted)))


def _measure(trained: Any, args: argparse.Namespace, mapping: Mapping | None) -> dict[str, Any]:
    """Benchmark -> figures; all passes of all benchmarks are one piece of work, checked before it begins."""
    from lvit_jax.build import benchmarks
    from lvit_jax.build.robustness import measure
    from lvit_jax.build.trained import choose_source

    if args.corrupt is not None:
        source = choose_source(trained, args.source, args.split, args.data_dir)
        groups = {f"{source.name} {source.split}": benchmarks.corrupted_passes(trained, source, args.corrupt)}
    elif mapping:
        path = args.source.removeprefix("folder:")
        groups = {args.source: benchmarks.folder_passes(trained, path, mapping)}
    else:
        _check_data(args.source, args.data_dir)
        groups = {name: benchmarks.passes(trained, name, args.data_dir) for name in args.source}
    counts = iter(measure(trained, [one for group in groups.values() for one in group.values()], args.batch_size))
    return {name: benchmarks.figures(name, group, [next(counts) for _ in group]) for name, group in groups.items()}


def _check_data(names: Sequence[str], data_dir: str | None) -> None:
    """Raises InputError where nothing of a benchmark is prepared: what to get, and where to put it."""
    from lvit_jax.bin.doctor_places import how_to_get
    from lvit_jax.build.benchmarks import absent, data_sets

    for name in names:
        gone = absent(name, data_dir)
        if len(gone) == len(data_sets(name)):
            more = f"; the same for each of {', '.join(gone[1:5])}{', ...' * (len(gone) > 5)}" if gone[1:] else ""
            raise InputError(f"{name} is not prepared: {how_to_get(gone[0], data_dir)}{more}")


if __name__ == "__main__":
    app.run(main)
