"""A small transformers Hiera with random weights, and its weights as our tree, written out without the converter."""

import numpy as np
import torch
import transformers

SIZES = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 96]}


def hf_model(kind: str, **config):
    """HieraForPreTraining or HieraForImageClassification, no zeros and ones left among its weights."""
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.HieraConfig(**(SIZES | config))).eval()
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return model


def from_hf(model) -> dict:
    """Its weights as {encoder, decoder} or {encoder, head}."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def linear(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def conv(name):
        return state[f"{name}.weight"].transpose(2, 3, 1, 0), state[f"{name}.bias"]

    def block(name):
        made = {
            "norm1": norm(f"{name}.layernorm_before"),
            "attn": {part: linear(f"{name}.attn.{part}") for part in ("qkv", "proj")},
            "norm2": norm(f"{name}.layernorm_after"),
            "mlp": {part: linear(f"{name}.mlp.{part}") for part in ("fc1", "fc2")},
        }
        return made | ({"proj": linear(f"{name}.proj")} if f"{name}.proj.weight" in state else {})

    kernel, bias = conv("hiera.embeddings.patch_embeddings.projection")
    encoder = {
        "patch_embed": {"kernel": kernel, "bias": bias},
        "pos_embed": state["hiera.embeddings.position_embeddings"],
    }
    layers = [(stage, i) for stage, depth in enumerate(model.config.depths) for i in range(depth)]
    for number, (stage, i) in enumerate(layers):
        encoder[f"block_{number}"] = block(f"hiera.encoder.stages.{stage}.layers.{i}")
    if "classifier.weight" in state:
        return {
            "encoder": encoder,
            "head": {"norm": norm("hiera.pooler.layernorm"), "fc": linear("classifier")},
        }
    encoder["fusion"] = {}
    for i in range(model.config.num_query_pool):
        kernel, bias = conv(f"multiscale_fusion.multi_scale_fusion_heads.{i}")
        encoder["fusion"] |= {f"kernel_{i}": kernel, f"bias_{i}": bias}
    encoder["norm"] = norm("encoder_norm")
    decoder = {
        "embed": linear("decoder.decoder_embeddings"),
        "mask_token": state["decoder.mask_token"],
        "pos_embed": state["decoder.decoder_position_embeddings"],
        "norm": norm("decoder.decoder_norm"),
        "head": linear("decoder.decoder_pred"),
    }
    for i in range(model.config.decoder_depth):
        decoder[f"block_{i}"] = block(f"decoder.decoder_block.layers.{i}")
    return {"encoder": encoder, "decoder": decoder}


def channel_last(patches: np.ndarray, channels: int = 3) -> np.ndarray:
    """[B,N,P] of transformers, channel first, in our (row, column, channel) order."""
    return patches.reshape(*patches.shape[:2], channels, -1).swapaxes(2, 3).reshape(patches.shape)
