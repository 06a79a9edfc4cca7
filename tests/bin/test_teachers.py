"""Fine-tuning from the command line with a teacher and with relative positions: which weights go where."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from lvit_jax.bin import eval_classify, export_torch, flags, import_torch, train
from lvit_jax.build.run import build_run
from lvit_jax.convert.record import arch_of
from lvit_jax.errors import InputError
from lvit_jax.models.positions import resample
from lvit_jax.models.relative import resample_bias
from lvit_jax.models.vit import vit
from lvit_jax.training.checkpoint import load_params, save_params
from lvit_jax.training.record import read_record, write_record
from lvit_jax.tree import flatten

SHORT = ["--config.train.steps=6", "--config.train.batch_size=16", "--config.optim.warmup_epochs=0.0"]
SMALL = ["--config.model.width=32", "--config.model.depth=2", "--config.model.heads=2"]


def built(name, workdir, *overrides):
    """A run that is ready to start, nothing compiled, and its record."""
    parser = flags.Parser("train", "")
    parser.add_argument("--workdir")
    argv = [f"--config=demo/{name}", f"--workdir={workdir}", *SHORT, *SMALL, *overrides]
    return build_run(flags.parse_with_config(parser, argv)[1].to_dict(), workdir)


def imported(folder, objective, *, width=32, head=None, mean=None, **model):
    """The folder of random weights of a plain ViT on the digits, with a head of so many classes."""
    sizes = {"name": "vit_micro", "width": width, "depth": 2, "heads": 2, "patch_size": 2, "channels": 1, **model}
    encoder = vit(**{**sizes, "dtype": "float32"}).clone(final_norm=head is None)
    params = {"encoder": jax.device_get(encoder.init(jax.random.key(0), np.zeros((1, 8, 8, 1)))["params"])}
    if head:
        rng = np.random.default_rng(0)
        norm = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        fc = {"kernel": rng.standard_normal((width, head), np.float32), "bias": np.zeros(head, np.float32)}
        params["head"] = {"norm": norm, "fc": fc}
    statistics = {"mean": [0.0] if mean is None else mean, "std": [1.0]}
    save_params(folder, params)
    config = {"model": {**sizes, "image_size": 8}, "objective": objective}
    write_record(folder, {"kind": "import", "config": config, "data": {"classes": None, **statistics}})
    return params


TEACHER = """
from lvit_jax.configs.demo import teacher_classifier


def get_config():
    config = teacher_classifier.get_config()
    config.model.update({"width": 32, "depth": 2})
    config.optim.update({"warmup_epochs": 1.0, "blr": 0.02})
    config.train.steps = 250
    return config
"""


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The workdir of the demo, smaller and in 250 steps, and so its teacher."""
    workdir = tmp_path_factory.mktemp("runs") / "distilled"
    short = tmp_path_factory.mktemp("configs") / "short_teacher.py"
    short.write_text(TEACHER)
    quick = ["--config.train.steps=250", "--config.optim.blr=0.02", "--config.optim.warmup_epochs=1.0"]
    quick += [f"--config.init.demo_teacher={short}", "--config.eval.every_epochs=1000.0"]
    train.main(["--config=demo/finetune_distill", f"--workdir={workdir}", *SMALL, *quick])
    return workdir


def digit_statistics(run):
    return {key: read_record(run)["data"][key] for key in ("mean", "std", "classes")}


def test_the_demo_trains_its_teacher_first_and_is_evaluated_without_it(distilled, capsys):
    record = read_record(distilled)
    assert record["config"]["init"]["teacher"] == str(distilled / "teacher") and "teacher" in record["hashes"]
    assert {name.split("/")[0] for name in flatten(load_params(distilled))} == {"encoder", "head", "dist_head"}
    lines = [json.loads(line) for line in next((distilled / "metrics").glob("*")).read_text().splitlines()]
    during = next(line for line in reversed(lines) if "val/loss" in line)
    assert during["val/loss"] < 0.5 * math.log(10)  # half of what ten equal chances cost
    shutil.move(distilled / "teacher", distilled / "gone")
    capsys.readouterr()
    assert eval_classify.main([f"--workdir={distilled}", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["loss"] == pytest.approx(during["val/loss"], rel=1e-5)
    shutil.move(distilled / "gone", distilled / "teacher")


def test_the_frozen_teacher_is_the_file_bit_by_bit(distilled, tmp_path):
    teacher = distilled / "teacher"
    run, _ = built("finetune_distill", tmp_path / "run", f"--config.init.teacher={teacher}")
    frozen, saved = flatten(jax.device_get(run.init().frozen["teacher"])), flatten(load_params(teacher))
    assert set(frozen) == set(saved)
    assert all(np.array_equal(frozen[name], saved[name]) for name in saved)


def test_an_export_says_that_it_has_one_head(distilled, tmp_path):
    assert export_torch.main([f"--workdir={distilled}", "--to=timm", f"--out={tmp_path / 'export'}"]) == 0
    assert "the logits are those of the main head alone" in (tmp_path / "export" / "README.md").read_text()
    params = load_params(distilled)
    for more in ({"encoder": {**params["encoder"], "dist_token": np.zeros((1, 1, 32))}}, {"neck": {}}):
        with pytest.raises(InputError, match="a distillation token or a layer before its heads"):
            arch_of(read_record(distilled), {**params, **more}, decoder=False)


def refused(tmp_path, teacher, *overrides):
    with pytest.raises(InputError) as error:
        built("finetune_distill", tmp_path / "run", f"--config.init.teacher={teacher}", *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_teacher_that_cannot_teach_is_one_line(tmp_path, distilled):
    statistics = digit_statistics(distilled)
    imported(tmp_path / "backbone", None)
    assert "the teacher is a 'backbone'" in refused(tmp_path, tmp_path / "backbone")
    answers = {"name": "classify", "pool": "mean", "classes": 7}
    imported(tmp_path / "seven", answers, head=7)
    assert "7 classes apart, and this run 10" in refused(tmp_path, tmp_path / "seven")
    imported(tmp_path / "grey", {**answers, "classes": 10}, head=10, mean=[0.9])
    assert "trained on pixels of mean" in refused(tmp_path, tmp_path / "grey")
    record = read_record(tmp_path / "grey")
    record["data"] = {**statistics, "classes": statistics["classes"][::-1]}
    write_record(tmp_path / "grey", record)
    assert "class 0 of teacher" in refused(tmp_path, tmp_path / "grey")
    assert "needs --config.init.teacher" in refused(tmp_path, None, "--config.init.demo_teacher=None")


def test_an_imported_regnet_teaches(tmp_path, distilled):
    torch.manual_seed(0)
    model = timm.create_model("regnety_002", num_classes=10, in_chans=1)
    save_file(model.state_dict(), tmp_path / "regnet.safetensors")
    argv = [f"--file={tmp_path / 'regnet.safetensors'}", f"--out={tmp_path / 'teacher'}"]
    assert import_torch.main(argv) == 0
    assert "pixels of mean" in refused(tmp_path, tmp_path / "teacher")
    record = read_record(tmp_path / "teacher")
    record["data"] |= {key: value for key, value in digit_statistics(distilled).items() if key != "classes"}
    write_record(tmp_path / "teacher", record)
    run, _ = built("finetune_distill", tmp_path / "run", f"--config.init.teacher={tmp_path / 'teacher'}")
    frozen = flatten(run.init().frozen["teacher"])
    expected = model.head.fc.weight.detach().numpy().T
    np.testing.assert_array_equal(frozen["head/fc/kernel"], expected)
    with pytest.raises(InputError, match="holds a regnet"):
        built("finetune", tmp_path / "start", f"--config.init.encoder={tmp_path / 'teacher'}")


def test_a_file_that_is_another_regnet_is_one_line(tmp_path):
    save_file(timm.create_model("regnety_004").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"widths .* depths .*; known: regnety_002, regnety_160"):
        import_torch.main([f"--file={tmp_path / 'other.safetensors'}", f"--out={tmp_path / 'out'}"])


QKV = "block_1/attn/qkv/bias"


@pytest.mark.parametrize("qv_bias", [True, False])
def test_a_plain_encoder_starts_one_with_relative_positions(tmp_path, qv_bias):
    plain = flatten(imported(tmp_path / "mae", {"name": "mae"})["encoder"])
    dropped = [r"--config.init.dropped=('decoder/.*','encoder/norm/.*','encoder/block_\d+/attn/qkv/bias')"]
    options = [f"--config.init.encoder={tmp_path / 'mae'}", f"--config.model.qv_bias={qv_bias}"]
    run, _ = built("finetune_rpe", tmp_path / "run", *options, *(dropped if qv_bias else []))
    params = flatten(jax.device_get(run.init().params["encoder"]))
    shared = {name for name in plain if name in params}
    assert set(plain) - shared == {f"norm/{x}" for x in ("scale", "bias")} | (
        {f"block_{i}/attn/qkv/bias" for i in range(2)} if qv_bias else set()
    )
    assert all(np.array_equal(params[name], plain[name]) for name in shared)
    tables = [name for name in params if name.endswith("relative_position_bias_table")]
    assert len(tables) == 2 and not any(params[name].any() for name in tables)
    assert (QKV in params) == (not qv_bias) and ("block_1/attn/q_bias" in params) == qv_bias


def test_without_leave_the_bias_is_not_dropped(tmp_path):
    imported(tmp_path / "mae", {"name": "mae"})
    with pytest.raises(InputError, match="block_0/attn/qkv/bias has no place in this model"):
        built(
            "finetune_rpe", tmp_path / "run", f"--config.init.encoder={tmp_path / 'mae'}", "--config.model.qv_bias=True"
        )


def test_tables_of_another_grid_are_resampled(tmp_path):
    run, record = built("finetune_rpe", tmp_path / "first")
    params = jax.device_get(run.init().params)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.standard_normal(x.shape, np.float32), params)
    save_params(tmp_path / "first", params)
    write_record(tmp_path / "first", record)
    options = [f"--config.init.encoder={tmp_path / 'first'}", "--config.model.image_size=(12,16)"]
    larger = flatten(built("finetune_rpe", tmp_path / "second", *options)[0].init().params["encoder"])
    name = "block_1/attn/relative_position_bias_table"
    old = flatten(params["encoder"])
    np.testing.assert_array_equal(larger[name], resample_bias(old[name], (6, 8), (4, 4)))
    np.testing.assert_array_equal(larger["pos_embed"], resample(old["pos_embed"], (6, 8), (4, 4)))
