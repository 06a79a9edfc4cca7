"""`lvit plan`: what is refused at once, what is told without libtpu, and steps of two blocks compiled with it."""

import json
import subprocess
import sys

import pytest

from lvit_jax.bin import plan
from lvit_jax.build.plan import largest, roofline
from lvit_jax.errors import InputError
from lvit_jax.training import ahead
from lvit_jax.training.chips import GIB, parse_topology

MAE = ("--config=pretrain/mae_tiny.py", "--config.model.depth=2")
D2 = ("--config=pretrain/d2_tiny.py", "--config.model.depth=2", "--config.objective.decode_from=1")
D2 += ("--config.objective.teacher_layer=2", "--teacher=vit_base")
needs_libtpu = pytest.mark.skipif(not ahead.has_libtpu(), reason="libtpu is not installed (extra 'tpu')")


def figures(capsys, *argv):
    assert plan.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*MAE, "--topology=v5e:3x5"), ["3x5", "v5e:4x4"]),
        ((*MAE, "--topology=v5e:4x4", "--sweep=depth"), ["depth", "batch, fsdp, remat"]),
        ((*MAE, "--topology=v5e:4x4", "--efficiency=1.5"), ["1.5"]),
        ((*MAE, "--topology=v5e:4x4", "--images=0"), ["images=0", "1"]),
        ((*MAE, "--topology=v5e:4x4", "--teacher=vit_bas"), ["vit_bas", "vit_base"]),
    ],
)
def test_wrong_flags_are_told_without_jax(argv, words):
    code = "import sys; from lvit_jax.bin import plan, app; sys.exit(app.run(plan.main, sys.argv[1:]))"
    guard = f"import sys; sys.modules['jax'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", guard, *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*MAE, "--topology=v5e:4x4", "--config.mesh.fsdp=3"), ["fsdp=3", "nearest: 2"]),
        ((*MAE, "--topology=v5e:4x4", "--config.train.batch_size=100"), ["100", "nearest that does is 96"]),
        ((*MAE, "--topology=v5e:4x4", "--config.eval.batch_size=100"), ["100", "nearest that does is 96"]),
        ((*MAE, "--topology=v5e:4x4", "--config.mesh.devices=4"), ["devices=4", "has 16"]),
        ((*MAE, "--topology=v5e:4x4", "--config.data.source=folder:/x"), ["folder:/x", "--images="]),
        ((*MAE, "--topology=v5e:4x4", "--teacher=vit_base"), ["--teacher"]),
        ((*D2[:-1], "--topology=v5e:4x4"), ["d2", "--teacher=vit_base"]),
        (
            ("--config=finetune/imagenet.py", "--topology=v5e:4x4", "--config.data.source=folder:/x", "--images=9999"),
            ["folder:/x", "--classes="],
        ),
    ],
)
def test_what_does_not_divide_or_is_not_known_is_told_before_compiling(monkeypatch, argv, words):
    monkeypatch.setattr(ahead, "devices", lambda topology: pytest.fail("it went on to compile"))
    with pytest.raises(InputError) as error:
        plan.main(argv)
    assert all(word in str(error.value) for word in words), error.value


@pytest.fixture
def without_libtpu(monkeypatch):
    monkeypatch.setattr(ahead, "has_libtpu", lambda: False)


def test_without_libtpu_it_counts_and_says_what_is_missing(without_libtpu, capsys):
    plan.main([*MAE, "--topology=v5e:4x4"])
    out = capsys.readouterr().out
    assert "1.24M trained" in out and "574M" in out
    assert "libtpu is not installed" in out and "pip install 'lvit_jax[tpu]'" in out
    with pytest.raises(InputError, match="pip install"):
        plan.main([*MAE, "--topology=v5e:4x4", "--sweep=batch"])


def test_without_libtpu_state_and_batch_alone_may_be_too_much(without_libtpu, capsys):
    """32768 images of 224x224x3 numbers of four bytes on one chip of 15.75 GiB."""
    argv = (*MAE, "--topology=v5e:1x1", "--config.train.batch_size=32768", "--config.optim.warmup_epochs=1.0")
    memory = figures(capsys, *argv)["memory"]
    over = 32768 * 224 * 224 * 3 * 4 / GIB - 15.75
    assert memory["fits"] is False and over < memory["over_gib"] < over + 0.1  # the state is small
    plan.main(argv)
    assert f"does not fit, by at least {memory['over_gib']:.2f} GiB" in capsys.readouterr().out


def test_parameters_memory_and_hours_by_hand(without_libtpu, capsys):
    """D²: two blocks, a teacher of twelve; state and batch on one of 16 chips, four of which share what is large."""
    out = figures(capsys, *D2, "--topology=v5e:4x4", "--config.mesh.fsdp=4", "--efficiency=0.25")
    w, d, t = 192, 96, 768

    def block(width):
        return 12 * width**2 + 13 * width

    encoder = 768 * w + w + w + 2 * block(w) + 2 * w  # patches, CLS, blocks, norm
    decoder = w * d + d + d + block(d) + 2 * d + d * 768 + 768  # embed, mask token, block, norm, head
    probe = 2 * w + w * 3 * w + 3 * w + 12 * 12
    teacher = 768 * t + t + t + 12 * block(t) + 2 * t
    assert out["parameters"] == encoder + decoder + probe
    assert out["frozen_parameters"] == teacher
    assert out["mesh"] == {"data": 4, "fsdp": 4}
    batch = 4096 // 16 * 224 * 224 * 3 * 4
    # Weights of four bytes, two moments of the trained ones; vectors are whole everywhere, and matrices a quarter.
    least = ((3 * out["parameters"] + teacher) * 4 / 4 + batch) / GIB
    assert least < out["memory"]["state_and_batch_gib"] < 1.02 * least
    assert out["memory"]["fits"] is None and out["memory"]["total_gib"] is None
    assert out["steps"] == 400 * (1_281_167 // 4096)
    step_s = out["flops_per_image"] * 4096 / 16 / 197e12
    time = {"compute_s": pytest.approx(step_s), "memory_s": None, "step_s": pytest.approx(step_s), "bound": "compute"}
    assert out["roofline"] == time
    assert out["hours"] == pytest.approx(out["steps"] * step_s / 0.25 / 3600)
    assert out["images_per_s_per_chip"] == pytest.approx(256 / step_s)


@pytest.mark.parametrize(
    ("config", "teacher", "frozen"),
    [
        # timm's 51.5 M without its head, and MAE's fusion of two stages: 4x4 of 96 and 2x2 of 192 channels into 768
        ("pretrain/d_hiera_tiny.py", "hiera_base", 50.8e6 + (16 * 96 + 4 * 192) * 768),
        ("pretrain/simmim_swin_d2.py", "swin_c96", 27.5e6),  # Swin-T: 28.3 M with its head
        ("pretrain/tinymim_small.py", "pretrain/tinymim_base.py", 85.8e6),  # the last block has 16 heads
        ("finetune/imagenet_distill.py", "regnety_160", 83.6e6),  # timm's, with its head
    ],
)
def test_teachers_of_all_kinds(without_libtpu, capsys, config, teacher, frozen):
    out = figures(capsys, f"--config={config}", f"--teacher={teacher}", "--topology=v5e:4x4")
    assert out["frozen_parameters"] == pytest.approx(frozen, rel=0.01)


def test_two_devices_of_a_tpu7x_chip_share_its_figures(without_libtpu, capsys):
    one = figures(capsys, *MAE, "--topology=tpu7x:2x2x1")
    assert one["mesh"]["data"] == 8 and one["chips"] == 4
    assert one["roofline"]["compute_s"] == pytest.approx(one["flops_per_image"] * 4096 / 4 / 2307e12)


def test_a_compiler_that_counts_loops_once_is_said_to(without_libtpu, capsys):
    out = figures(capsys, *MAE, "--topology=v5e:4x4") | {"compiled": True}
    assert "note" not in plan.lines(out | {"compiler_flops_per_image": 1.01 * out["flops_per_image"]})
    assert "counts fewer FLOPs" in plan.lines(out | {"compiler_flops_per_image": 0.46 * out["flops_per_image"]})["note"]


def test_the_slower_side_binds():
    topology = parse_topology("v5e:4x4")
    assert roofline(topology, 197e12, 819e9 * 2) == {"compute_s": 1, "memory_s": 2, "step_s": 2, "bound": "memory"}
    assert roofline(topology, 197e12, 819e9 / 2)["bound"] == "compute"


@pytest.mark.parametrize("start", [1, 7, 64, 5000])
@pytest.mark.parametrize("limit", [0, 1, 5, 100, 1000])
def test_a_sweep_finds_the_largest_that_fits_in_few_trials(start, limit):
    trials = []

    def fits(count):
        trials.append(count)
        return count <= limit

    found = largest(fits, start, 4096)
    assert found <= limit and limit - found <= max(1, found // 8) - (found < 8)
    assert len(trials) == len(set(trials)) <= 20
    assert largest(lambda count: True, start, 4096) == 4096


@pytest.fixture
def compiler(monkeypatch):
    """In libtpu's place: a GiB of weights over `fsdp`, and 100 MiB an image, with remat 50."""

    def compiled(job, step, say):
        say(f"{job.config['train']['batch_size']}")
        images = job.config["train"]["batch_size"] // job.topology.devices
        total = GIB // job.config["mesh"]["fsdp"] + images * (50 if job.config["model"]["remat"] else 100) * 2**20
        return ahead.Compiled(0, total, total, total < 15.75 * GIB, 0.0, 0.0, {})

    monkeypatch.setattr(ahead, "has_libtpu", lambda: True)
    monkeypatch.setattr("lvit_jax.build.plan._compile", compiled)


@pytest.mark.parametrize(
    ("over", "fields", "exact"),
    [
        ("batch", [{}], [151]),  # (15.75 - 1) GiB in images of 100 MiB
        ("remat", [{"remat": False}, {"remat": True}], [151, 302]),
        ("fsdp", [{"fsdp": n} for n in (1, 2, 4)], [151, 156, 158]),
    ],
)
def test_sweeps_find_the_largest_batch_to_within_an_eighth(compiler, capsys, over, fields, exact):
    demo = ("--config=demo/mae", "--config.model.depth=1", "--config.train.batch_size=256", "--topology=v5e:2x2")
    rows = figures(capsys, *demo, f"--sweep={over}")["sweep"]
    assert [{key: row[key] for key in row if key in ("remat", "fsdp")} for row in rows] == fields
    for row, most in zip(rows, exact, strict=True):
        assert most * 8 / 9 - 1 <= row["batch_size"] / 4 <= most
        assert row["total_gib"] <= row["available_gib"] == 15.75
        assert row["compiles"] <= 7


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_every_kind_of_chip_compiles(topology, capsys):
    out = figures(capsys, "--config=demo/mae", f"--topology={topology}", "--config.mesh.fsdp=2")
    memory = out["memory"]
    assert out["compiled"] and memory["fits"]
    assert memory["arguments_gib"] + memory["temporaries_gib"] == pytest.approx(memory["total_gib"])
    assert memory["arguments_gib"] >= memory["state_and_batch_gib"] > 0  # what is small is padded
    assert out["hbm_bytes_per_image"] > 8 * 8 * 4
    assert out["collectives"]["all-gather"]["count"] > 0 and out["collectives"]["all-reduce"]["count"] > 0


@needs_libtpu
@pytest.mark.slow
def test_two_slices_compile(capsys):
    out = figures(capsys, "--config=demo/mae", "--topology=v5e:2x2", "--slices=2", "--config.mesh.fsdp=4")
    assert out["mesh"] == {"data": 2, "fsdp": 4} and out["memory"]["fits"]


@needs_libtpu
@pytest.mark.slow
def test_d2_of_two_blocks_fits_and_fsdp_shrinks_its_state(capsys):
    whole, split = (figures(capsys, *D2, "--topology=v5e:4x4", f"--config.mesh.fsdp={n}") for n in (1, 16))
    assert whole["memory"]["fits"] and split["memory"]["fits"]
    assert whole["memory"]["arguments_gib"] == pytest.approx(whole["memory"]["state_and_batch_gib"], rel=0.1)
    saved = whole["memory"]["arguments_gib"] - split["memory"]["arguments_gib"]
    state = 4 * (3 * whole["parameters"] + whole["frozen_parameters"]) / GIB
    assert saved == pytest.approx(state * 15 / 16, rel=0.1)
    assert 1 < whole["compiler_flops_per_image"] / whole["flops_per_image"] < 1.1  # the rest is element-wise
    # No device does another's work; of what goes round rings the compiler counts one turn.
    assert split["compiler_flops_per_image"] < 1.1 * split["flops_per_image"]
    assert split["collectives"]["all-gather"]["count"] > whole["collectives"].get("all-gather", {"count": 0})["count"]


TWO_BLOCKS = """
from lvit_jax.configs import common
from lvit_jax.configs.pretrain import {recipe}

def get_config():
    config = {recipe}.get_config()
    config.model.update({{"name": {size!r}, "depth": 2}})
    {change}
    return config
"""


@needs_libtpu
@pytest.mark.slow
def test_tinymim_with_the_large_teacher_is_cut_by_fsdp(capsys, tmp_path):
    """Both with two blocks, on a pod: a chip holds a sixteenth of the weights and does no other's work."""
    relations = "config.objective.teacher_layer, config.optim.frozen = 2, common.qkv_only(2)"
    for name, fields in {
        "student": {"recipe": "tinymim_base", "size": "vit_base", "change": relations},
        "teacher": {"recipe": "mae_base", "size": "vit_large", "change": ""},
    }.items():
        (tmp_path / f"{name}.py").write_text(TWO_BLOCKS.format(**fields))
    argv = (f"--config={tmp_path}/student.py", f"--teacher={tmp_path}/teacher.py", "--topology=v5e:16x16")
    out = figures(capsys, *argv, "--config.mesh.fsdp=16")
    assert out["mesh"] == {"data": 16, "fsdp": 16} and out["memory"]["fits"]
    weights = 4 * (3 * out["parameters"] + out["frozen_parameters"]) / 16 / GIB
    batch = 4096 // 256 * 2 * 224 * 224 * 3 * 4 / GIB  # two views: the student's and the teacher's colours
    assert weights + batch < out["memory"]["state_and_batch_gib"] < 1.1 * (weights + batch)
    # Slices of 1024 / 16 columns are padded to 128; whole, the weights alone would take 16 times as much.
    assert out["memory"]["state_and_batch_gib"] <= out["memory"]["arguments_gib"] < 16 * weights / 4
    assert out["compiler_flops_per_image"] < 1.1 * out["flops_per_image"]
    assert out["collectives"]["all-gather"]["count"] > 0


@needs_libtpu
@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_reported_as_such(capsys):
    huge = ("--config=pretrain/mae_tiny.py", "--config.model.depth=1", "--topology=v5e:1x1")
    argv = (*huge, "--config.train.batch_size=32768", "--config.optim.warmup_epochs=1.0")
    out = figures(capsys, *argv)
    assert out["memory"]["fits"] is False
    assert out["memory"]["over_gib"] == pytest.approx(out["memory"]["total_gib"] - 15.75)
    assert out["memory"]["total_gib"] > 32768 * 224 * 224 * 3 * 4 / GIB
    plan.main(argv)
    assert "does not fit, by" in capsys.readouterr().out
