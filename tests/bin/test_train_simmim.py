"""`lvit train` with the demos of SimMIM on ViT and Swin: they learn, and their encoders go on to D² and fine-tuning."""

import numpy as np
import pytest
from learnt import best_constant, last

from lvit_jax.bin import train
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.tree import flatten

SHORT = ["--config.train.steps=2", "--config.train.batch_size=16", "--config.optim.warmup_epochs=0.0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "simmim"
    train.main(["--config=demo/simmim", f"--workdir={workdir}", "--config.train.steps=400"])
    return workdir


def test_the_demo_predicts_better_than_the_best_constant_image(run):
    assert last(run, "val/loss") < best_constant("demo/simmim")[0]
    assert last(run, "val/feature_std") > 0.05, "the untrained encoder has 0.03"


@pytest.mark.slow
def test_the_demos_on_swin_predict_better_than_the_best_constant_image(tmp_path):
    train.main(["--config=demo/simmim_d2", f"--workdir={tmp_path}/d2"])
    for workdir in (tmp_path / "d2", tmp_path / "d2/teacher"):
        assert last(workdir, "val/loss") < best_constant("demo/simmim_swin")[0]
        assert last(workdir, "val/feature_std") > 0.1


def test_the_encoder_fine_tunes_without_its_mask_token(run, tmp_path):
    assert "encoder/mask_token" in flatten(load_params(run))
    train.main(["--config=demo/finetune", f"--workdir={tmp_path}/ft", f"--config.init.encoder={run}", *SHORT])
    assert "encoder/mask_token" not in flatten(load_params(tmp_path / "ft"))


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "swin"
    train.main(["--config=demo/simmim_swin", f"--workdir={workdir}", *SHORT, "--config.model.depths=(1,1)"])
    return workdir


@pytest.mark.slow
def test_d2_on_swin_learns_from_a_run_and_leaves_it_alone(swin, tmp_path):
    config = [f"--config.init.teacher={swin}", "--config.objective.teacher_layer=2"]
    config += ["--config.model.width=16", "--config.model.depths=(1,1)", "--config.model.heads=(2,2)"]
    train.main(["--config=demo/simmim_d2", f"--workdir={tmp_path}/d2", *SHORT, *config])
    params = flatten(load_params(tmp_path / "d2"))
    assert {name.split("/")[0] for name in params} == {"encoder", "decoder", "adapters"}
    assert params["adapters/pair_0/kernel"].shape == (2, 4)  # the student's heads to the teacher's


@pytest.mark.slow
def test_a_swin_fine_tunes_from_its_pre_training(swin, tmp_path):
    model = ["name=swin_micro", "image_size=8", "patch_size=1", "channels=1", "dtype=float32", "depths=(1,1)"]
    data = ["source=digits", "statistics=digits", "randaugment=None", "resample=fast"]
    fields = [f"--config.model.{field}" for field in model] + [f"--config.data.{field}" for field in data]
    workdir = tmp_path / "ft"
    fields += ["--config.log.tensorboard=False", f"--config.init.encoder={swin}"]
    train.main(["--config=finetune/swin_tiny", f"--workdir={workdir}", *SHORT, "--config.eval.batch_size=64", *fields])
    before, after = flatten(load_params(swin)), flatten(load_params(workdir))
    assert "encoder/norm/scale" in before and "encoder/norm/scale" not in after and "head/norm/scale" in after
    assert np.abs(after["encoder/merge_0/kernel"] - before["encoder/merge_0/kernel"]).max() < 0.05


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["--config.objective.mask_ratio=1.0"], ["mask_ratio=1.0"]),
        (["--config.objective.mask_unit=8"], ["masks all 1 units", "below 8"]),
        (["--config.model.image_size=12", "--config.model.window=5"], ["12x12", "windows of 5", "nearest"]),
        (["--config.model.heads=(3,4)"], ["width 32", "3 heads", "nearest"]),
        (["--config.objective.head=linaer"], ["did you mean 'linear'"]),
    ],
)
def test_refused_before_the_first_compile(tmp_path, overrides, words):
    with pytest.raises(InputError) as error:
        train.main(["--config=demo/simmim_swin", f"--workdir={tmp_path}/run", *SHORT, *overrides])
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
