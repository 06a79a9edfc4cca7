"""The command line and the configs: read, overridden, listed and checked without jax, so that errors are instant."""

import argparse
import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import lvit_jax
from lvit_jax.errors import InputError, nearest, unknown
from lvit_jax.models import DECODERS, ENCODERS
from lvit_jax.objectives import OBJECTIVES, check_encoder
from lvit_jax.tree import flatten

OPTIMIZERS = ("adamw", "sgd", "lars")
# Fields of more than one type: a side or (height, width); a name or (means, deviations).
EITHER = {"model.image_size": (int, tuple), "data.statistics": (str, tuple)}
# Fields that are no strings and may be None.
OPTIONAL = {"data.limit", "data.threads", "init.heads_from", "log.profile", "mesh.devices", "model.depth"}
OPTIONAL |= {
    "data.labels_per_class",
    "data.tune",
    "objective.expand",
    "model.layer_scale",
    "model.window",
    "model.first_width",
    "model.depths",
    "model.first_heads",
    "model.heads",
    "model.last_heads",
    "model.width",
    "objective.classes",
    "optim.clip",
    "optim.ema",
    "train.steps",
}
# What a number must at least be; larger limits depend on data and devices, and are checked there.
LEAST = {
    "seed": 0,
    "model.image_size": 1,
    "model.patch_size": 1,
    "model.channels": 1,
    "model.heads": 1,
    "model.last_heads": 1,
    "model.width": 1,
    "model.depth": 1,
    "model.first_width": 1,
    "model.depths": 1,
    "model.first_heads": 1,
    "model.patch_kernel": 1,
    "model.patch_stride": 1,
    "model.patch_padding": 0,
    "model.mask_unit": 1,
    "model.q_pool": 0,
    "model.window": 1,
    "model.layer_scale": 0.0,
    "objective.mask_unit": 1,
    "objective.hidden": 1,
    "objective.dim": 1,
    "objective.expand": 1,
    "data.limit": 1,
    "data.labels_per_class": 1,
    "data.tune": 0.0,
    "data.threads": 1,
    "data.split_seed": 0,
    "data.limit_seed": 0,
    "optim.blr": 0.0,
    "optim.min_lr": 0.0,
    "optim.warmup_lr": 0.0,
    "optim.warmup_epochs": 0,
    "optim.weight_decay": 0.0,
    "optim.layer_decay": 0.0,
    "optim.momentum": 0.0,
    "optim.clip": 0.0,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 1,
    "log.every_steps": 1,
    "mesh.devices": 1,
    "mesh.fsdp": 1,
    "eval.batch_size": 1,
    "eval.knn_images": 0,
}


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and the nearest flag for an unknown one."""

    def __init__(self, command: str, doc: str):
        super().__init__(
            prog=f"lvit {command}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        try:
            parsed, rest = self.parse_known_args(args, namespace)
        except InputError:
            self._misspelt(sys.argv[1:] if args is None else args)  # why a flag that is needed is missing
            raise
        for name, value in vars(parsed).items():
            if value == "":
                self.error(f"--{name} is empty")
        if rest:
            self._unknown(rest[0])
        return parsed

    def _misspelt(self, args: Sequence[str]) -> None:
        """Raises InputError where a flag is unknown and near to one there is; the flags of parts are not seen here."""
        for arg in () if self._subparsers else args:
            name = arg.split("=")[0]
            if name.startswith("--") and name not in self._flags() and nearest(name, self._flags()):
                self._unknown(arg)

    def _unknown(self, arg: str) -> None:
        self.error(f"unknown flag {arg!r}{nearest(arg.split('=')[0], self._flags())}")

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]


def parse_with_config(parser: Parser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, ConfigDict]:
    """Flags plus the config that `--config=FILE` and `--config.a.b=value` describe; `--help` lists its fields."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser.add_argument("--config", help="a config file, by path or by its name in configs/")
    overrides = [arg for arg in argv if arg.startswith("--config.")]
    plain = [arg for arg in argv if arg not in overrides]
    if {"-h", "--help"} & set(plain) and any(arg.startswith("--config") for arg in plain):
        path = Parser("", "")
        path.add_argument("--config")
        config = load_config(path.parse_known_args([arg for arg in plain if arg not in ("-h", "--help")])[0].config)
        parser.epilog = "fields of this config:\n" + describe(override(config, overrides))
    flags = parser.parse_args(plain)
    if not flags.config:
        parser.error("--config=FILE is needed")
    return flags, check(override(load_config(flags.config), overrides))


def config_path(name: str) -> Path:
    """A config by path, or by name: next to the package in a clone, inside it where it was installed."""
    home = Path(lvit_jax.__file__).parent
    roots = [Path(), home.parent, home]
    candidates = [root / name for root in roots] + [root / "configs" / name for root in roots]
    for path in candidates:
        for spelt in (path, path.with_name(path.name + ".py")):
            if spelt.is_file():
                return spelt
    known = {str(f.relative_to(r)) for r in roots[1:] for f in r.glob("configs/*/*.py") if f.name != "__init__.py"}
    raise InputError(f"no config file {name!r}{nearest(name, known)}; there are: {', '.join(sorted(known))}")


def load_config(name: str) -> ConfigDict:
    """Runs `get_config()` of a config file; a misspelt key or a wrong type in the file is one line."""
    path = config_path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    try:
        if spec is None:
            raise TypeError("a config is a Python file with a function get_config()")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config() returns {type(config).__name__}, not a ConfigDict")
    except Exception as error:  # whatever a user's file may raise
        raise InputError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return config.lock()


def override(config: ConfigDict, overrides: Sequence[str], name: str = "config") -> ConfigDict:
    """Sets `--config.a.b=value` on the config, each value read as the type the field has now.

    Args: name: what the flags call the config; `lvit launch` has a second one, the cluster.
    """
    for text in overrides:
        key, equals, value = text.removeprefix(f"--{name}.").partition("=")
        if not equals:
            raise InputError(f"{text!r} has no value; write --{name}.{key}=VALUE")
        if not value:
            raise InputError(f"{text!r} is empty; write --{name}.{key}=None to unset it")
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node[section] if isinstance(node, ConfigDict) and section in node else None
        if not isinstance(node, ConfigDict) or last not in node:
            fields = [name.replace("/", ".") for name in flatten(config.to_dict())]
            raise InputError(f"unknown {name} key {key!r}{nearest(key, fields)}; --help lists the fields")
        if isinstance(node[last], ConfigDict):
            raise InputError(f"{name} key {key!r} is a section; it has: {', '.join(node[last])}")
        with node.ignore_type():
            node[last] = read_value(key, value, node.get_type(last))
    return config


def read_value(key: str, text: str, kind: type) -> Any:
    """`text` as the type of the field: a number, a truth value, a tuple, a string; None unsets any field."""
    if text == "None" and (kind is str or key in OPTIONAL):  # no path and no name is called None
        return None
    if kind is str and key not in EITHER:
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    value = tuple(value) if type(value) is list else value
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is kind or type(value) in EITHER.get(key, ()):
        return value
    raise InputError(f"config key {key!r} wants {kind.__name__}; got {text!r}")


def describe(config: ConfigDict) -> str:
    """The fields of a config with their values, one a line, as they would be typed."""
    fields = flatten(config.to_dict())
    return "\n".join(f"  --config.{name.replace('/', '.')}={value!r}" for name, value in fields.items())


def check(config: ConfigDict) -> ConfigDict:
    """What needs no jax to be found wrong: names of objective, encoder, decoder, optimizer; numbers too small."""
    for section in ("objective", "model"):
        if "name" not in config.get(section, ()):
            raise InputError(f"the config has no {section}.name")
    if config.objective.name not in OBJECTIVES:
        raise unknown("objective", config.objective.name, OBJECTIVES)
    if config.model.name not in ENCODERS:
        raise unknown("model size", config.model.name, ENCODERS)
    check_encoder(config.objective.name, config.model.name)
    if isinstance(config.objective.get("decoder"), str) and config.objective.decoder not in DECODERS:
        raise unknown("decoder", config.objective.decoder, DECODERS)
    if config.optim.name not in OPTIMIZERS:
        raise unknown("optimizer", config.optim.name, OPTIMIZERS)
    fields = {name.replace("/", "."): value for name, value in flatten(config.to_dict()).items()}
    for key, least in LEAST.items():
        values = fields.get(key)
        if values == ():
            raise InputError(f"config key {key!r} is empty; it needs at least one number")
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value < least:
                raise InputError(f"config key {key!r} is {value}; the least is {least}")
    if config.eval.every_epochs <= 0 or config.train.epochs <= 0:
        raise InputError("config keys 'eval.every_epochs' and 'train.epochs' must be above 0")
    return config
