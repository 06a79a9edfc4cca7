"""`lvit observation`: its commands, what it counts, sentences and page on made-up results; slow: a short one, whole."""

import json
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

from lvit_jax.bin import flags, observation, observation_findings, observation_plan, observation_report
from lvit_jax.bin.observation_plan import METHODS, STARTS, Plan
from lvit_jax.build import cost
from lvit_jax.build.plan import abstract_step, step_flops
from lvit_jax.errors import InputError
from lvit_jax.training.record import read_record, write_record

LAYERS = 5


def config_of(argv):
    parser = flags.Parser("train", "")
    parser.add_argument("--workdir")
    return flags.parse_with_config(parser, argv)[1]


def plan_in(root, **changes):
    return Plan(root, 800, (50, 200), 3, 1437)._replace(**changes)


def test_methods_make_equal_updates_on_equal_images(tmp_path):
    configs = {step.workdir.name: config_of(step.argv) for step in observation_plan.pretraining(plan_in(tmp_path))}
    assert list(configs) == ["teacher", *METHODS]
    same = [(c.train.steps, c.train.batch_size, c.train.accumulate, c.seed, c.data.limit) for c in configs.values()]
    assert set(same) == {(800, 64, 1, 0, None)}
    models = [configs[name].model.to_dict() | {"positions": ""} for name in METHODS]  # MoCo-v3 has a table of its own
    assert all(model == models[0] for model in models)


def test_starts_are_fine_tuned_alike(tmp_path):
    plan = plan_in(tmp_path)
    configs = {}
    for cell in observation_plan.cells(plan):
        config = config_of(observation_plan.finetuning(plan, cell).argv).to_dict()
        start = config["init"].pop("encoder")
        assert start == (None if cell.start == "scratch" else str(tmp_path / cell.start))
        configs.setdefault((cell.labels, cell.seed), []).append(config)
    assert set(configs) == {("all", 0), *((n, seed) for n in ("50", "200") for seed in range(3))}
    assert all(len(group) == len(STARTS) and group[1:] == group[:-1] for group in configs.values())
    limits = {key: (group[0]["data"]["limit"], group[0]["data"]["limit_seed"]) for key, group in configs.items()}
    assert limits["all", 0] == (None, 0) and limits["200", 2] == (200, 2)


@pytest.mark.parametrize("steps", [4, 800])
@pytest.mark.parametrize("images", [40, 1437, 50_000])
def test_a_warm_up_is_a_tenth_of_the_updates_whatever_the_data(tmp_path, steps, images):
    config = config_of(observation_plan.pretraining(plan_in(tmp_path, steps=steps, images=images))[0].argv).to_dict()
    warmup = config["optim"]["warmup_epochs"] * (images // 64 or images / 64)
    assert warmup == pytest.approx(steps / 10, rel=1e-4)


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--labels=many", "'many' is no list of numbers"),
        ("--labels=0,50", "--labels=0; the least is 1"),
        ("--steps=1", "--steps=1; the least is 4"),
        ("--config.model.widht=32", "model.width"),
        ("--config.data.jitter_p=0.5", "unknown config key"),  # not every method has it
        ("--labels=5000", "'digits' has 1437 training images"),
        ("--sourec=x", "unknown flag"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, flag, words):
    with pytest.raises(InputError, match=re.escape(words)):
        observation.main([f"--workdir={tmp_path / 'out'}", flag])
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_run_is_refused(tmp_path):
    write_record(tmp_path, {"kind": "run"})
    with pytest.raises(InputError, match="holds another run"):
        observation.main([f"--workdir={tmp_path}"])


def d2_config(tmp_path, width):
    """A D² config whose teacher is a workdir that has a record and no weights."""
    teacher = flags.override(flags.load_config("demo/teacher"), [f"--config.model.width={width}"])
    write_record(tmp_path / f"teacher{width}", {"kind": "run", "config": teacher.to_dict()})
    override = [f"--config.init.teacher={tmp_path / f'teacher{width}'}", "--config.train.batch_size=8"]
    return flags.override(flags.load_config("demo/d2"), override).to_dict()


def test_what_the_teacher_takes_is_what_another_teacher_changes(tmp_path):
    """The student's part of an update is the same whoever teaches it, so the rest must be the teacher's."""
    students = []
    for width in (32, 96):
        config = d2_config(tmp_path, width)
        step = abstract_step(config, 1437, 10)
        teacher = cost.d2_teacher_flops(config, step.batch["image"])
        students.append(step_flops(step, 1) - teacher)
        assert teacher > 0
    assert students[0] == students[1] > 0


def test_the_teacher_by_hand(tmp_path):
    """16 patches of 4 pixels, 8 of them seen with CLS, blocks of 12·D² weights a token; of the last only q and k."""
    width, tokens, batch = 96, 9, 8
    config = d2_config(tmp_path, width)
    counted = cost.d2_teacher_flops(config, jax.ShapeDtypeStruct((batch, 8, 8, 1), np.float32))
    attention = 2 * tokens * tokens * width  # q·k or a·v, multiply-adds counted as two
    block = 2 * tokens * 12 * width**2 + 2 * attention
    last = 2 * tokens * 3 * width**2 + attention  # q, k and v come from one product
    patches = {2 * n * 4 * width for n in (8, 16)}  # embedded before or after the masking
    assert counted in {batch * (3 * block + last + embed) for embed in patches}


def test_seconds_are_steps_over_rate_across_starts(tmp_path):
    (tmp_path / "metrics").mkdir()
    first = [{"step": 10, "images_per_s": 64.0}, {"step": 12, "val/loss": 1.0}, {"step": 20, "images_per_s": 128.0}]
    again = [{"step": 21, "images_per_s": 0.0}, {"step": 30, "images_per_s": 640.0}]
    for start, lines in ((0, first), (20, again)):
        (tmp_path / "metrics" / f"{start:08d}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert cost.step_seconds(tmp_path, 64) == pytest.approx(10 + 5 + 1)


def made_up(gain):
    """Results in which D² gains `gain` over MAE in everything that the papers say it gains in."""
    level = {"scratch": 0.9, "mae": 0.5, "moco": 0.7, "d2": 0.5 + gain, "untrained": 0.1}
    accuracy = {
        labels: {start: {"mean": 100 * level[start], "sd": sd, "seeds": [100 * level[start]]} for start in STARTS}
        for labels, sd in (("50", 1.0), ("all", None))
    }
    rows = [{"layer": i, "pool": pool, "linear": {"top1": 10.0 + i}} for pool in ("mean", "cls") for i in range(LAYERS)]
    rows = [row | {"knn": {"20": {"top1": 20.0 - row["layer"]}}} for row in rows]
    step = {"updates": 8, "images": 512, "views": 1, "student_flops": 1e9, "teacher_flops": 0, "seconds": 2.0}
    return {
        "model": {"name": "vit_micro", "image_size": 8},
        "source": "digits <&>",
        **{"images": 1437, "val_images": 360, "classes": 10, "steps": 8, "batch_size": 64, "seeds": 3},
        **{"accuracy": accuracy, "layers": dict.fromkeys(level, rows), "cka_images": 256},
        "cost": {"teacher": step, **dict.fromkeys(METHODS, step)},
        "cka": {name: (np.eye(LAYERS) * np.linspace(1, top, LAYERS)).tolist() for name, top in level.items()},
        "entropy": {name: [[top, top]] * 4 for name, top in level.items()},
        "distance": {name: [[top, top]] * 4 for name, top in level.items()},
        "commands": ["lvit train --a='(1,<b>)'"],
    }


@pytest.mark.parametrize(
    "gain, verdict", [(0.2, "so here, too"), (-0.2, "the reverse here"), (0.0, "no difference here")]
)
def test_sentences_say_what_the_figures_say(gain, verdict):
    said = observation_findings.findings(made_up(gain))
    about_d2 = [text for text in said if text.startswith("The papers") and "D²-MAE" in text]
    assert len(about_d2) == 3 and all(text.endswith(f": {verdict}.") for text in about_d2)
    first = "D²-MAE 70.0 ± 1.0" if gain > 0.1 else "MoCo-v3 70.0 ± 1.0"
    assert first in said[0] and "on 50 labels" in said[0]
    linear, knn = (
        next(text for text in said if text.startswith(f"{measure},")) for measure in ("Linear probe", "20-NN")
    )
    assert "MAE 14.0 at layer 4 (0.0)" in linear and "MAE 20.0 at layer 0 (4.0)" in knn


def test_a_mixed_outcome_is_no_yes():
    results = made_up(0.2)
    results["accuracy"]["all"]["d2"]["mean"] = 10.0
    assert observation_findings.findings(results)[-1].endswith("so here in part.")
    results["accuracy"]["50"]["d2"]["mean"] = 50.0  # equal, and lower
    assert observation_findings.findings(results)[-1].endswith("not so here.")


class Page(HTMLParser):
    """What a page shows."""

    def __init__(self):
        super().__init__()
        self.sources, self.tables, self.text = [], 0, ""

    def handle_starttag(self, tag, attrs):
        self.tables += tag == "table"
        self.sources += [value for key, value in attrs if key in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.text += data


def shown(path):
    page = Page()
    page.feed(path.read_text())
    return page


def check_page(page, results):
    """Seven charts, each for light and dark, and numbers beside each; nothing from elsewhere; every sentence."""
    assert len(page.sources) == 14 and all(s.startswith("data:image/svg+xml;base64,") for s in page.sources)
    assert page.tables == 1 + 7
    assert all(text in page.text for text in (*results["findings"], *results["commands"], results["source"]))


def test_the_report_is_one_page_with_all_parts(tmp_path):
    results = made_up(0.1)
    results["findings"] = observation_findings.findings(results)
    page = shown(observation_report.write(plan_in(tmp_path), results))
    check_page(page, results)
    assert "70.0 ± 1.0" in page.text and json.loads((tmp_path / "report" / "observation.json").read_text()) == results


@pytest.mark.slow
def test_all_of_it_and_again(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--steps=12", "--labels=20", "--seeds=1", "--json"]
    assert observation.main(flags) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_page(shown(tmp_path / "report" / "index.html"), results)
    assert {(results["cost"][name]["updates"], results["cost"][name]["images"]) for name in METHODS} == {(12, 768)}
    assert {read_record(tmp_path / name)["steps"] for name in METHODS} == {12}
    assert results["cost"]["moco"]["views"] == 2 and results["cost"]["d2"]["teacher_flops"] > 0
    assert results["accuracy"].keys() == {"20", "all"} and len(results["layers"]["mae"]) == 2 * LAYERS
    assert np.diag(results["cka"]["scratch"]) == pytest.approx(1.0, abs=1e-4)
    assert observation.main(flags) == 0
    captured = capsys.readouterr()
    assert captured.err.count("nothing to do") == 4 + 2 * len(STARTS) and captured.err.count("is there already") == 6
    assert json.loads(captured.out.splitlines()[-1]) == results
