"""`lvit bench data`: decoding and augmenting images on this machine, beside a PyTorch DataLoader where installed."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvit_jax.convert.torchvision import admit_torchvision

PREFETCH = 2  # batches per worker that PyTorch holds ready


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `lvit bench data`."""
    parser.add_argument("--source", required=True, help="folder:PATH, a tfds name or digits")
    parser.add_argument("--split", default="train")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--resample", default="exact", choices=("exact", "fast"), help="data.resample")
    parser.add_argument("--batch", type=int, default=64, help="images per batch")
    parser.add_argument("--seconds", type=float, default=30.0, help="time for each side, over all rounds")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each times one side, then the other")


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Images per second of RandomResizedCrop (bicubic), flip and normalisation, ours and torchvision's in turn.

    Both use as many threads or workers as there are cores. The reported ratio is the median over rounds of the ratio
    within a round, so that a machine that slows down for a while slows both sides.
    """
    from lvit_jax.data.measure import crops, grey_difference, rate
    from lvit_jax.data.sources import open_source

    source = open_source(flags.source, flags.split, labels=False)
    sides = {"lvit": (crops(source, flags.image_size, flags.resample, flags.batch), 3)}
    if flags.source.startswith("folder:"):
        try:
            workers = os.cpu_count() or 1
            sides["torch"] = (torch_crops(paths(flags), flags.image_size, flags.batch, workers), PREFETCH * workers)
        except ImportError as error:
            print(f"no comparison with PyTorch: {error}", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for batches, _ in sides.values():  # the first batches start threads, workers and kernels
        next(batches)
    for number in range(flags.rounds):
        for name, (batches, prefetched) in sides.items():
            time.sleep(1)  # until the other side has filled its queue and rests
            rates[name].append(rate(batches, flags.seconds / flags.rounds, prefetched))
        line = ", ".join(f"{name} {values[-1]:.0f}" for name, values in rates.items())
        print(f"round {number + 1}/{flags.rounds}  images/s: {line}", file=sys.stderr)
    figures: dict[str, Any] = {"source": flags.source, "image_size": flags.image_size, "resample": flags.resample}
    figures |= {f"{name}_images_per_s": statistics.median(values) for name, values in rates.items()}
    if "torch" in rates:
        ratios = [ours / theirs for ours, theirs in zip(rates["lvit"], rates["torch"], strict=True)]
        figures |= {
            "ratio_lvit_to_torch": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return figures | {"grey_levels_from_pil": grey_difference(source, flags.image_size, flags.resample)}


def paths(flags: argparse.Namespace) -> list[str]:
    """The image files of a folder source."""
    from lvit_jax.data.folders import ALIASES, folder_splits, list_images

    root = folder_splits(flags.source.removeprefix("folder:"))[ALIASES.get(flags.split, flags.split)]
    return [str(Path(root) / name) for name in list_images(root)]


def torch_crops(files: list[str], image_size: int, batch_size: int, workers: int) -> Iterator:
    """Endless batches of a torch DataLoader over torchvision transforms on PIL images."""
    import torch

    _torchvision_transforms()  # fails here, not in a worker, where it is not installed
    data = Photos(files, image_size)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9)
    # Workers start afresh: a fork of a process with TensorFlow's threads may hang.
    options = {"num_workers": workers, "prefetch_factor": PREFETCH, "multiprocessing_context": "spawn"}
    return iter(torch.utils.data.DataLoader(data, batch_size=batch_size, sampler=sampler, **options))


class Photos:
    """A map-style dataset for PyTorch: RandomResizedCrop (bicubic), flip, tensor, normalisation."""

    def __init__(self, files: list[str], image_size: int):
        self.files, self.image_size, self.transform = files, image_size, None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple:
        from PIL import Image

        if self.transform is None:  # made in the worker
            self.transform = self._make()
        try:
            with Image.open(self.files[index]) as image:
                return self.transform(image.convert("RGB")), 0
        except OSError:  # a broken image: its neighbour in its place
            return self[(index + 1) % len(self)]

    def _make(self):
        t = _torchvision_transforms()
        crop = t.RandomResizedCrop(self.image_size, interpolation=t.InterpolationMode.BICUBIC)
        normalise = t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return t.Compose([crop, t.RandomHorizontalFlip(), t.ToTensor(), normalise])


def _torchvision_transforms():
    admit_torchvision()
    from torchvision import transforms

    return transforms
