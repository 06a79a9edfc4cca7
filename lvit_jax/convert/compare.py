"""What a model says of a fixed batch, in JAX and in PyTorch: exports are held against the model they came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lvit_jax.convert import files, hiera, relative, relative_export, swin, swin_export
from lvit_jax.convert.arch import Arch
from lvit_jax.convert.hiera import HieraArch
from lvit_jax.convert.record import AnyArch
from lvit_jax.convert.relative import RelativeArch
from lvit_jax.convert.swin import SwinArch
from lvit_jax.convert.torchvision import admit_torchvision
from lvit_jax.models.heads import classifier
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.models.vit import ViT

if TYPE_CHECKING:
    import torch

MASK_RATIO = 0.75  # of the comparison
HIERA_MASK_RATIO = 0.5  # small images have few mask units


def fixed_batch(arch: AnyArch, examples: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [B,H,W,C] as after normalisation, and noise [B,N] for the mask; always the same."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((examples, *arch.image_size, arch.channels), np.float32)
    return images, rng.random((examples, arch.grid[0] * arch.grid[1]), np.float32)


def outputs(params: Mapping[str, Any], arch: AnyArch, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What the JAX model computes, in float32 with full matrix precision.

    Returns:
      logits [B,C] of a classifier, predictions [B,N,P] of a masked autoencoder or of SimMIM, tokens [B,N,D] of a bare
      encoder (CLS first where it has one) after its final norm.
    """
    forward = {HieraArch: _hiera_outputs, SwinArch: _swin_outputs, RelativeArch: _relative_outputs}.get(type(arch))
    with jax.default_matmul_precision("highest"):
        return np.asarray((forward or _vit_outputs)(params, arch, images, noise))


def _vit_outputs(params: Mapping, arch: Arch, images: np.ndarray, noise: np.ndarray) -> jax.Array:
    encoder = encoder_of(arch)
    if arch.pool:
        return classifier(encoder, arch.classes, arch.pool).apply({"params": params}, images)
    if arch.decoder:
        model = masked_autoencoder(encoder, arch.decoder, MASK_RATIO)
        return model.apply({"params": params}, images, noise).prediction
    return encoder.apply({"params": params["encoder"]}, images).tokens


def _hiera_outputs(params: Mapping, arch: HieraArch, images: np.ndarray, noise: np.ndarray) -> jax.Array:
    apply = jax.jit(hiera.model_of(arch, HIERA_MASK_RATIO).apply)
    return apply({"params": params}, images, noise).prediction if arch.decoder else apply({"params": params}, images)


def _swin_outputs(params: Mapping, arch: SwinArch, images: np.ndarray, noise: np.ndarray) -> jax.Array:
    apply = jax.jit(swin.model_of(arch).apply)
    if arch.classes:
        return apply({"params": params}, images)
    if not arch.decoder:
        return apply({"params": params["encoder"]}, images).tokens
    features = apply({"params": params["encoder"]}, images, mask=np.float32(noise < MASK_RATIO))
    x, head = features.tokens, params["decoder"]
    if arch.decoder != "linear":
        x = x @ head["embed"]["kernel"] + head["embed"]["bias"]
        x = swin.head_block(arch).apply({"params": head["block_0"]}, x, features.grid, False).x
        head = head["head"]
    return x @ head["kernel"] + head["bias"]


def _relative_outputs(params: Mapping, arch: RelativeArch, images: np.ndarray, _: np.ndarray) -> jax.Array:
    apply = jax.jit(relative.model_of(arch).apply)
    return apply({"params": params}, images) if arch.pool else apply({"params": params["encoder"]}, images).tokens


def encoder_of(arch: Arch) -> ViT:
    """The encoder of these sizes, computing in float32."""
    return ViT(
        width=arch.width,
        depth=arch.depth,
        heads=arch.heads,
        patch_size=arch.patch_size,
        channels=arch.channels,
        positions=arch.positions,
        norm_eps=arch.norm_eps,
        dtype="float32",
    )


def library_outputs(
    folder: Path, to: str, arch: AnyArch, images: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """What timm or transformers, whichever the folder is for, says of a batch.

    Args:
      folder: as `export.write` leaves it.
      to: the format.
      arch: what was exported.
      images: float32 [B,H,W,C].
      noise: float32 [B,N] for the mask.

    Returns:
      outputs as `outputs` has them, and the library's name; or None, and why there is none.
    """
    forward = {"timm": _timm_forward, "hf": _hf_forward, "mae": _timm_file_forward}[to]
    if to == "mae" and not _timm_reads(arch):
        return None, ""
    name = "transformers" if to == "hf" else "timm"
    try:
        import torch

        admit_torchvision()
        pixels, noise = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(noise)
        with torch.no_grad():
            made = forward(folder, arch, pixels, noise)
    except ImportError:
        return None, f"{name} cannot be imported"
    return made.numpy(), name


def torch_outputs(
    weights: Mapping[str, np.ndarray], arch: Arch, images: np.ndarray, noise: np.ndarray
) -> np.ndarray | None:
    """The same from tensors under the names of facebookresearch/mae, in plain PyTorch; None where it is missing."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return _mae_forward(tensors, arch, pixels, torch.from_numpy(noise)).numpy()


def _timm_forward(folder: Path, arch: AnyArch, pixels: "torch.Tensor", _: "torch.Tensor") -> "torch.Tensor":
    import timm

    return _timm_outputs(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), arch, pixels)


def _timm_outputs(model: "torch.nn.Module", arch: AnyArch, pixels: "torch.Tensor") -> "torch.Tensor":
    if arch.pool:
        return model(pixels)
    tokens = model.forward_features(pixels)
    return tokens.flatten(1, 2) if isinstance(arch, SwinArch) else tokens


def _timm_reads(arch: AnyArch) -> bool:
    """Whether timm has a class for a file in the layout of the reference code."""
    if arch.image_size[0] != arch.image_size[1]:
        return False
    plain = isinstance(arch, SwinArch) and not arch.mask_token and bool(arch.classes or arch.final_norm)
    return plain or isinstance(arch, RelativeArch)


def _timm_file_forward(folder: Path, arch: SwinArch | RelativeArch, pixels: "torch.Tensor", _: Any) -> "torch.Tensor":
    """timm's model with the tensors of a file in the layout of the reference code, which timm itself reads."""
    import timm
    import torch

    weights, _ = files.read(files.find(folder))
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    export, theirs = (swin_export, timm.models.swin_transformer)
    if isinstance(arch, RelativeArch):
        export, theirs = relative_export, timm.models.beit
    config = export.timm_config(arch, {"crop": 1.0, "mean": (), "std": ()}, None)
    args = config["model_args"] | ({} if getattr(arch, "qv_bias", True) else {"qkv_bias": False})
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **args).eval()
    if not args["qkv_bias"]:  # timm's then has no bias at all, MAE-Lite's an ordinary one
        for block in model.blocks:
            block.attn.qkv = torch.nn.Linear(arch.width, 3 * arch.width)
    model.load_state_dict(theirs.checkpoint_filter_fn(tensors, model))
    return _timm_outputs(model, arch, pixels)


def _hf_forward(folder: Path, arch: AnyArch, pixels: "torch.Tensor", noise: "torch.Tensor") -> "torch.Tensor":
    import transformers

    if isinstance(arch, HieraArch):
        return _hiera_forward(folder, arch, pixels, noise)
    if isinstance(arch, SwinArch):
        return _hf_swin_forward(folder, arch, pixels)
    if arch.pool:
        return transformers.ViTForImageClassification.from_pretrained(folder).eval()(pixels).logits
    model = transformers.ViTMAEForPreTraining.from_pretrained(folder, mask_ratio=MASK_RATIO).eval()
    return model(pixels, noise=noise).logits


def _hiera_forward(folder: Path, arch: HieraArch, pixels: "torch.Tensor", noise: "torch.Tensor") -> "torch.Tensor":
    import transformers

    if not arch.decoder:
        return transformers.HieraForImageClassification.from_pretrained(folder).eval()(pixels).logits
    model = transformers.HieraForPreTraining.from_pretrained(folder, mask_ratio=HIERA_MASK_RATIO).eval()
    logits = model(pixels, noise=noise).logits  # channel first
    return logits.unflatten(2, (arch.channels, -1)).transpose(2, 3).flatten(2)


def _hf_swin_forward(folder: Path, arch: SwinArch, pixels: "torch.Tensor") -> "torch.Tensor":
    import transformers

    if arch.classes:
        return transformers.SwinForImageClassification.from_pretrained(folder).eval()(pixels).logits
    return transformers.SwinModel.from_pretrained(folder).eval()(pixels).last_hidden_state


def _mae_forward(weights: Mapping, arch: Arch, pixels: "torch.Tensor", noise: "torch.Tensor") -> "torch.Tensor":
    """models_mae.py and models_vit.py of facebookresearch/mae, written as functions of their own weights."""
    import torch
    from torch.nn import functional

    def linear(x, name):
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], arch.norm_eps)

    def blocks(x, name, depth, heads):
        b, n, d = x.shape
        for i in range(depth):
            block = f"{name}.{i}"
            qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(b, n, 3, heads, d // heads)
            attended = functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
            x = x + linear(attended.transpose(1, 2).reshape(b, n, d), f"{block}.attn.proj")
            hidden = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + linear(hidden, f"{block}.mlp.fc2")
        return x

    embed, table = "patch_embed.proj", weights["pos_embed"]
    x = functional.conv2d(pixels, weights[f"{embed}.weight"], weights[f"{embed}.bias"], stride=arch.patch_size)
    x = x.flatten(2).transpose(1, 2) + table[:, 1:]
    order = noise.argsort(dim=1)
    if arch.decoder:
        kept = int(x.shape[1] * (1 - MASK_RATIO)) or 1
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, x.shape[2]))
    x = torch.cat([(weights["cls_token"] + table[:, :1]).expand(len(x), -1, -1), x], dim=1)
    x = blocks(x, "blocks", arch.depth, arch.heads)
    if arch.pool == "mean":
        return linear(norm(x[:, 1:].mean(dim=1), "fc_norm"), "head")
    x = norm(x, "norm")
    if arch.pool:
        return linear(x[:, 0], "head")
    if not arch.decoder:
        return x
    x = linear(x, "decoder_embed")
    masked = weights["mask_token"].expand(len(x), order.shape[1] + 1 - x.shape[1], -1)
    restored = order.argsort(dim=1)[:, :, None].expand(-1, -1, x.shape[2])
    x = torch.cat([x[:, :1], torch.cat([x[:, 1:], masked], dim=1).gather(1, restored)], dim=1)
    x = blocks(x + weights["decoder_pos_embed"], "decoder_blocks", arch.decoder["depth"], arch.decoder["heads"])
    return linear(norm(x, "decoder_norm"), "decoder_pred")[:, 1:]
