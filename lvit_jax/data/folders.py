"""`folder:PATH`: class folders, split/class folders, or (without labels) any tree of images."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from lvit_jax.data.source import Source, digest
from lvit_jax.errors import InputError, nearest, unknown

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# The names a split folder may have, by the name the configs use.
SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
ALIASES = {name: split for split, names in SPLITS.items() for name in names}


def folder_splits(path: str) -> dict[str, Path]:
    """The splits of a folder: {'train': root/train, 'validation': root/val, ...}, or {'train': root} without any.

    A folder is read as split folders if it has a `train`, or if all its subfolders have names of splits; so a class
    that happens to be called `test` does no harm.
    """
    root = Path(os.path.expanduser(path))
    try:
        folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except FileNotFoundError:
        siblings = [str(p) for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        raise InputError(f"no folder {str(root)!r}{nearest(str(root), siblings)}") from None
    except OSError as error:
        raise InputError(f"cannot read folder {str(root)!r}: {error.strerror}") from None
    if "train" in folders or (folders and all(name in ALIASES for name in folders)):
        return {split: root / name for split, names in SPLITS.items() for name in names if name in folders}
    return {"train": root}


def list_images(root: Path) -> list[str]:
    """Paths of all images below a folder, relative to it and sorted, whatever the depth; hidden files are left out."""
    found = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = os.path.relpath(folder, root)
        names = (name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found += [name if below == "." else f"{below}/{name}" for name in names]
    return sorted(found)


def open_folder(path: str, split: str, *, classes: tuple[str, ...] | None = None, labels: bool = True) -> Source:
    """Opens `folder:PATH`.

    Args:
      path: the folder.
      split: a split it has ('val' means 'validation').
      classes: the class names to number labels by (those of the training split); None to take the folder's own,
        which are the sorted names of its subfolders.
      labels: whether labels are needed; without them any tree of images will do.

    Raises:
      InputError: missing, unreadable or empty folder, unknown split, images outside of class folders, unknown class.
    """
    splits = folder_splits(path)
    split = ALIASES.get(split, split)
    if split not in splits:
        raise unknown(f"split of {path!r}", split, splits)
    root = splits[split]
    files = _some_images(root)
    names = [file.split("/")[0] if "/" in file else None for file in files]
    classes, numbers = _number(names, files, classes, labels, root)
    return _source(path, split, root, files, classes, numbers)


def open_images(path: str) -> Source:
    """Every image below a folder, without labels, whatever the names of its subfolders (for predictions).

    Raises:
      InputError: missing, unreadable or empty folder.
    """
    folder_splits(path)  # raises where there is no such folder
    root = Path(os.path.expanduser(path))
    files = _some_images(root)
    return _source(path, "all", root, files, None, np.zeros(len(files), np.int32))


def _some_images(root: Path) -> list[str]:
    files = list_images(root)
    if not files:
        raise InputError(f"no images ({', '.join(s[1:] for s in SUFFIXES)}) in folder {str(root)!r}")
    return files


def _source(path, split, root, files, classes, numbers) -> Source:
    paths, table = tf.constant(files), tf.constant(numbers)
    base = tf.constant(f"{root}/")
    return Source(
        name=f"folder:{path}",
        split=split,
        classes=classes,
        rows=np.arange(len(files)),
        load=lambda row: (tf.io.read_file(base + paths[row]), table[row]),
        row_labels=lambda: numbers,
        row_name=files.__getitem__,
        fingerprint=digest(files),
    )


def _number(names, files, classes, labels, root):
    """Class names and the label of each file, int32 [N] (zeros and None where the folder has no labels)."""
    loose = next((file for name, file in zip(names, files, strict=True) if name is None), None)
    found = sorted({name for name in names if name})
    strange = next((name for name in found if classes and name not in classes), None)
    if labels and loose:
        raise InputError(f"labels are needed, but {loose!r} in {str(root)!r} lies in no class folder")
    if labels and strange:
        raise unknown(f"class folder in {str(root)!r}", strange, classes)
    if loose or strange:
        return None, np.zeros(len(files), np.int32)
    order = tuple(classes or found)
    number = {name: i for i, name in enumerate(order)}
    return order, np.array([number[name] for name in names], np.int32)
