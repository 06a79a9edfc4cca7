"""The menu of `lvit eval_robustness`; imports nothing heavy, so that a misspelt name is found at once."""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """Other images for a classifier of ImageNet."""

    data: str  # in tfds
    split: str
    subset: str = ""  # 'a' or 'r': the 200 classes of ImageNet-A or -R, the others cannot be answered
    answers: str | None = None  # the feature that holds a set of right answers


class Corruption(NamedTuple):
    """One of the fifteen of ImageNet-C (arXiv:1903.12261)."""

    archive: str  # of the published ones
    alexnet: float  # AlexNet's top-1 error, mean over the five severities (hendrycks/robustness, ImageNet-C/test.py)


BENCHMARKS = {
    "imagenet_a": Benchmark("imagenet_a", "test", subset="a"),
    "imagenet_r": Benchmark("imagenet_r", "test", subset="r"),
    "imagenet_v2": Benchmark("imagenet_v2/matched-frequency", "test"),
    "imagenet_v2/threshold-0.7": Benchmark("imagenet_v2/threshold-0.7", "test"),
    "imagenet_v2/topimages": Benchmark("imagenet_v2/topimages", "test"),
    "imagenet2012_real": Benchmark("imagenet2012_real", "validation", answers="real_label"),
}
PUBLISHED, REGENERATED = "imagenet_c", "imagenet2012_corrupted"
NAMES = (*BENCHMARKS, PUBLISHED, REGENERATED)

SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", 0.886428),
    "shot_noise": Corruption("noise", 0.894468),
    "impulse_noise": Corruption("noise", 0.922640),
    "defocus_blur": Corruption("blur", 0.819880),
    "glass_blur": Corruption("blur", 0.826268),
    "motion_blur": Corruption("blur", 0.785948),
    "zoom_blur": Corruption("blur", 0.798360),
    "snow": Corruption("weather", 0.866816),
    "frost": Corruption("weather", 0.826572),
    "fog": Corruption("weather", 0.819324),
    "brightness": Corruption("weather", 0.564592),
    "contrast": Corruption("digital", 0.853204),
    "elastic_transform": Corruption("digital", 0.646056),
    "pixelate": Corruption("digital", 0.717840),
    "jpeg_compression": Corruption("digital", 0.606500),
}
