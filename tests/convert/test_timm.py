"""Classifiers of timm's shape: import, export, and the exported folder as timm and transformers load it."""

import re

import numpy as np
import pytest
import timm
import torch
import transformers
from make import imported
from safetensors.torch import save_file

from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.convert.compare import outputs
from lvit_jax.convert.record import arch_of
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record, write_record

CASES = {  # heads, pooling, image size, channels
    "tiny of MAE-Lite": (12, "avg", (32, 32), 3),
    "tiny of DeiT, CLS": (3, "token", (32, 32), 3),
    "not square, two channels": (3, "avg", (32, 64), 2),
}


def classifier(heads, pool, size, channels):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, num_heads=heads, global_pool=pool, img_size=size, in_chans=channels,
        num_classes=5,
    )  # fmt: skip
    for parameter in model.parameters():  # fresh biases are zero, fresh scales one: they would hide a mix-up
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(params=CASES, scope="module")
def case(request, tmp_path_factory):
    """(timm model, folder of its import, folder of the export of that)."""
    root = tmp_path_factory.mktemp("timm")
    heads, pool, size, channels = CASES[request.param]
    model = classifier(heads, pool, size, channels)
    save_file(model.state_dict(), root / "weights.safetensors")
    flags = (f"--heads={heads}", f"--image-size={size[0]}x{size[1]}")
    folder = imported(root / "weights.safetensors", root / "ours", *flags)
    record = read_record(folder)
    record["data"] |= {
        "classes": ["ant", "bee", "cow", "doe", "emu"],
        "mean": [0.5] * channels,
        "std": [0.2] * channels,
    }
    write_record(folder, record)
    assert export_torch([f"--workdir={folder}", "--to=timm", f"--out={root / 'export'}"]) == 0
    return model, folder, root / "export"


def logits(model, pixels):
    with torch.no_grad():
        return model(pixels)


def pixels_for(model):
    return torch.randn(3, model.in_chans, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def test_imported_logits(case):
    model, folder, _ = case
    pixels = pixels_for(model)
    params = load_params(folder)
    arch = arch_of(read_record(folder), params, decoder=False)
    mine = outputs(params, arch, pixels.permute(0, 2, 3, 1).numpy(), None)
    np.testing.assert_allclose(mine, logits(model, pixels).numpy(), atol=1e-4)


def test_exported_folder_in_timm(case):
    model, _, export = case
    pixels = pixels_for(model)
    loaded = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    torch.testing.assert_close(logits(loaded, pixels), logits(model, pixels), atol=1e-6, rtol=0)
    assert loaded.blocks[0].attn.num_heads == model.blocks[0].attn.num_heads
    assert loaded.pretrained_cfg["mean"] == [0.5] * model.in_chans
    assert loaded.pretrained_cfg["label_names"] == ["ant", "bee", "cow", "doe", "emu"]
    assert tuple(timm.data.resolve_model_data_config(loaded)["input_size"]) == (model.in_chans, *pixels.shape[2:])


def test_exported_folder_in_transformers(case):
    model, _, export = case
    pixels = pixels_for(model)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(export).eval()
    assert loaded.config.id2label[4] == "emu"
    torch.testing.assert_close(logits(loaded, pixels).logits, logits(model, pixels), atol=1e-6, rtol=0)


def test_exported_folder_imports_again(case, tmp_path):
    _, folder, export = case
    again = imported(export, tmp_path / "again")  # its config.json states heads and image size
    assert read_record(again)["data"]["classes"] == ["ant", "bee", "cow", "doe", "emu"]
    assert read_record(again)["hashes"] == read_record(folder)["hashes"]


def test_the_snippet_of_the_card_runs(case, capsys):
    model, _, export = case
    card = (export / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], {})
    assert capsys.readouterr().out == "torch.Size([1, 5])\n"
    heads = model.blocks[0].attn.num_heads
    assert f"| attention heads | {heads} |" in card and "0: ant" in card


def test_a_fresh_number_of_classes_in_timm(case):
    _, _, export = case
    assert timm.create_model(f"local-dir:{export}", pretrained=True, num_classes=11).num_classes == 11
