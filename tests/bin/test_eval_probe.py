"""`lvit eval_probe` and linear probes as runs: figures against scikit-learn, over devices and batches; bad input."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from lvit_jax.bin import eval_probe, flags, probe_report, train
from lvit_jax.build import data as build_data
from lvit_jax.build.backbone import labelled_splits, load_backbone, make_features
from lvit_jax.build.parts import make_objective, shapes
from lvit_jax.build.probe import features_of
from lvit_jax.build.run import build_run
from lvit_jax.errors import InputError
from lvit_jax.models.probes import spot
from lvit_jax.objectives.probe import make_probe
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import restore, save_params
from lvit_jax.training.record import write_record
from lvit_jax.training.report import read_metrics
from lvit_jax.types import TrainState

ROOT = Path(__file__).parents[2]
MODEL = ["--config.model.width=32", "--config.model.depth=2", "--config.model.heads=2"]
TINY = [*MODEL, "--config.train.steps=3", "--config.optim.warmup_epochs=0.0", "--config.eval.batch_size=128"]
PROBE = ["--config.train.steps=6", "--config.optim.warmup_epochs=0.0", "--config.eval.every_epochs=1000.0"]


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "mae"
    assert train.main(["--config=demo/mae", f"--workdir={workdir}", *TINY]) == 0
    return workdir


@pytest.fixture(scope="module")
def figures(mae):
    """k-NN figures of all layers, in batches of 128."""
    return measured(mae)


def measured(workdir, *argv):
    args = eval_probe._parser().parse_args([f"--workdir={workdir}", *argv])
    args.layers, args.k, args.pools = (), (10, 20, 100, 200), ()
    return eval_probe.measure(args)


@pytest.fixture(scope="module")
def linear(mae):
    """A folder of all that the command writes, and what it printed."""
    out = mae.parent / "out"
    assert eval_probe.main([f"--workdir={mae}", f"--out={out}", "--linear=demo/probe", *PROBE]) == 0
    return out


def test_every_row_is_scikit_learns(mae, figures):
    backbone = load_backbone(mae)
    splits = labelled_splits(backbone, None)
    bank, queries = (features_of(backbone, source, (0, 1, 2), ("mean", "cls")) for source in splits)
    assert (figures["bank"], figures["examples"]) == (len(bank["label"]), len(queries["label"])) == (1437, 360)
    assert [(row["layer"], row["pool"]) for row in figures["rows"]] == [
        (i, p) for i in range(3) for p in ("mean", "cls")
    ]
    for row in figures["rows"][2:]:  # CLS of layer 0 is one for all: there only our rule of ties speaks
        name = spot(row["layer"], row["pool"])
        for k, found in row["knn"].items():
            model = KNeighborsClassifier(
                k, algorithm="brute", metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)
            )
            model.fit(bank[name].astype(np.float64), bank["label"])
            expected = 100 * model.score(queries[name].astype(np.float64), queries["label"])
            assert found["top1"] == pytest.approx(expected), (name, k)


def test_another_batch_on_four_devices_gives_the_same(mae, figures):
    """52 does not divide the 1,437 or 360 images."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    env["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
    command = [sys.executable, "-m", "lvit_jax.bin.eval_probe", f"--workdir={mae}", "--batch_size=52", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout)["rows"] == json.loads(json.dumps(figures["rows"]))


def test_what_is_measured_in_pre_training_is_the_last_layers(mae, figures):
    """Its 20 nearest neighbours by the mean of the patches; beside it the spread of the features."""
    last = read_metrics(mae)[-1]
    assert last["val/knn_top1"] == figures["rows"][-2]["knn"][20]["top1"]
    assert 0 < last["val/feature_std"] < 1 < last["val/effective_rank"] < 32


def test_linear_probes_are_a_run_whose_figures_join_the_table(mae, linear, figures, capsys):
    written = json.loads((linear / "probe.json").read_text())
    last = read_metrics(linear / "linear")[-1]
    for row, knn in zip(written["rows"], figures["rows"], strict=True):
        assert row["knn"] == json.loads(json.dumps(knn["knn"]))
        assert row["linear"]["top1"] == last[f"val/top1_{spot(row['layer'], row['pool'])}"]
    assert last["val/best_top1"] == max(row["linear"]["top1"] for row in written["rows"])
    assert {path.name for path in linear.iterdir()} == {"probe.json", "probe.png", "probe.svg", "linear"}
    assert Image.open(linear / "probe.png").size[0] > 500 and b"</svg>" in (linear / "probe.svg").read_bytes()[-20:]
    assert not list((linear / "linear" / "checkpoints").glob("*/params/*encoder*"))
    capsys.readouterr()
    table = probe_report.table(written).splitlines()
    assert table[1].split() == ["layer", "pool", "10-NN", "20-NN", "100-NN", "200-NN", "linear"] and len(table) == 8


def test_linear_figures_do_not_depend_on_the_batch(linear):
    config = (
        flags.load_config("demo/probe").to_dict()
        | json.loads((linear / "linear" / "config.json").read_text())["config"]
    )
    config["eval"]["batch_size"] = 100
    run, _ = build_run(config, linear / "linear")
    found = run.evals[0].run(restore(run.workdir, run.init()))
    last = read_metrics(linear / "linear")[-1]
    assert (
        all(found[name] == pytest.approx(last[f"val/{name}"], rel=1e-5) for name in found) and len(found) == 1 + 3 * 6
    )


def test_a_finished_probe_is_not_repeated(mae, linear, capsys):
    before = (linear / "probe.json").read_bytes()
    argv = [f"--workdir={mae}", f"--out={linear}", "--linear=demo/probe", *PROBE]
    assert eval_probe.main(argv) == 0
    assert "finished at step 6" in capsys.readouterr().err
    assert (linear / "probe.json").read_bytes() == before
    with pytest.raises(InputError, match=r"another config: .*optim/blr"):
        eval_probe.main([*argv, "--config.optim.blr=1.0"])


def test_the_encoder_of_another_run_is_refused_at_resume(mae, linear, tmp_path):
    argv = [f"--out={linear}", "--linear=demo/probe", *PROBE]
    with pytest.raises(InputError, match=r"another config: .*init/encoder"):
        eval_probe.main([f"--workdir=untrained:{mae}", *argv])


def test_a_classifier_is_probed_with_its_heads_norm(tmp_path):
    workdir = tmp_path / "ft"
    given = flags.override(flags.load_config("demo/finetune"), MODEL).to_dict()
    params, rng = shapes(make_objective(given, tuple("0123456789")), given).params, np.random.default_rng(0)
    save_params(workdir, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params))
    data = {"mean": [0.3053], "std": [0.3763], "classes": list("0123456789")}
    write_record(
        workdir, {"kind": "import", "config": {key: given[key] for key in ("model", "objective")}, "data": data}
    )
    config = flags.load_config("demo/probe")
    config.model.update({"width": 32, "depth": 2, "heads": 2, "positions": "learned"})
    config.init.encoder = str(workdir)
    run, _ = build_run(config.to_dict(), tmp_path / "probe")
    state, backbone = run.init(), load_backbone(workdir)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    objective = make_probe(backbone.encoder, classes=10, norm=True)
    logits = objective.predict(state.params, state, {"image": images})["logits"]
    expected = (
        make_features(backbone)(backbone.params, images).tokens[:, 0]
        @ state.params["heads"][spot(2, "cls")]["fc"]["kernel"]
    )
    np.testing.assert_allclose(logits[spot(2, "cls")], expected, atol=1e-4)


def test_an_evaluation_that_dies_writes_nothing(mae, tmp_path, monkeypatch, figures):
    monkeypatch.setattr(eval_probe, "measure", lambda args: figures)

    def dies(figures):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe_report, "chart", dies)
    with pytest.raises(KeyboardInterrupt):
        eval_probe.main([f"--workdir={mae}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--layers=1,3"], "layer 3 does not exist; this encoder has layers 0 to 2"),
        (["--layers=a"], "--layers=a is no list"),
        (["--pools=cls,dist"], "unknown pool 'dist'"),
        (["--k=10,1438"], "k=1438 is larger than the bank of 1437 images"),
        (["--k=0"], "k=0"),
        (["--batch_size=0"], "batch size 0"),
        (["--batch_size=0", "--linear=demo/probe", "--out=o", *PROBE], "batch size 0"),  # before they are trained
        (["--linear"], "--out=DIR"),
        (["--config.optim.blr=1.0"], "--linear"),
        (["--linear", "--out=o", "--no-ema"], "--no-ema"),
        (["--linear", "--out=o", "--config.optim.bl=1.0"], "unknown config key 'optim.bl'"),
        (["--linear=demo/probe", "--out=o", "--config.train.steps=9"], "warm-up"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(mae, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        eval_probe.main([f"--workdir={mae}", *argv])
    assert not list(tmp_path.iterdir())


def test_images_without_labels_have_no_neighbours_that_vote(mae, tmp_path):
    for i in range(40):
        Image.fromarray(np.full((8, 8), 6 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match="labels"):
        eval_probe.main([f"--workdir={mae}", f"--source=folder:{tmp_path}"])


def test_a_probe_needs_an_encoder_from_a_file_and_of_its_own_sizes(mae, tmp_path):
    config = flags.load_config("probe/linear")
    common = flags.load_config("demo/probe")
    config.data.update({"source": "digits", "statistics": "digits"})
    config.model = common.model
    config.optim.warmup_epochs, config.train.batch_size = 0.0, 128
    with pytest.raises(InputError, match="objective 'probe' needs --config"):
        build_run(config.to_dict(), tmp_path)
    config.init.encoder = str(mae)  # of width 32; the config's has 64
    with pytest.raises(InputError, match=r"has 2 heads and this model 4"):
        build_run(config.to_dict(), tmp_path)


def test_linear_probes_have_no_encoder_to_probe(linear):
    with pytest.raises(InputError, match="holds a 'probe' and no encoder"):
        eval_probe.main([f"--workdir={linear / 'linear'}"])


def test_collapse_is_told_with_its_step(mae, caplog):
    """And an encoder that is merely untrained is not taken for collapsed."""
    config = flags.override(flags.load_config("demo/mae"), TINY).to_dict()
    run, _ = build_run(config, mae)
    data, mesh = build_data.load_data(config), mesh_lib.make_mesh()
    state = run.init().replace(step=jnp.int32(7))

    def collapsed(params, state, batch):
        out = run.objective.predict(params, state, batch)
        return out | {"features": jnp.ones_like(out["features"]) + 1e-4 * out["features"]}

    with caplog.at_level(logging.WARNING, "lvit_jax"):
        assert run.evals[0].run(state)["effective_rank"] > 2
        assert not caplog.records
        (evaluation,) = build_data.make_evals(config, run.objective._replace(predict=collapsed), mesh, data, 3)
        evaluation.run(state)
    assert caplog.messages[0].startswith("step 7: WARNING: features have collapsed: standard deviation ")


def test_the_spread_is_that_of_images_from_every_class(monkeypatch):
    """Files lie class by class: the first thousand of ImageNet's validation folder are of twenty classes."""
    config = flags.override(flags.load_config("demo/mae"), [*TINY, "--config.eval.knn_images=0"]).to_dict()
    data, seen = build_data.load_data(config), []

    def spread(params, state, batches):
        seen.extend(np.concatenate([batch["label"][batch["mask"] > 0] for batch in batches]))
        return {"feature_std": 1.0, "effective_rank": 9.0}

    monkeypatch.setattr(build_data, "SPREAD_IMAGES", 40)
    monkeypatch.setattr(build_data, "make_spread", lambda *_: spread)
    monkeypatch.setattr(build_data, "make_reconstruct", lambda *_: lambda *_: {})
    data = data._replace(val=data.val.take(np.argsort(data.val.labels, kind="stable")))
    (evaluation,) = build_data.make_evals(config, None, mesh_lib.make_mesh(), data, 3)
    evaluation.run(TrainState(step=jnp.int32(1), params={}, opt_state=(), frozen={}, extra={}))
    assert len(seen) == 40 and set(seen) == set(range(10))


def test_neighbours_need_labels_and_may_be_switched_off(mae):
    config = flags.override(flags.load_config("demo/mae"), TINY).to_dict()
    data, mesh = build_data.load_data(config), mesh_lib.make_mesh()
    make = build_data.make_neighbours
    assert make(config, None, mesh, data) is not None
    assert make(config | {"eval": config["eval"] | {"knn_images": 0}}, None, mesh, data) is None
    assert make(config, None, mesh, data._replace(train=data.train._replace(classes=None))) is None
    assert make(config, None, mesh, data._replace(val=None)) is None
    assert list(build_data._evenly(10, 4)) == [0, 3, 6, 9] and list(build_data._evenly(3, 9)) == [0, 1, 2]
