"""Exports of runs: pre-training, D²-MAE, classifiers; what is checked, refused, and left when something fails."""

import json
import re
import subprocess
import sys

import make
import numpy as np
import pytest
import timm
import torch
import transformers
from make import DECODER, SMALL, exported, fails, imported, random_params

from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.bin.import_torch import main as import_torch
from lvit_jax.convert import FORMATS, export
from lvit_jax.convert.compare import MASK_RATIO, fixed_batch, outputs
from lvit_jax.convert.params import to_torch
from lvit_jax.training.checkpoint import load_params

MODEL = {"name": "vit_micro", "image_size": 16, "width": 24, "heads": 3, "patch_size": 4, "channels": 3}


def workdir(path, params, objective, **record):
    return make.workdir(path, params, MODEL, objective, **record)


@pytest.fixture(scope="module")
def mae_run(tmp_path_factory):
    params = random_params(SMALL._replace(decoder=DECODER))
    objective = {"name": "mae", "decoder": {k: DECODER[k] for k in ("width", "depth", "heads")}, "mask_ratio": 0.5}
    return workdir(tmp_path_factory.mktemp("runs") / "mae", params, objective, licence="cc-by-nc-4.0")


@pytest.fixture(scope="module")
def d2_run(tmp_path_factory, mae_run):
    """Four blocks and the probe behind them; the decoder reads block 2; the teacher is the run above."""
    params = random_params(SMALL._replace(depth=5, decoder=DECODER))
    last = params["encoder"].pop("block_4")
    probe = {"norm1": last["norm1"], "attn": {"qkv": last["attn"]["qkv"]}}
    params["adapters"] = {"pair_0": {"kernel": np.ones((3, 3), np.float32)}, "probe": probe}
    objective = {"name": "d2", "decoder": {k: DECODER[k] for k in ("width", "depth", "heads")}, "decode_from": 2}
    return workdir(tmp_path_factory.mktemp("runs") / "d2", params, objective, init={"teacher": str(mae_run)})


def test_pretrained_backbone_in_timm(mae_run, tmp_path):
    out = exported(mae_run, tmp_path / "out", "timm")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    arch = SMALL
    images, noise = fixed_batch(arch)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = model.forward_features(pixels).numpy()
    np.testing.assert_allclose(theirs, outputs(load_params(mae_run), arch, images, noise), atol=1e-4)
    assert model.num_classes == 0 and json.loads((out / "config.json").read_text())["model_args"]["num_heads"] == 3


def test_d2_gives_its_whole_blocks(d2_run, tmp_path):
    out = exported(d2_run, tmp_path / "out", "timm")
    assert len(timm.create_model(f"local-dir:{out}", pretrained=True).blocks) == 4
    card = (out / "README.md").read_text()
    assert "the final norm was trained on the output of block 8" not in card  # this run decodes from block 2
    assert "the final norm was trained on the output of block 2" in card
    assert re.search(r"- teacher: `.*/mae` \(objective: mae\); licence: cc-by-nc-4.0", card)


def test_d2_with_its_decoder_is_a_shallower_mae(d2_run, tmp_path):
    out = exported(d2_run, tmp_path / "out", "hf")
    model = transformers.ViTMAEForPreTraining.from_pretrained(out, mask_ratio=MASK_RATIO).eval()
    assert model.config.num_hidden_layers == 2
    arch = SMALL._replace(decoder=DECODER)
    images, noise = fixed_batch(arch)
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        theirs = model(pixels, noise=torch.from_numpy(noise)).logits.numpy()
    np.testing.assert_allclose(theirs, outputs(load_params(d2_run), arch, images, noise), atol=1e-4)
    label = "The depth-2 masked autoencoder of a D²-MAE run"
    assert label in (out / "README.md").read_text() and label in (out / "config.json").read_text()


def test_mae_file_of_a_d2_run_with_and_without_decoder(d2_run, tmp_path):
    plain = torch.load(exported(d2_run, tmp_path / "plain", "mae") / "mae.pth", weights_only=True)
    assert "blocks.3.mlp.fc1.weight" in plain["model"] and "decoder_embed.weight" not in plain["model"]
    whole = torch.load(exported(d2_run, tmp_path / "whole", "mae", "--decoder") / "mae.pth", weights_only=True)
    assert "blocks.2.norm1.weight" not in whole["model"] and "decoder_embed.weight" in whole["model"]
    assert "depth-2" in whole["notes"][0]


@pytest.mark.parametrize("to", ["mae", "hf"])
def test_import_of_an_export_is_the_run(mae_run, to, tmp_path):
    out = exported(mae_run, tmp_path / "out", to)
    flags = ["--heads=3", "--decoder-heads=2"] if to == "mae" else []
    again = load_params(imported(out / "mae.pth" if to == "mae" else out, tmp_path / "again", *flags))
    one, other = (to_torch(p, SMALL._replace(decoder=DECODER), "mae") for p in (load_params(mae_run), again))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_without_torch(mae_run, tmp_path, monkeypatch, capsys):
    for name in ("torch", "timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    out = exported(mae_run, tmp_path / "mae", "mae", "--json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "PyTorch is not installed: wrote mae.safetensors in place of mae.pth"
    assert json.loads(lines[-1])["checked_with"] == "jax"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "mae.safetensors"]
    exec(re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)[1], {})
    exported(mae_run, tmp_path / "timm", "timm")


@pytest.mark.parametrize("to", ["mae", "hf"])
def test_the_snippet_of_the_card_runs(mae_run, to, tmp_path, capsys):
    card = (exported(mae_run, tmp_path / "out", to) / "README.md").read_text()
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], {})
    assert capsys.readouterr().out.strip() == ("torch.Size([1, 16, 48])" if to == "hf" else "50 20920")
    assert "| decoder | width 16, 1 blocks, 2 heads |" in card and "license: cc-by-nc-4.0" in card


def test_a_wrong_export_is_found_and_removed(mae_run, tmp_path, monkeypatch):
    def swapped(*args):  # q and k of one block in the wrong order
        weights = to_torch(*args)
        weights["blocks.1.attn.qkv.weight"] = np.roll(weights["blocks.1.attn.qkv.weight"], 24, axis=0)
        return weights

    monkeypatch.setattr(export, "to_torch", swapped)
    for to in ("timm", "mae"):
        error = fails(export_torch, [f"--workdir={mae_run}", f"--to={to}", f"--out={tmp_path / 'out'}"])
        assert "differs by" in error
    assert not list(tmp_path.iterdir())


def test_what_formats_cannot_hold(tmp_path):
    params = random_params(SMALL._replace(pool="mean", classes=5))
    run = workdir(tmp_path / "run", params, {"name": "classify", "pool": "mean"})
    out = f"--out={tmp_path / 'out'}"
    assert "--to=timm is the way" in fails(export_torch, [f"--workdir={run}", "--to=hf", out])
    assert "there is no decoder in this classify" in fails(
        export_torch, [f"--workdir={run}", "--to=mae", "--decoder", out]
    )
    assert "not of --to=timm" in fails(export_torch, [f"--workdir={run}", "--to=timm", "--no-decoder", out])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_out_that_is_there_is_left_alone(mae_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    out = f"--out={tmp_path / 'out'}"
    assert "is there already" in fails(export_torch, [f"--workdir={mae_run}", "--to=timm", out])
    assert "is there already" in fails(import_torch, ["--file=x.pth", "--heads=3", out])
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    (tmp_path / "out/notes.txt").unlink()
    exported(mae_run, tmp_path / "out", "timm")  # an empty folder is fine


def test_flags_are_checked_without_jax(tmp_path):
    code = (
        "import sys; from lvit_jax.bin.export_torch import main\n"
        "from lvit_jax.errors import InputError\n"
        f"try: main(['--workdir=x', '--to=tim', '--out={tmp_path / 'out'}'])\n"
        "except InputError as e: print(e)\n"
        "assert not {'jax', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == f"unknown export format 'tim' (did you mean 'timm'?); valid: {', '.join(sorted(FORMATS))}\n"


@pytest.mark.parametrize(("to", "library"), [("timm", "timm"), ("hf", "transformers")])
def test_without_the_library_plain_pytorch_checks(mae_run, to, library, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    exported(mae_run, tmp_path / "out", to, "--json")
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["checked_with"] == f"torch ({library} cannot be imported)"
    assert 0 < figures["max_abs_difference"] < 1e-4
