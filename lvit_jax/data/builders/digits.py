"""`digits`: the 1,797 scanned 8x8 digits that ship inside scikit-learn, as a tfds data set. Nothing is downloaded."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """UCI optical recognition of handwritten digits (test part), 17 grey levels, 1,437 + 360 images."""

    VERSION = tfds.core.Version("1.0.0")
    VALIDATION = 360
    # Nothing is downloaded, so there are no checksums; looking for their file makes tfds import a package it does not
    # require (importlib_resources).
    url_infos: ClassVar[dict] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 scans of handwritten digits, from scikit-learn (CC BY 4.0).",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager) -> dict:
        from lvit_jax.data.order import stratified

        images, labels = _load()
        held = stratified(labels, len(labels), self.VALIDATION, seed=0)
        kept = np.setdiff1d(np.arange(len(labels)), held)
        return {
            "train": self._generate_examples(images[kept], labels[kept]),
            "validation": self._generate_examples(images[held], labels[held]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8] (levels 0..16 spread over 0..255, one to one) and labels int [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.round(data.images * (255 / 16)).astype(np.uint8), data.target
