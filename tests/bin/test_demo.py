"""`lvit demo`: its commands, its arithmetic and its report on made-up results; slow: the whole road with --fast."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from lvit_jax.bin import demo, demo_charts, demo_plan, demo_report, demo_run, eval_classify, flags
from lvit_jax.bin.demo_plan import Cell


def made_up():
    """Two seeds of each start, and logistic regression (one run on all labels)."""
    top1 = {"scratch": 90.0, "mae": 94.0, "d2": 95.0}
    results = {Cell(s, labels, seed): top1[s] + seed for s in top1 for labels in ("all", "100") for seed in (0, 1)}
    return results | {Cell("logistic", "all", 0): 92.0} | {Cell("logistic", "100", seed): 88.0 for seed in (0, 1)}


@pytest.fixture
def root(tmp_path):
    """A workdir with the metrics and pictures that finished runs leave."""
    lines = [{"step": n, "loss": 1 / n, "reconstruction": 1 / n, "distill": 2 / n} for n in (10, 20)]
    runs = [tmp_path / name for name in ("teacher", "mae", "d2")]
    for run in runs + [Cell(start, "100", 0).workdir(tmp_path) for start in demo_plan.STARTS]:
        (run / "metrics").mkdir(parents=True)
        (run / "metrics" / "00000000.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for run in runs[1:]:
        (run / "figures").mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run / "figures" / "val_grid_20.png")
    return tmp_path


def test_summary_is_mean_sample_deviation_and_ratio_of_errors(tmp_path):
    results = demo_report.summary(made_up(), Cell("d2", "all", 1), tmp_path)
    assert results["accuracy"]["all"]["mae"] == {"mean": 94.5, "sd": pytest.approx(0.5**0.5), "seeds": [94.0, 95.0]}
    assert results["accuracy"]["all"]["logistic"]["sd"] is None
    assert results["error_ratio_to_logistic"]["all"]["d2"] == pytest.approx(4.5 / 8)
    assert results["best"]["top1"] == 96.0


def test_table_has_a_row_per_start_and_no_deviation_for_a_single_run(tmp_path):
    lines = demo_report.table(demo_report.summary(made_up(), Cell("d2", "all", 1), tmp_path)).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].strip("|").split("|")][1:] == ["92.0", "88.0 ± 0.0"]
    assert "94.5 ± 0.7" in lines[4]


def test_best_is_the_highest_and_the_first_of_equals():
    runs = {Cell("scratch", "all", 0): 97.0, Cell("mae", "all", 0): 98.0, Cell("d2", "all", 0): 98.0}
    assert demo_run.best(runs) == Cell("mae", "all", 0)


def test_report_is_one_file_with_its_pictures_inside(root):
    timing = {"seconds": 60.0, "cpu_seconds": 90.0}
    results = demo_report.summary(made_up(), Cell("d2", "all", 1), root) | timing
    demo_report.write(root, results, ["lvit train --a=<b>"])
    text = (root / "report" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 4 and 'src="http' not in text
    assert "lvit train --a=&lt;b&gt;" in text and "94.5 ± 0.7" in text
    for name in ("accuracy", "losses", "reconstruction_mae", "reconstruction_d2"):
        assert np.asarray(Image.open(root / "report" / f"{name}.png")).size


def test_every_command_names_a_config_and_fields_that_exist(tmp_path):
    steps = demo_plan.pretraining(tmp_path, True)
    steps += [demo_plan.finetuning(tmp_path, cell, fast) for fast in (False, True) for cell in demo_plan.cells(fast)]
    for step in steps:
        parser = flags.Parser("train", "")
        parser.add_argument("--workdir")
        args, config = flags.parse_with_config(parser, step.argv)
        assert args.workdir == str(step.workdir) and shlex.join(step.argv) == " ".join(step.argv)
        assert config.data.limit in (None, 100)
    assert len({step.workdir for step in steps[:3]} | {cell.workdir(tmp_path) for cell in demo_plan.cells(False)}) == 15


def test_a_step_is_announced_as_the_command_that_is_called(tmp_path, capsys, monkeypatch):
    step = demo_plan.evaluation(tmp_path, Cell("mae", "100", 2))
    monkeypatch.setattr(eval_classify, "main", lambda argv: print(" ".join(argv)))
    walk = demo_run.Walk([step, step])
    assert walk.run(step) == walk.run(step) == step.command().removeprefix("lvit eval_classify ") + "\n"
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count(f"$ {step.command()}\n") == 2
    assert "[1/2]" in captured.err and "[2/2]" in captured.err


def test_an_export_that_is_there_is_left_alone(tmp_path, capsys):
    step = demo_plan.export(tmp_path, Cell("mae", "all", 0))
    step.workdir.mkdir(parents=True)
    walk = demo_run.Walk([step])
    demo_run.export(walk, step)
    said = capsys.readouterr().err
    assert "there already" in said and "[1/1]" not in said


def test_colours_differ_and_cover_every_bar():
    assert demo_charts.COLOURS.keys() >= demo_report.ROWS.keys()
    assert len(set(demo_charts.COLOURS.values())) == len(demo_charts.COLOURS)


@pytest.mark.slow
def test_the_whole_road_and_again(tmp_path, capsys):
    assert demo.main([f"--workdir={tmp_path}", "--fast", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "report" / "index.html").exists()
    assert list((tmp_path / "export").glob("*/model.safetensors"))
    assert first["accuracy"]["100"]["logistic"]["mean"] > 80
    assert demo.main([f"--workdir={tmp_path}", "--fast", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("nothing to do") == 12
    assert json.loads(captured.out.splitlines()[-1])["accuracy"] == first["accuracy"]
