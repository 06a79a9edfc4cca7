"""TinyMIM through `lvit train`: the demo learns, a student is the next teacher, and goes on as a classifier."""

import re

import numpy as np
import pytest

from lvit_jax.bin import export_torch, train
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.report import read_metrics
from lvit_jax.tree import flatten

pytestmark = pytest.mark.slow  # a teacher trained until its attention says something
UNUSED = r"encoder/(norm|block_3/(attn/proj|norm2|mlp))/.*"  # of the demo's student: no relation depends on it


def run(config, workdir, *overrides):
    train.main([f"--config=demo/{config}", f"--workdir={workdir}", *overrides])
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("tinymim")


@pytest.fixture(scope="module")
def demo(runs):
    """The demo cut short: a MAE of 4 heads, and its student of 2 heads, 4 in the last block.

    Many small steps for the teacher: until it says more than the mean image, its attention is uniform.
    """
    quick = ["--config.optim.warmup_epochs=1.0", "--config.log.every_steps=10"]
    many = ["--config.train.steps=600", "--config.train.batch_size=16", "--config.optim.blr=4e-2"]
    taught = run("teacher", runs / "teacher", *quick, *many)
    return run("tinymim", runs / "demo", "--config.train.steps=100", *quick, f"--config.init.teacher={taught}")


@pytest.fixture(scope="module")
def second(runs, demo):
    """One step of a student of that student."""
    own = ["--config.train.steps=1", "--config.optim.warmup_epochs=0.0", "--config.objective.teacher_layer=4"]
    return run("tinymim", runs / "second", *own, f"--config.init.teacher={demo}")


def test_the_demo_learns_from_a_trained_teacher_and_does_not_collapse(demo):
    records = read_metrics(demo)
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.7 * losses[0], losses
    spread = [record["val/feature_std"] for record in records if "val/feature_std" in record]
    assert spread[-1] > 0.12, "the untrained student has 0.06"


def test_what_no_relation_depends_on_neither_learns_nor_decays(demo, second):
    """Both runs start from the same fresh weights, as they have one seed."""
    ours, theirs = (flatten(load_params(workdir)) for workdir in (demo, second))
    for name, leaf in ours.items():
        assert np.array_equal(leaf, theirs[name]) == bool(re.fullmatch(UNUSED, name)), name


def test_a_teacher_that_does_not_fit_is_one_line(runs, demo, second):
    taught = f"--config.init.teacher={demo}"
    with pytest.raises(InputError, match=r"block 4 of the teacher has 4 heads.*last_heads=4"):
        run("tinymim", runs / "none", taught, "--config.objective.teacher_layer=4", "--config.model.last_heads=2")
    with pytest.raises(InputError, match="no teacher block 5: it has blocks 1 to 4; nearest: 4"):
        run("tinymim", runs / "none", taught, "--config.objective.teacher_layer=5")
    assert not (runs / "none").exists()


def test_another_last_block_must_be_asked_for_in_fine_tuning(runs, demo):
    own = ["--config.model.heads=2", f"--config.init.encoder={demo}", "--config.train.steps=1"]
    own += ["--config.optim.warmup_epochs=0.0", "--config.optim.frozen=('encoder/.*',)"]
    with pytest.raises(InputError, match=r"2 \(in the last block 4\) heads and this model 2; set .*heads_from=2"):
        run("finetune", runs / "ft", *own)
    done = run("finetune", runs / "ft", *own, "--config.init.heads_from=2")
    ours, theirs = (flatten(load_params(workdir)["encoder"]) for workdir in (done, demo))
    for name, leaf in ours.items():
        assert name == "pos_embed" or np.array_equal(leaf, theirs[name]), name


def test_no_export_hides_the_heads_of_the_last_block(runs, demo):
    with pytest.raises(InputError, match="last block has 4 heads and the others 2"):
        export_torch.main([f"--workdir={demo}", "--to=timm", f"--out={runs / 'out'}"])
    assert not (runs / "out").exists()
