"""Shared by all tests: CPU, exact matrix products, a compile cache that outlives the run, timm beside a CPU torch."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import jax
import pytest

from lvit_jax.convert.torchvision import admit_torchvision

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


admit_torchvision()


@pytest.fixture(scope="session", autouse=True)
def exact_matmul():
    """Matrix products in full float32 everywhere: tests are of laws and parity, not of the speed of a chip."""
    with jax.default_matmul_precision("highest"):
        yield
