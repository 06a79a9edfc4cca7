"""ImageNet-C from its published archives, as tfds data sets: imagenet_c/noise, blur, weather, digital and extra.

Put noise.tar (and the others; zenodo.org/records/2235448) into DATA_DIR/downloads/manual, where DATA_DIR is
~/tensorflow_datasets or --data_dir. The first `lvit eval_robustness --source=imagenet_c` prepares what is there. One
archive is one data set, so that each can be used without the others; a split is a corruption at a severity
("gaussian_noise_1"). The JPEG files go in as they are, at 224x224 pixels: nothing is decoded, resized or encoded.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import tensorflow_datasets as tfds

from lvit_jax.data.imagenet import wnids
from lvit_jax.errors import InputError

ARCHIVES = ("noise", "blur", "weather", "digital", "extra")
SIDE = 224


class Member(NamedTuple):
    """Where a file lies in an archive."""

    wnid: str
    name: str
    offset: int
    size: int


class ImagenetC(tfds.core.GeneratorBasedBuilder):
    """15 + 4 corruptions at 5 severities of the 50,000 validation images (arXiv:1903.12261)."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list] = [tfds.core.BuilderConfig(name=name) for name in ARCHIVES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "see the docstring of this module"
    home = "zenodo.org/records/2235448"
    url_infos: ClassVar[dict] = {}  # as in digits.py

    @property
    def archive(self) -> str:
        """The file that the data set is made from."""
        return f"{self.builder_config.name}.tar"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=wnids()),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="ImageNet-C as published: JPEG files of 224x224 pixels (CC BY 4.0).",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://github.com/hendrycks/robustness",
        )

    def _split_generators(self, dl_manager) -> dict:
        path = os.path.join(dl_manager.manual_dir, self.archive)
        found = contents(path)
        if not found:
            raise InputError(f"{path} has no CORRUPTION/SEVERITY/WNID/*.JPEG in it")
        return {split: self._generate_examples(path, members) for split, members in sorted(found.items())}

    def _generate_examples(self, path: str, members: list[Member]):
        with open(path, "rb") as archive:
            for wnid, name, offset, size in members:
                archive.seek(offset)
                yield f"{wnid}/{name}", {"image": archive.read(size), "label": wnid, "file_name": name}


def contents(path: str) -> dict[str, list[Member]]:
    """Split -> its files, by one walk over the headers of the archive: its 750,000 files are not read for that."""
    found: dict[str, list[Member]] = {}
    with tarfile.open(path, "r:") as archive:
        for info in _headers(archive):
            parts = info.name.split("/")
            if info.isfile() and len(parts) >= 4 and parts[-1].lower().endswith((".jpeg", ".jpg")):
                corruption, severity, wnid, name = parts[-4:]
                member = Member(wnid, name, info.offset_data, info.size)
                found.setdefault(f"{corruption}_{severity}", []).append(member)
    return found


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        yield info
        archive.members.clear()  # it would keep a kilobyte of each
