"""What a masked autoencoder sees and says: a picture of input | masked | reconstruction."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw

from lvit_jax.types import Batch, Objective, TrainState, Tree

GAP, HEADER, CELL = 4, 16, 96  # pixels
SHOWN = 8  # images in the picture


def make_reconstruct(
    objective: Objective, mean: Sequence[float], std: Sequence[float], norm_pix: bool, gather: Callable
) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, Any]]:
    """(params, state, batches) -> {'loss': the objective's reconstruction loss over all, 'grid': the picture}.

    Args:
      mean, std: of the normalised images, see `grid`.
      norm_pix: whether the targets are normalised per patch, which the picture then says.
      gather: arrays on the mesh -> numpy.
    """
    label = "reconstruction (patch mean and variance of the input put back)" if norm_pix else "reconstruction"

    columns = {"input": "image", "masked": "masked", label: "reconstruction"}

    @jax.jit
    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        out = objective.predict(params, state, batch)
        return {key: out[key] for key in ("loss", *columns.values())}  # what else there is costs nothing then

    def reconstruct(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, Any]:
        total = examples = 0.0
        picture = None
        for batch in batches:
            out, count = predict(params, state, batch), jax.numpy.sum(batch["mask"])
            total, examples = total + out["loss"] * count, examples + count
            if picture is None:
                shown = gather({name: out[key][:SHOWN] for name, key in columns.items()})
                picture = grid(shown, mean, std)
        return {"loss": float(total / examples), "grid": picture}

    return reconstruct


def grid(columns: dict[str, np.ndarray], mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """One row per image, one labelled column per entry; small images are enlarged without smoothing.

    Args:
      columns: name -> float [B,H,W,C] normalised images.
      mean, std: the statistics that were subtracted and divided, per channel, for pixels in [0, 1].

    Returns:
      uint8 [height, width, 3].
    """
    first = next(iter(columns.values()))
    scale = max(1, CELL // first.shape[1])
    rows, (height, width) = first.shape[0], (first.shape[1] * scale, first.shape[2] * scale)
    # A label may be wider than a small image: its column then is as wide as the label.
    widths = [max(width, 6 * len(name)) for name in columns]
    canvas = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), HEADER + rows * (height + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for (name, images), room in zip(columns.items(), widths, strict=True):
        draw.text((left, 2), name, fill="black")
        for row, image in enumerate(to_uint8(images, mean, std)):
            canvas.paste(
                Image.fromarray(image).resize((width, height), Image.NEAREST), (left, HEADER + row * (height + GAP))
            )
        left += room + GAP
    return np.asarray(canvas)


def to_uint8(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised float [B,H,W,C] -> uint8 [B,H,W,3]; one channel becomes grey."""
    pixels = np.asarray(images, np.float32) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    pixels = np.clip(np.round(pixels * 255), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
