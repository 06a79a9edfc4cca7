"""MAE, D-MAE and D²-MAE in plain PyTorch, written from the papers' definitions on our tree of weights.

Nothing of the package is used: convolution, softmax, norms and gathers are PyTorch's own.
"""

import math
from types import SimpleNamespace

import jax
import numpy as np
import torch
import torch.nn.functional as F


def tensors(tree):
    """A tree of arrays -> the same of float32 leaves that take gradients."""
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x), dtype=torch.float32, requires_grad=True), tree)


def positions(width, grid):
    """MAE's table, token by token: columns first."""
    rows = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            row = []
            for value in (x, y):
                angles = [value / 10000 ** (i / (width / 4)) for i in range(width // 4)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(row)
    return torch.tensor([[0.0] * width, *rows])


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-6)


def block(p, x, heads):
    """-> stream, normed, logits [B,H,N,N]; a partial block (no attn/proj) leaves the stream alone."""
    b, n, d = x.shape
    normed = norm(p["norm1"], x)
    q, k, v = linear(p["attn"]["qkv"], normed).reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) / math.sqrt(d // heads)
    if "proj" not in p["attn"]:
        return x, normed, logits
    x = x + linear(p["attn"]["proj"], (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))
    return x + linear(p["mlp"]["fc2"], F.gelu(linear(p["mlp"]["fc1"], norm(p["norm2"], x)))), normed, logits


def encode(p, images, keep, heads):
    """images [B,H,W,C]; keep [B,K] or None -> tokens (after the norm if there is one), and lists per block."""
    kernel = p["patch_embed"]["kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(images.permute(0, 3, 1, 2), kernel, p["patch_embed"]["bias"], stride=kernel.shape[-1])
    table = positions(x.shape[1], x.shape[2:])
    x = x.flatten(2).transpose(1, 2) + table[1:]
    if keep is not None:
        x = torch.gather(x, 1, keep[:, :, None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1) + table[:1], x], 1)
    out = SimpleNamespace(xs=[], normed=[], logits=[])
    for i in range(sum(name.startswith("block_") for name in p)):
        x, normed, logits = block(p[f"block_{i}"], x, heads)
        out.xs.append(x)
        out.normed.append(normed)
        out.logits.append(logits)
    out.tokens = norm(p["norm"], x) if "norm" in p else x
    return out


def mask_of(noise, ratio):
    """Noise [B,N] -> keep, restore, mask, as MAE's random_masking."""
    noise = torch.tensor(np.asarray(noise))
    kept = int(noise.shape[1] * (1 - ratio))
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    mask = torch.ones_like(noise)
    mask[:, :kept] = 0
    return shuffle[:, :kept], restore, mask.gather(1, restore)


def reconstruction(p, latent, images, restore, mask, heads, patch, norm_pix=True):
    """MAE's decoder and loss: `latent` [B,1+K,D] after the encoder's norm."""
    x = linear(p["embed"], latent)
    missing = p["mask_token"].expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
    places = torch.cat([x[:, 1:], missing], 1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[-1]))
    grid = (images.shape[1] // patch, images.shape[2] // patch)
    x = torch.cat([x[:, :1], places], 1) + positions(x.shape[-1], grid)
    for i in range(sum(name.startswith("block_") for name in p)):
        x = block(p[f"block_{i}"], x, heads)[0]
    prediction = linear(p["head"], norm(p["norm"], x))[:, 1:]
    target = images.reshape(len(images), grid[0], patch, grid[1], patch, -1).permute(0, 1, 3, 2, 4, 5)
    target = target.reshape(len(images), grid[0] * grid[1], -1)
    if norm_pix:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    return ((prediction - target) ** 2).mean(-1).mul(mask).sum() / mask.sum()


def gradients(value, params):
    """d value / d leaf for a tree of leaves; zeros where a leaf plays no part."""
    leaves, structure = jax.tree.flatten(params)
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    arrays = [
        np.zeros(leaf.shape, np.float32) if g is None else g.numpy() for leaf, g in zip(leaves, grads, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)
