"""What every binary shares: the `lvit` command, one-line errors with exit codes, logging, the compile cache."""

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lvit_jax.errors import InputError, Stopped, unknown

COMMANDS = {
    "train": "every training run: pre-training, distillation, fine-tuning",
    "eval_classify": "top-1 and top-5 of a fine-tuned run on any labelled split",
    "predict": "names, classes and probabilities for a folder of images",
    "export_torch": "a run as PyTorch weights: timm folder, transformers folder, MAE file",
    "import_torch": "PyTorch weights as a folder that runs can start from",
    "bench": "measures this machine: the training step, the input pipeline",
    "demo": "the whole road on bundled data, with a report",
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
    sys.stdout.flush()
    sys.exit(code)


def _complain(error: Exception | str, code: int) -> int:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return code


def start() -> None:
    """Quiet libraries, our own log lines on stderr, and a compile cache that outlives the process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/lvit_jax/xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("lvit_jax").setLevel(logging.INFO)


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Figures for a person, one a line, or as one JSON object on the last line of stdout."""
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")
