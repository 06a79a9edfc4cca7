"""Small folders of images that the data tests share."""

import numpy as np
import pytest
from PIL import Image


def save_image(path, seed, size=None):
    """A smooth random picture of 20 to 60 pixels, so that JPEG keeps most of it."""
    rng = np.random.default_rng(seed)
    high, wide = size or rng.integers(20, 60, 2)
    pixels = rng.integers(0, 256, (5, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((int(wide), int(high)), Image.Resampling.BICUBIC).save(path, quality=90)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three class folders with 20, 10 and 10 JPEGs."""
    root = tmp_path_factory.mktemp("images")
    for number, (name, count) in enumerate((("ant", 20), ("bee", 10), ("cat", 10))):
        for i in range(count):
            save_image(root / name / f"{i:02}.jpg", 100 * number + i)
    return root


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Where `digits` is prepared for the tests."""
    return str(tmp_path_factory.mktemp("tfds"))
