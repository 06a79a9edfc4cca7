"""Names of leaves, the one regex engine behind every per-parameter decision, and a hash of all of them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lvit_jax.errors import InputError, nearest


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """A nested dict as {'encoder/block_0/attn/qkv/kernel': leaf, ...}, in the order of the tree."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The inverse of `flatten` (a subtree without leaves does not come back)."""
    tree: dict = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def match(rules: Sequence[tuple[str, Any]], tree: Mapping, default: Any = None, where: str = "") -> dict:
    """A tree of the same shape that holds, for each leaf, the value of the first rule whose regex matches.

    Args:
      rules: (regex, value) pairs; a regex must match the whole name of a leaf ('encoder/block_0/norm1/scale').
      tree: a nested dict.
      default: the value of leaves that no rule matches.
      where: the config key of the rules, for the message.

    Raises:
      InputError: a rule whose regex matches no leaf at all: a misspelt rule must not pass in silence.
    """
    names = list(flatten(tree))
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise InputError(f"{where} rule {pattern!r} matches no parameter{nearest(pattern, names)}".lstrip())

    def decide(name):
        return next((value for pattern, value in rules if re.fullmatch(pattern, name)), default)

    return unflatten({name: decide(name) for name in names})


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether any of the regexes matches the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def tree_hash(tree: Mapping) -> str:
    """A hash of the names, shapes, types and bytes of the leaves (numpy arrays), whatever their order."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
        digest.update(leaf.tobytes())  # in C order, however it lies
    return digest.hexdigest()[:16]
