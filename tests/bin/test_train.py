"""`lvit train`: what is refused before the first compile, and that the same command again resumes or does nothing."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lvit_jax.bin import train
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import write_record
from lvit_jax.tree import flatten

SHORT = ["--config.train.steps=4", "--config.train.batch_size=16", "--config.optim.warmup_epochs=0.0"]
SMALL = ["--config.model.width=32", "--config.model.depth=2", "--config.model.heads=2"]


def run(config, workdir, *overrides):
    train.main([f"--config=demo/{config}", f"--workdir={workdir}", *SHORT, *SMALL, *overrides])
    return workdir


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """A finished MAE run."""
    return run("mae", tmp_path_factory.mktemp("runs") / "mae")


def refused(tmp_path, config, *overrides):
    """The one line of an InputError; the workdir must not have been made."""
    with pytest.raises(InputError) as error:
        run(config, tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        ("mae", ["--config.data.source=digit"], ["digit", "digits"]),
        ("mae", ["--config.data.source=/my/images"], ["folder:/my/images"]),
        ("mae", ["--config.data.source=folder:/no/such/place"], ["/no/such/place"]),
        ("mae", ["--config.data.train_split=trian"], ["trian", "train"]),
        ("mae", ["--config.train.accumulate=3"], ["16", "3", "15"]),
        ("mae", ["--config.mesh.devices=99"], ["99"]),
        ("mae", ["--config.mesh.fsdp=2"], ["fsdp=2", "nearest: 1"]),
        ("mae", ["--config.mesh.rules=(('encodr/.*', ('fsdp',)),)"], ["encodr"]),
        ("mae", ["--config.model.image_size=9"], ["9", "nearest"]),
        ("mae", ["--config.model.heads=5"], ["32", "heads=5", "nearest: 4"]),
        ("mae", ["--config.objective.mask_ratio=1.5"], ["1.5"]),
        ("mae", ["--config.optim.frozen=('decodr/.*',)"], ["decodr"]),
        ("mae", ["--config.init.encoder=nowhere"], ["nowhere", "config.json"]),
        ("finetune", ["--config.objective.classes=3"], ["classes=3", "10"]),
        ("d2", ["--config.init.demo_teacher=None"], ["d2", "init.teacher"]),
        ("d2", ["--config.init.teacher=nowhere"], ["nowhere", "config.json"]),
    ],
)
def test_refused_before_the_first_compile(tmp_path, config, overrides, words):
    line = refused(tmp_path, config, *overrides)
    assert all(word in line for word in words), line


def test_a_teacher_that_does_not_fit_names_what_differs(tmp_path, mae):
    common = [f"--config.init.teacher={mae}", "--config.objective.decode_from=1"]
    line = refused(tmp_path, "d2", *common, "--config.objective.teacher_layer=2", "--config.model.patch_size=4")
    assert "patch" in line and "4" in line and "2" in line
    line = refused(tmp_path, "d2", *common, "--config.objective.teacher_layer=6")
    assert "layer 6" in line and "1 to 2" in line


def test_weights_that_do_not_fit_name_the_parameter_and_both_shapes(tmp_path, mae):
    line = refused(tmp_path, "finetune", f"--config.init.encoder={mae}", "--config.model.width=48")
    assert "encoder/" in line and "32" in line and "48" in line
    line = refused(tmp_path, "finetune", f"--config.init.encoder={mae}", "--config.init.fresh=('head/.*',)")
    assert "pos_embed" in line


def test_workdirs_that_are_none_are_refused(tmp_path, mae):
    def line(workdir, *overrides):
        with pytest.raises(InputError) as error:
            run("finetune", workdir, *overrides)
        return str(error.value)

    (tmp_path / "file").write_text("")
    assert "is a file" in line(tmp_path / "file")
    foreign = tmp_path / "transformers"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "vit"}')
    assert "import_torch" in line(foreign)
    assert "import_torch" in line(tmp_path / "run", f"--config.init.encoder={foreign}")
    write_record(tmp_path / "import", json.loads((mae / "config.json").read_text()) | {"kind": "import"})
    assert "imported weights" in line(tmp_path / "import")
    (tmp_path / "lost" / "checkpoints" / "4").mkdir(parents=True)
    assert "no config.json" in line(tmp_path / "lost")


def test_a_demo_teacher_is_not_trained_for_a_run_that_cannot_start(tmp_path):
    assert "digit" in refused(tmp_path, "d2", "--config.data.source=digit")


def test_a_teacher_of_other_pixel_statistics_is_refused(tmp_path, mae):
    own = ["--config.objective.decode_from=1", "--config.objective.teacher_layer=2", "--config.data.statistics=half"]
    assert "statistics" in refused(tmp_path, "d2", f"--config.init.teacher={mae}", *own)


def test_an_objective_without_teacher_refuses_one(tmp_path, mae):
    assert "takes no teacher" in refused(tmp_path, "mae", f"--config.init.teacher={mae}")


def test_cls_pooling_goes_on_with_the_norm_of_pre_training(tmp_path, mae):
    own = ["--config.objective.pool=cls", "--config.optim.frozen=('.*',)"]
    done = run("finetune", tmp_path / "cls", f"--config.init.encoder={mae}", *own)
    norms = load_params(done)["head"]["norm"], load_params(mae)["encoder"]["norm"]
    assert all(np.array_equal(norms[0][key], norms[1][key]) for key in ("scale", "bias"))


def test_a_run_resumes_after_its_source_of_weights_is_gone(tmp_path, mae):
    source = tmp_path / "source"
    shutil.copytree(mae, source)
    done = run("finetune", tmp_path / "ft", f"--config.init.encoder={source}")
    shutil.rmtree(source)
    before = flatten(load_params(done))
    run("finetune", tmp_path / "ft", f"--config.init.encoder={source}")
    assert all(np.array_equal(leaf, before[name]) for name, leaf in flatten(load_params(done)).items())


def test_other_head_counts_must_be_asked_for(tmp_path, mae):
    line = refused(tmp_path, "finetune", f"--config.init.encoder={mae}", "--config.model.heads=4")
    assert "2 heads" in line and "heads_from=2" in line
    allowed = ["--config.model.heads=4", "--config.init.heads_from=2"]
    run("finetune", tmp_path / "ok", f"--config.init.encoder={mae}", *allowed)


def test_a_workdir_with_another_run_names_the_keys_that_differ(mae):
    before = (mae / "config.json").read_text()
    with pytest.raises(InputError, match="optim/blr"):
        run("mae", mae, "--config.optim.blr=0.5")
    assert (mae / "config.json").read_text() == before


def test_a_finished_run_does_nothing_and_free_keys_may_differ(mae, capsys):
    before = flatten(load_params(mae))
    run("mae", mae, "--config.checkpoint.keep=5", "--config.model.remat=True")
    assert "finished" in capsys.readouterr().err
    assert all(np.array_equal(leaf, before[name]) for name, leaf in flatten(load_params(mae)).items())


def test_the_record_says_what_the_run_is(mae):
    record = json.loads((mae / "config.json").read_text())
    assert record["kind"] == "run" and record["config"]["objective"]["name"] == "mae"
    assert record["data"]["classes"] == [str(i) for i in range(10)] and len(record["data"]["mean"]) == 1


def test_fine_tuning_starts_from_the_encoder_and_trains_only_the_head_afresh(tmp_path, mae):
    done = run("finetune", tmp_path / "ft", f"--config.init.encoder={mae}", "--config.optim.frozen=('encoder/.*',)")
    encoder, source = flatten(load_params(done)["encoder"]), flatten(load_params(mae)["encoder"])
    shared = [name for name in encoder if name in source]
    assert "block_1/mlp/fc2/kernel" in shared and "pos_embed" not in shared
    assert all(np.array_equal(encoder[name], source[name]) for name in shared)


def test_a_demo_without_teacher_trains_its_own_first(tmp_path, monkeypatch):
    teacher = tmp_path / "tiny_teacher.py"
    lines = ["from lvit_jax.configs.demo import teacher", "def get_config():", "    config = teacher.get_config()"]
    lines += ["    config.model.update({'width': 32, 'depth': 2, 'heads': 2})", "    config.train.batch_size = 16"]
    lines += ["    config.train.steps = 4", "    config.optim.warmup_epochs = 0.0", "    return config"]
    teacher.write_text("\n".join(lines))
    overrides = [f"--config.init.demo_teacher={teacher}", "--config.objective.teacher_layer=2"]
    done = run("d2", tmp_path / "d2", *overrides, "--config.objective.decode_from=1")
    assert (done / "teacher" / "config.json").exists()
    record = json.loads((done / "config.json").read_text())
    assert record["config"]["init"]["teacher"] == str(done / "teacher") and record["hashes"]["teacher"]


def test_training_on_any_tree_of_images_without_labels(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "images" / f"deep{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20 + i, 31, 3), np.uint8)).save(path)
    (tmp_path / "images" / "loose.jpg").write_bytes(b"no image")
    done = run("mae", tmp_path / "run", f"--config.data.source=folder:{tmp_path / 'images'}", "--config.data.pad=0")
    lines = [json.loads(line) for line in next((done / "metrics").glob("*.jsonl")).read_text().splitlines()]
    assert lines[-1]["step"] == 4 and any("val/loss" in line for line in lines)
    assert list((done / "figures").glob("*.png"))
