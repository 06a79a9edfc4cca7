"""Swin weights in: folders of transformers, files in the layouts of timm and SimMIM; outputs equal the libraries'."""

import jax
import numpy as np
import pytest
import timm
import torch
from make import imported
from transformers import SwinConfig, SwinForImageClassification, SwinForMaskedImageModeling

from lvit_jax.bin.import_torch import main as import_torch
from lvit_jax.build.parts import encoder, make_objective
from lvit_jax.errors import InputError
from lvit_jax.objectives.simmim import SimMIM, reconstruction_loss
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record
from lvit_jax.tree import flatten

SIZES = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "encoder_stride": 8,
}
IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
PIXELS = torch.tensor(IMAGES).permute(0, 3, 1, 2)


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def logits(workdir):
    """Of the classifier that the folder's own record describes."""
    record = read_record(workdir)
    config = {**record["config"], "init": {"teacher": None}}
    objective = make_objective(config, tuple("abcde"))
    return jax.jit(objective.predict)(load_params(workdir), None, {"image": IMAGES})["logits"]


@pytest.fixture(scope="module")
def timm_model():
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return randomised(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **sizes))


def test_a_transformers_classifier(tmp_path):
    model = randomised(SwinForImageClassification(SwinConfig(**SIZES, num_labels=5)))
    model.save_pretrained(tmp_path / "hf")
    close(logits(imported(tmp_path / "hf", tmp_path / "in")), model(PIXELS).logits)


def test_a_timm_classifier(tmp_path, timm_model):
    torch.save(timm_model.state_dict(), tmp_path / "swin.pth")
    close(logits(imported(tmp_path / "swin.pth", tmp_path / "in", "--image-size=32")), timm_model(PIXELS))


def test_a_transformers_simmim(tmp_path):
    model = randomised(SwinForMaskedImageModeling(SwinConfig(**SIZES)))
    model.save_pretrained(tmp_path / "hf")
    workdir = imported(tmp_path / "hf", tmp_path / "in")
    record, params = read_record(workdir), load_params(workdir)
    assert record["config"]["objective"]["name"] == "simmim"
    mask = np.random.default_rng(1).integers(0, 2, (2, 64)).astype(np.float32)
    out = jax.jit(SimMIM(encoder(record["config"]["model"])).apply)({"params": params}, IMAGES, mask)
    pixels = np.kron(mask.reshape(2, 8, 8), np.ones((4, 4)))[..., None]
    expected = model(PIXELS, bool_masked_pos=torch.tensor(mask).bool()).loss
    np.testing.assert_allclose(reconstruction_loss(out, IMAGES, pixels, False), expected.item(), rtol=1e-4)


@pytest.fixture(scope="module")
def student(timm_model):
    """A file as MAE-Lite saves a D² student: official names, a third, partial block in the last stage, a block head."""
    weights = {}
    for name, array in timm_model.state_dict().items():
        if not name.startswith(("head.", "norm.")):
            weights[f"module.model.encoder.{name.replace('layers.1.downsample', 'layers.0.downsample')}"] = array
    encoder = "module.model.encoder."
    for leaf in ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.relative_position_bias_table"):
        weights[f"{encoder}layers.1.blocks.2.{leaf}"] = weights[f"{encoder}layers.1.blocks.0.{leaf}"]
    weights |= {f"{encoder}norm.weight": torch.ones(16), f"{encoder}norm.bias": torch.zeros(16)}
    weights |= {f"{encoder}mask_token": torch.ones(1, 1, 16), "module.model.decoder.0.weight": torch.ones(8, 16)}
    teacher = {f"module.tch_model.{name}": array for name, array in timm_model.state_dict().items()}
    return {"state_dict": weights | teacher}


def test_a_d2_student_of_mae_lite_gives_its_whole_blocks(tmp_path, student, timm_model, capsys):
    torch.save(student, tmp_path / "d2.pth.tar")
    workdir = imported(tmp_path / "d2.pth.tar", tmp_path / "in", "--image-size=32")
    model, params = encoder(read_record(workdir)["config"]["model"]), load_params(workdir)
    assert set(params) == {"encoder"} and model.depths == (2, 2) and "norm" not in params["encoder"]
    features = jax.jit(model.clone(final_norm=False).apply)({"params": params["encoder"]}, IMAGES)
    timm_model.norm, kept = torch.nn.Identity(), timm_model.norm
    close(features.tokens, timm_model.forward_features(PIXELS).flatten(1, 2))
    timm_model.norm = kept
    said = capsys.readouterr().out
    assert "partial last block" in said and "tensors of another model" in said


def test_the_block_head_of_mae_lite(tmp_path, student):
    """Its names, and the order of its pixels: (channel, row, column) there, channel last here."""
    weights = {k: v for k, v in student["state_dict"].items() if ".blocks.2." not in k and "tch_model" not in k}
    outer, n = "module.model.decoder", 32
    weights |= {f"{outer}.0.weight": torch.ones(n, 32), f"{outer}.0.bias": torch.ones(n)}
    block = {name: w for name, w in weights.items() if "layers.1.blocks.0." in name}
    weights |= {name.replace("module.model.encoder.layers.1.blocks.0", f"{outer}.1"): w for name, w in block.items()}
    conv = torch.randn(192, n, 1, 1)
    weights |= {"module.model.decoder_pred.0.weight": conv, "module.model.decoder_pred.0.bias": torch.arange(192.0)}
    weights |= {f"module.model.encoder.norm.{leaf}": torch.ones(32) for leaf in ("weight", "bias")}
    torch.save({"state_dict": weights}, tmp_path / "simmim.pth")
    workdir = imported(tmp_path / "simmim.pth", tmp_path / "in", "--image-size=32")
    assert read_record(workdir)["config"]["objective"]["head"] == {"width": 32, "heads": 4, "window": 4}
    params = flatten(load_params(workdir))
    assert "decoder/block_0/attn/bias_table" in params and params["decoder/embed/kernel"].shape == (32, n)
    shuffled = torch.nn.functional.pixel_shuffle(conv[None, :, 0, 0].reshape(1, 192, 1, 1), 8)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(params["decoder/head/kernel"][0], shuffled.flatten())


def test_what_does_not_fit_is_one_line(tmp_path, timm_model):
    def fails(weights, match, *said):
        torch.save(weights, tmp_path / "bad.pth")
        with pytest.raises(InputError, match=match):
            import_torch([f"--file={tmp_path}/bad.pth", f"--out={tmp_path}/bad", "--image-size=32", *said])

    weights = timm_model.state_dict()
    without = {name: array for name, array in weights.items() if name != "layers.0.blocks.1.attn.proj.weight"}
    fails(without, "no tensor 'layers.0.blocks.1.attn.proj.weight'")
    fails(weights | {"absolute_pos_embed": torch.ones(1, 64, 16)}, "'absolute_pos_embed' that a Swin of depths")
    fails(weights, r"has \(2, 4\) heads by its bias tables, not 3", "--heads=3")
