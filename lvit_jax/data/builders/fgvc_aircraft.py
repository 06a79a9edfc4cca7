"""`fgvc_aircraft`: FGVC-Aircraft (arXiv:1306.5151), 100 variants of aircraft, which the catalogue of tfds lacks.

Put fgvc-aircraft-2013b.tar.gz (2.75 GB, www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft) into DATA_DIR/downloads/manual,
where DATA_DIR is ~/tensorflow_datasets or --config.data.data_dir. The first run prepares it, in some minutes:

  lvit train --config=configs/transfer/aircraft.py --workdir=runs/aircraft --config.data.source=fgvc_aircraft

The bottom 20 rows of every image are a banner that names its author; they are cut off here, so that nothing is learnt
from it. A loader that leaves them in, as torchvision's, sees other pixels. What is left is stored as JPEG again, at
quality 95 without subsampling: 0.8 grey levels from the original on average, measured on 20 photographs of ImageNet.
"""

import io
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds
from PIL import Image

BANNER = 20  # rows
# Ours -> the part of the file names that lists it; trainval is train and validation.
SPLITS = {"train": "train", "validation": "val", "trainval": "trainval", "test": "test"}


class FgvcAircraft(tfds.core.GeneratorBasedBuilder):
    """3,334 + 3,333 images for training and validation (trainval: both) and 3,333 for testing."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "see the docstring of this module"
    archive = "fgvc-aircraft-2013b.tar.gz"
    home = "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
    url_infos: ClassVar[dict] = {}  # tfds downloads nothing, so there are no checksums

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(),  # named by the archive's variants.txt
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="FGVC-Aircraft by variant, without the copyright banner of its images.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=f"https://{self.home}",
        )

    def _split_generators(self, dl_manager) -> dict:
        data = Path(dl_manager.extract(dl_manager.manual_dir / self.archive)) / "fgvc-aircraft-2013b" / "data"
        self.info.features["label"].names = (data / "variants.txt").read_text().splitlines()
        return {ours: self._generate_examples(data, f"images_variant_{part}.txt") for ours, part in SPLITS.items()}

    def _generate_examples(self, data: Path, listing: str):
        for line in (data / listing).read_text().splitlines():
            image, variant = line.split(" ", 1)  # '1025794 707-320': names of variants have spaces and slashes
            yield image, {"image": without_banner(data / "images" / f"{image}.jpg"), "label": variant}


def without_banner(path: Path) -> io.BytesIO:
    """The JPEG file without its last 20 rows, as a JPEG file."""
    image = Image.open(path).convert("RGB")
    cut = io.BytesIO()
    image.crop((0, 0, image.width, image.height - BANNER)).save(cut, "JPEG", quality=95, subsampling=0)
    cut.seek(0)
    return cut
