"""Random batches with the right spec, for tests, benchmarks and ahead-of-time compiles."""

import numpy as np

from lvit_jax.data.recipes import as_size


def random_batch(
    batch_size: int, image_size: int | tuple[int, int], channels: int = 3, classes: int | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """{"image": float32 [B,H,W,C] of N(0,1), "label": int32 [B] below `classes` (absent if None)}."""
    rng = np.random.default_rng(seed)
    batch = {"image": rng.standard_normal((batch_size, *as_size(image_size), channels), np.float32)}
    return batch if classes is None else batch | {"label": rng.integers(0, classes, batch_size, np.int32)}
