"""Laws of the loop: resume == continue bit by bit, NaN keeps the last good checkpoint, a finished run does nothing."""

import itertools
import os

import numpy as np
import pytest
from toy import batches, make_run, values

from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import steps
from lvit_jax.training.loop import NonFinite, fit
from lvit_jax.training.mesh import jit_step
from lvit_jax.training.report import read_metrics
from lvit_jax.types import Eval

OPTIONS = {"ema": 0.9, "accumulate": 2}


# Of the toy, per image: student and teacher forward, then the gradients of both kernels and of the hidden layer.
FLOPS = 2 * (2 * (8 * 16 + 16 * 4)) + 2 * (8 * 16 + 16 * 4 + 16 * 4)


class Stop(Exception):
    """What kills a run in these tests."""


def dying(last):
    """Batches of a pipeline that dies when asked for batch `last`, counted from the start of the run."""
    return lambda step: itertools.chain(itertools.islice(batches(step), last - step), _raise())


def _raise():
    raise Stop
    yield


def assert_equal(a, b):
    a, b = values(a), values(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped: its workdir and last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fit(make_run(workdir, **OPTIONS))


def test_resumed_equals_never_stopped(whole, tmp_path):
    for last in (2, 7, 11):  # before the first checkpoint, between two, after the second
        with pytest.raises(Stop):
            fit(make_run(tmp_path, **OPTIONS, batches=dying(last)))
    assert steps(tmp_path) == [8, 4]  # what was being saved when the pipeline died is there
    assert_equal(fit(make_run(tmp_path, **OPTIONS)), whole[1])


def test_resumed_metrics_are_those_of_the_run_that_was_never_stopped(whole, tmp_path):
    with pytest.raises(Stop):
        fit(make_run(tmp_path, **OPTIONS, batches=dying(7)))
    fit(make_run(tmp_path, **OPTIONS))
    assert sorted(os.listdir(tmp_path / "metrics")) == ["00000000.jsonl", "00000004.jsonl"]
    for mine, theirs in zip(read_metrics(tmp_path), read_metrics(whole[0]), strict=True):
        assert {k: mine[k] for k in ("step", "loss", "lr")} == {k: theirs[k] for k in ("step", "loss", "lr")}


def test_every_figure_is_reported(whole):
    records = read_metrics(whole[0])
    assert [record["step"] for record in records] == list(range(1, 13))
    keys = {"step", "loss", "error", "grad_norm", "lr", "broken", "images_per_s", "images_per_s_per_device"}
    keys |= {"data_wait", "checkpoint_s", "evaluation_s", "goodput", "eta"}
    assert all(record.keys() == keys for record in records)
    assert [record["step"] for record in records if not 0 < record["goodput"] < 1] == [1]  # it compiled
    assert [record["step"] for record in records if record["checkpoint_s"]] == [5, 9]  # in the report after the save
    assert [record["broken"] for record in records][-1] == 4  # batches 0, 3, 6 and 9 hold one each
    assert records[-1]["eta"] == 0
    assert all(0 <= record["data_wait"] <= 1 and record["images_per_s"] > 0 for record in records[1:])


def test_utilisation_where_the_peak_of_the_devices_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("lvit_jax.training.loop.peak_flops", {"cpu": 1e9}.get)
    fit(make_run(tmp_path, **OPTIONS))
    for record in read_metrics(tmp_path):
        assert record["mfu"] == pytest.approx(record["images_per_s"] * FLOPS / 1e9)


def test_means_over_the_interval_of_the_log(whole, tmp_path):
    fit(make_run(tmp_path, **OPTIONS, log_every=5))
    coarse, fine = read_metrics(tmp_path), read_metrics(whole[0])
    assert [record["step"] for record in coarse] == [5, 10, 12]
    for record, window in zip(coarse, (fine[:5], fine[5:10], fine[10:]), strict=True):
        assert record["loss"] == pytest.approx(np.mean([r["loss"] for r in window]), rel=1e-6)
        assert record["lr"] == window[-1]["lr"]


def test_a_finished_run_says_so_and_does_nothing(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")}
    state = fit(make_run(whole[0], **OPTIONS, batches=dying(0)))
    assert "finished at step 12, nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")} == before
    assert_equal(state, whole[1])


def test_the_teacher_is_neither_trained_nor_saved(whole):
    first = make_run(whole[0], **OPTIONS).init()
    np.testing.assert_array_equal(whole[1].frozen["teacher"]["fc1"]["kernel"], first.frozen["teacher"]["fc1"]["kernel"])
    checkpoint = whole[0] / "checkpoints" / "12"
    assert not any(b"teacher" in path.read_bytes() for path in checkpoint.rglob("*") if path.is_file())


def test_a_nan_in_a_gradient_at_a_checkpoint_step_leaves_the_checkpoint_before_it(tmp_path):
    with pytest.raises(NonFinite, match="step 8: grad_norm is nan") as error:
        fit(make_run(tmp_path, poison=8))
    assert error.value.step == 8
    assert "\n" not in str(error.value)
    assert steps(tmp_path) == [4]


def test_a_nan_between_checkpoints_stops_the_run_at_the_next_step(tmp_path):
    served = []

    def counted(step):
        for batch in batches(step):
            served.append(step)
            yield batch

    with pytest.raises(NonFinite, match="step 6: "):
        fit(make_run(tmp_path, poison=6, batches=counted))
    assert len(served) == 7  # step 6 was read once step 7 was under way
    assert steps(tmp_path) == [4]


def test_a_truncated_checkpoint_falls_back_to_the_one_before(whole, tmp_path, capsys):
    fit(make_run(tmp_path, **OPTIONS))
    largest = max((tmp_path / "checkpoints" / "12" / "params" / "d").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    state = fit(make_run(tmp_path, **OPTIONS))
    said = capsys.readouterr().err
    assert "checkpoint 12 of" in said
    assert "going on from step 8" in said
    assert "Traceback" not in said
    assert_equal(state, whole[1])
    assert steps(tmp_path) == [12, 8]
    assert (tmp_path / "unreadable" / "12").is_dir()


def test_checkpoints_of_another_model_are_refused(whole):
    run = make_run(whole[0], **OPTIONS)

    def wider():
        state = run.init()
        return state.replace(params=state.params | {"fc2": {"kernel": np.zeros((16, 5))}})

    with pytest.raises(InputError, match=r"fc2/kernel is \(16, 4\) there and \(16, 5\) here"):
        fit(run._replace(init=wider))
    assert steps(whole[0]) == [12, 8]


def test_evaluations_run_every_so_often_and_at_the_end_on_the_state_of_their_step(tmp_path):
    seen = []

    def measure(state):
        seen.append(int(state.step))
        return {"score": float(state.step) / 2, "grid": np.full((2, 3, 3), 7, np.uint8)}

    fit(make_run(tmp_path, evals=(Eval("val", 5, measure),)))
    assert seen == [5, 10, 12]
    scores = {r["step"]: r["val/score"] for r in read_metrics(tmp_path) if "val/score" in r}
    assert scores == {5: 2.5, 10: 5.0, 12: 6.0}
    assert sorted(os.listdir(tmp_path / "figures")) == ["val_grid_10.png", "val_grid_12.png", "val_grid_5.png"]


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="does not divide"):
        fit(make_run(tmp_path / "run", accumulate=3))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_every": 0}, r"log\.every_steps=0"),
        ({"save_every": 0}, r"checkpoint\.every_steps=0"),
        ({"keep": 0}, r"checkpoint\.keep=0"),
        ({"evals": (Eval("val", 0, lambda state: {}),)}, r"eval\.every \(val\)=0"),
        *[({"profile": p}, r"log\.profile=.*first step") for p in [(3,), (1, 5), (3, 0), ("3", 5), 3, (3, 4, 5)]],
    ],
)
def test_intervals_below_one_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        fit(make_run(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_profile_covers_the_steps_asked_for(tmp_path):
    fit(make_run(tmp_path, steps=4, profile=(3, 5)))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_runs_that_differ_in_their_seed_share_one_program_and_draw_their_own_noise(tmp_path):
    runs = [make_run(tmp_path / str(seed), seed=seed, steps=3) for seed in (1, 2)]
    states = [run.init() for run in runs]
    batch = {"image": next(batches(0))["image"]}
    steps = [jit_step(run.mesh, run.objective, run.tx, s) for run, s in zip(runs, states, strict=True)]
    programs = [step.lower(s, batch, np.uint32(0)).as_text() for step, s in zip(steps, states, strict=True)]
    assert programs[0] == programs[1]
    every = zip(steps, runs, states, strict=True)
    losses = [step(s, batch, np.uint32(run.seed))[1]["loss"] for step, run, s in every]
    assert losses[0] != losses[1]
