"""Shared by all tests: CPU, exact matrix products, a compile cache that outlives the run, timm beside a CPU torch."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib.util
from pathlib import Path

import jax
import pytest

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _define_torchvision_ops() -> None:
    """timm imports torchvision, whose CUDA wheel fails beside a CPU torch for want of the schemas of two ops."""
    found = [importlib.util.find_spec(name) for name in ("torch", "torchvision")]
    if None in found:
        return
    import torch

    for file in Path(found[1].origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
            return  # a wheel that fits: it brings the ops
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _define_torchvision_ops.library = library  # the schemas live only as long as this object


_define_torchvision_ops()


@pytest.fixture(scope="session", autouse=True)
def exact_matmul():
    """Matrix products in full float32 everywhere: tests are of laws and parity, not of the speed of a chip."""
    with jax.default_matmul_precision("highest"):
        yield
