"""What one sees: the progress line on a terminal and off it, files, pictures, TensorBoard."""

import io
import json

import numpy as np
from PIL import Image

from lvit_jax.training.report import Report, progress, read_metrics, say

FIGURES = {"loss": 0.91724, "lr": 1.2e-3, "images_per_s": 3100.4, "data_wait": 0.021, "eta": 3912.7, "broken": 0}
LINE = "step 40/1000  loss 0.9172  lr 1.20e-03  images/s 3100  data wait 2%  left 1:05:12"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_line():
    assert progress(40, 1000, FIGURES) == LINE


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    with Report(tmp_path, 0, 1000, tensorboard=False) as report:
        report.train(40, FIGURES)
        report.train(41, FIGURES)
    assert capsys.readouterr().err == f"{LINE}\n{LINE.replace('40', '41', 1)}\n"


def test_one_line_rewritten_on_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Report(tmp_path, 0, 1000, tensorboard=False) as report:
        report.train(40, FIGURES)
        report.train(41, FIGURES)
        say("something else")
    assert terminal.getvalue().count("\n") == 2  # after what was said, and at the end
    assert terminal.getvalue().endswith("\r\x1b[Ksomething else\n\n")


def test_every_number_is_a_json_line(tmp_path):
    with Report(tmp_path, 0, 1000, tensorboard=False) as report:
        report.train(40, FIGURES)
        report.evaluation("val", 40, {"top1": np.float32(0.5)})
        lines = (tmp_path / "metrics" / "00000000.jsonl").read_text().splitlines()  # there while the run runs
    assert [json.loads(line) for line in lines] == [{"step": 40, **FIGURES}, {"step": 40, "val/top1": 0.5}]


def test_a_later_start_replaces_the_steps_it_did_again(tmp_path):
    for start, losses in ((0, {2: 1.0, 4: 2.0, 6: 3.0}), (4, {6: 3.5, 8: 4.0})):
        with Report(tmp_path, start, 8, tensorboard=False) as report:
            for step, loss in losses.items():
                report.train(step, {"loss": loss})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(2, 1.0), (4, 2.0), (6, 3.5), (8, 4.0)]


def test_records_of_a_checkpoint_that_the_run_fell_back_from_do_not_replace_newer_ones(tmp_path):
    for start, losses in ((0, {500: 1.0, 1000: 2.0}), (1000, {1500: 9.0}), (500, {1000: 2.5, 1500: 3.0, 2000: 4.0})):
        with Report(tmp_path, start, 2000, tensorboard=False) as report:
            for step, loss in losses.items():
                report.train(step, {"loss": loss})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        (500, 1.0),
        (1000, 2.5),
        (1500, 3.0),
        (2000, 4.0),
    ]


def test_pictures_and_scalars_reach_tensorboard(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    with Report(tmp_path, 0, 10, tensorboard=True) as report:
        report.train(3, {"loss": 0.5})
        report.evaluation("reconstruction", 3, {"grid": picture})
    np.testing.assert_array_equal(Image.open(tmp_path / "figures" / "reconstruction_grid_3.png"), picture)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tensors = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert [event.step for event in tensors["loss"]] == [3]
    assert "reconstruction/grid" in tensors
