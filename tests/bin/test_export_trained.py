"""`lvit export_torch` of runs that `lvit train` left: Swin pre-trained and fine-tuned, relative positions."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers

from lvit_jax.bin import export_torch, train
from lvit_jax.build.trained import load_trained
from lvit_jax.convert.load import load
from lvit_jax.training.checkpoint import load_params
from lvit_jax.tree import flatten

SHORT = ["--config.train.steps=2", "--config.train.batch_size=16", "--config.optim.warmup_epochs=0.0"]
MODEL = ["name=swin_micro", "image_size=8", "patch_size=1", "channels=1", "dtype=float32", "depths=(1,2)"]
DATA = ["source=digits", "statistics=digits", "randaugment=None", "resample=fast"]
IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 1), np.float32)
PIXELS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "simmim"
    train.main(["--config=demo/simmim_swin", f"--workdir={workdir}", *SHORT, "--config.model.depths=(1,2)"])
    return workdir


def exported(run, out, to, capsys):
    """The folder, and what the command reported."""
    capsys.readouterr()
    assert export_torch.main([f"--workdir={run}", f"--to={to}", f"--out={out}", "--json"]) == 0
    return out, json.loads(capsys.readouterr().out.splitlines()[-1])


def same(theirs, run):
    """Within 1e-4 of the largest logit of the run itself."""
    trained = load_trained(run)
    ours = np.asarray(trained.objective.predict(trained.params, trained.state, {"image": IMAGES})["logits"])
    np.testing.assert_allclose(theirs.detach().numpy(), ours, rtol=0, atol=1e-4 * np.abs(ours).max())


def test_a_pre_trained_swin(pretrained, tmp_path, capsys):
    through = {to: exported(pretrained, tmp_path / to, to, capsys)[1]["checked_with"] for to in ("timm", "hf", "mae")}
    assert through == {"timm": "timm", "hf": "transformers", "mae": "jax"}
    again = flatten(load(tmp_path / "mae/swin.pth", {"image_size": (8, 8)}).params)
    ours = flatten(load_params(pretrained))
    assert again.keys() == ours.keys() and all((again[name] == ours[name]).all() for name in ours)


@pytest.mark.slow
def test_a_fine_tuned_swin(pretrained, tmp_path, capsys):
    fields = [f"--config.model.{field}" for field in MODEL] + [f"--config.data.{field}" for field in DATA]
    fields += ["--config.log.tensorboard=False", "--config.eval.batch_size=64", f"--config.init.encoder={pretrained}"]
    run = tmp_path / "ft"
    train.main(["--config=finetune/swin_tiny", f"--workdir={run}", *SHORT, *fields])
    out, _ = exported(run, tmp_path / "timm", "timm", capsys)
    same(timm.create_model(f"local-dir:{out}", pretrained=True).eval()(PIXELS), run)
    out, _ = exported(run, tmp_path / "hf", "hf", capsys)
    same(transformers.AutoModelForImageClassification.from_pretrained(out).eval()(PIXELS).logits, run)
    exported(run, tmp_path / "mae", "mae", capsys)


def test_relative_positions(tmp_path, capsys):
    run = tmp_path / "ft"
    train.main(["--config=demo/finetune_rpe", f"--workdir={run}", *SHORT, "--config.model.depth=2"])
    out, figures = exported(run, tmp_path / "timm", "timm", capsys)
    assert figures["checked_with"] == "timm" and "no bias of keys" in figures["notes"]
    same(timm.create_model(f"local-dir:{out}", pretrained=True).eval()(PIXELS), run)
    out, _ = exported(run, tmp_path / "mae", "mae", capsys)
    again, ours = flatten(load(out / "rpe.pth", {}).params), flatten(load_params(run))
    assert again.keys() == ours.keys() and all((again[name] == ours[name]).all() for name in ours)
