"""`lvit bench step`: a whole MAE training step (loss, gradients, AdamW) here, beside PyTorch where it is installed."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from lvit_jax.convert.torchvision import admit_torchvision
from lvit_jax.errors import unknown
from lvit_jax.models import DECODERS, ENCODERS

SIZES = [name for name, (kind, _) in ENCODERS.items() if kind == "vit"]  # what both sides can build


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `lvit bench step`."""
    parser.add_argument("--model", default="vit_tiny", help=", ".join(SIZES))
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each times one side, then the other")
    parser.add_argument("--steps", type=int, default=2, help="steps per round and side")


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the jax step and of eager transformers.ViTMAEForPreTraining, in turn in one process.

    The ratio is that of the times of the two sides in one round; its median over rounds is reported, so that a
    machine that slows down for a while slows both sides.
    """
    if flags.model not in SIZES:
        raise unknown("plain ViT", flags.model, SIZES)
    decoder = {"vit_tiny": "tiny", "vit_small": "small", "vit_micro": "micro"}.get(flags.model, "base")
    sides = {"jax": jax_side(flags, decoder)}
    try:
        sides["torch"] = torch_side(flags, decoder)
    except ImportError as error:
        print(f"no comparison with PyTorch: {error}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(flags.rounds):
        for name, step in sides.items():
            seconds[name].append(timed(step, flags.steps))
        rates = ", ".join(f"{name} {flags.batch / times[-1]:.1f}" for name, times in seconds.items())
        print(f"round {number + 1}/{flags.rounds}  images/s: {rates}", file=sys.stderr)
    figures: dict[str, Any] = {"model": flags.model, "batch": flags.batch, "dtype": flags.dtype}
    figures |= {f"{name}_images_per_s": flags.batch / statistics.median(times) for name, times in seconds.items()}
    if "torch" in seconds:
        ratios = [b / a for a, b in zip(seconds["jax"], seconds["torch"], strict=True)]
        figures |= {"ratio_jax_to_torch": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return figures


def timed(step: Callable[[], None], count: int) -> float:
    """Seconds per step."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def jax_side(flags: argparse.Namespace, decoder: str) -> Callable[[], None]:
    """A compiled and warm training step on a batch that is already on the device."""
    import jax

    from lvit_jax.data.synthetic import random_batch
    from lvit_jax.models.vit import vit
    from lvit_jax.objectives.mae import make_mae
    from lvit_jax.training import mesh as mesh_lib
    from lvit_jax.training.optim import make_tx
    from lvit_jax.training.step import make_init, make_step

    mesh = mesh_lib.make_mesh()
    objective = make_mae(vit(flags.model, dtype=flags.dtype), decoder=decoder)
    batch = mesh_lib.put(mesh, random_batch(flags.batch, flags.image_size))
    abstract = jax.eval_shape(objective.init, jax.random.key(0), batch)
    plan = {"steps": 10_000, "steps_per_epoch": 100, "batch_size": flags.batch, "warmup_epochs": 1.0}
    tx, _ = make_tx(abstract.params, blr=1.5e-4, weight_decay=0.05, b2=0.95, **plan)
    state = [mesh_lib.place(mesh, make_init(objective, tx), jax.random.key(0), batch, {}, {})]
    update = jax.jit(make_step(objective, tx, seed=0), donate_argnums=0)

    def step() -> None:
        state[0], metrics = update(state[0], batch)
        jax.block_until_ready(metrics)

    step()
    return step


def torch_side(flags: argparse.Namespace, decoder: str) -> Callable[[], None]:
    """The same model, loss and optimizer in eager PyTorch, on the same number of cores (or the same GPU)."""
    import torch

    admit_torchvision()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    encoder, small = ENCODERS[flags.model][1], DECODERS[decoder]
    config = ViTMAEConfig(
        hidden_size=encoder["width"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["heads"],
        intermediate_size=4 * encoder["width"],
        decoder_hidden_size=small["width"],
        decoder_num_hidden_layers=small["depth"],
        decoder_num_attention_heads=small["heads"],
        decoder_intermediate_size=4 * small["width"],
        image_size=flags.image_size,
        norm_pix_loss=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ViTMAEForPreTraining(config).to(device, getattr(torch, flags.dtype)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    images = torch.randn(flags.batch, 3, flags.image_size, flags.image_size, device=device, dtype=model.dtype)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(pixel_values=images).loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    return step
