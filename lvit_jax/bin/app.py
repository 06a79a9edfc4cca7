"""What every binary shares: the `lvit` command, one-line errors with exit codes, logging, the compile cache."""

import importlib
import json
import logging
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from lvit_jax.bin import distributed
from lvit_jax.errors import InputError, Stopped, unknown

COMMANDS = {
    "train": "every training run: pre-training, distillation, fine-tuning",
    "prepare": "makes a data set of tfds ready: downloads it, or reads its archives",
    "eval_classify": "top-1, top-5 and mean per class of a fine-tuned run on any labelled split",
    "eval_robustness": "ImageNet-A, -R, -V2, ReaL, -C (mCE), and corruptions of one's own",
    "eval_probe": "accuracy of every layer of a frozen encoder: k-NN, linear probes",
    "analyze": "similarity of layers (CKA), attention distance and entropy, attention maps, as numbers and figures",
    "embed": "features of a folder or a data set, as a Parquet or NPZ table",
    "predict": "names, classes and probabilities for a folder of images",
    "export_torch": "a run as PyTorch weights: timm folder, transformers folder, MAE file",
    "import_torch": "PyTorch weights as a folder that runs can start from",
    "plan": "memory, FLOPs, time and fit of a run on a TPU topology, without a TPU",
    "bench": "measures this machine: the training step, the input pipeline, linear probes",
    "demo": "the whole road on bundled data, with a report",
    "observation": "scratch, MAE, MoCo-v3 and D² on equal updates, side by side, with a report",
    "doctor": "what is wrong with this machine, and how to mend it",
    "launch": "commands that start a run on several processes or a TPU slice",
}
HELP = """lvit: masked-image-modelling pre-training and distillation of small vision transformers in JAX

usage: lvit COMMAND [flags]      lvit COMMAND --help shows the flags

"""


def lvit(argv: Sequence[str] | None = None) -> None:
    """The `lvit` console script: hands the rest of the command line to `lvit_jax.bin.<command>`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP + "\n".join(f"  {name:15} {what}" for name, what in COMMANDS.items()))
        sys.exit(0 if argv else 2)
    command, *rest = argv

    def main(rest):
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        return importlib.import_module(f"lvit_jax.bin.{command}").main(rest)

    run(main, rest)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> None:
    """Runs a binary's `main` and exits: 2 and one line for bad input, 1 and one line for a run that had to stop."""
    try:
        code = main(argv)
    except InputError as error:
        code = _complain(error, 2)
    except Stopped as error:
        code = _complain(error, 1)
    except OSError as error:  # a folder that cannot be read or written
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 2)
    except KeyboardInterrupt:
        code = 130
    except Exception:
        if not distributed.connected():
            raise
        code = 1
        traceback.print_exc()
    sys.stdout.flush()
    if code and distributed.connected():
        distributed.leave(code)
    sys.exit(code)


def _complain(error: Exception | str, code: int) -> int:
    print("error: " + distributed.me() + " ".join(str(error).split()), file=sys.stderr)
    return code


def start(args: Namespace | None = None) -> None:
    """Quiet libraries, our own log lines on stderr, a compile cache that outlives the process, the other processes.

    Args: args: of a binary that runs as several processes, with the flags of `distributed.add_flags`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compile_cache(args))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    if args:
        distributed.connect(args)
    logging.getLogger("lvit_jax").setLevel(logging.INFO if distributed.is_first() else logging.WARNING)


def _compile_cache(args: Namespace | None) -> str:
    """In the workdir where there are several processes: their machines go, and the next ones start as fast."""
    if args and (args.distributed or args.coordinator):
        return f"{args.workdir}/compile_cache"
    return os.path.expanduser("~/.cache/lvit_jax/xla")


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Figures for a person, one a line, or as one JSON object on the last line of stdout; process 0 alone prints."""
    if not distributed.is_first():
        return
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")
