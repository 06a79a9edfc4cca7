"""`lvit train` with the demo of SimMIM: it learns, and its encoder fine-tunes."""

import json

import numpy as np
import pytest

from lvit_jax.bin import train
from lvit_jax.bin.flags import load_config
from lvit_jax.build.data import load_data
from lvit_jax.data.pipeline import eval_batches
from lvit_jax.training.checkpoint import load_params
from lvit_jax.tree import flatten


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "simmim"
    train.main(["--config=demo/simmim", f"--workdir={workdir}", "--config.train.steps=400"])
    return workdir


def test_the_demo_predicts_better_than_the_best_constant_image(run):
    data = load_data(load_config("demo/simmim").to_dict())
    batches = list(eval_batches(data.val, data.transform, batch_size=64)())
    pixels = np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
    constant = np.abs(pixels - np.median(pixels, axis=0)).mean()  # the median of each pixel is L1's best constant
    lines = [json.loads(line) for path in (run / "metrics").glob("*.jsonl") for line in path.open()]
    assert next(line["val/loss"] for line in lines if "val/loss" in line) < constant


def test_the_encoder_fine_tunes_without_its_mask_token(run, tmp_path):
    assert "encoder/mask_token" in flatten(load_params(run))
    short = ["--config.train.steps=2", "--config.optim.warmup_epochs=0.0"]
    train.main(["--config=demo/finetune", f"--workdir={tmp_path}/ft", f"--config.init.encoder={run}", *short])
    assert "encoder/mask_token" not in flatten(load_params(tmp_path / "ft"))
