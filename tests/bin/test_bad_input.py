"""`lvit train` where models, methods and weights do not fit: one line, nothing compiled, nothing written."""

import jax
import numpy as np
import pytest

from lvit_jax.bin import bench, flags, train
from lvit_jax.build.parts import make_objective, shapes
from lvit_jax.build.run import build_run
from lvit_jax.errors import InputError
from lvit_jax.models.positions import resample
from lvit_jax.training.checkpoint import load_params, save_params
from lvit_jax.training.record import write_record
from lvit_jax.tree import flatten

DIGITS = {"mean": [0.3053], "std": [0.3763], "classes": [str(i) for i in range(10)]}
# name -> the demo config whose model it is, and what differs
WEIGHTS = {
    "mae": ("teacher", []),
    "heads3": ("teacher", ["--config.model.depth=3", "--config.model.heads=3"]),
    "hiera": ("hiera", []),
    "swin": ("simmim_swin", []),
    "simmim": ("simmim", []),
    "rpe": ("finetune_rpe", []),
    "classifier": ("teacher_classifier", []),
    "student": ("finetune_distill", ["--config.objective.token=own", "--config.objective.expand=24"]),
}


def read(config, *overrides):
    return flags.check(flags.override(flags.load_config(f"demo/{config}"), overrides)).to_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """name of `WEIGHTS` -> a workdir of drawn weights, made when asked for."""
    root = tmp_path_factory.mktemp("weights")

    def make(name):
        workdir = root / name
        if not workdir.exists():
            config = read(WEIGHTS[name][0], *WEIGHTS[name][1])
            teacher = read("teacher_classifier") if name == "student" else None
            params = shapes(make_objective(config, DIGITS["classes"], teacher, steps=1), config).params
            rng = np.random.default_rng(0)
            save_params(workdir, jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), params))
            model = {key: config[key] for key in ("model", "objective")}
            write_record(workdir, {"kind": "import", "config": model, "data": DIGITS})
        return str(workdir)

    return make


def from_weights(weights, overrides):
    return [text.format_map(Names(weights)) for text in overrides]


class Names(dict):
    """{name} in a flag -> the workdir of those weights."""

    def __init__(self, weights):
        self.weights = weights

    def __missing__(self, name):
        return self.weights(name)


TEACHER, START = "--config.init.teacher=", "--config.init.encoder="


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        # what a kind of encoder cannot do
        ("hiera", ["--config.objective.name=simmim"], ["put a mask token", "hiera_micro", "vit, swin", "mae, distill"]),
        ("simmim", ["--config.model.name=vit_micro_rpe"], ["put a mask token", "vit_micro_rpe", "moco"]),
        ("simmim_swin", ["--config.objective.name=mae"], ["encode some patches", "swin_micro", "vit, hiera", "simmim"]),
        ("mae", ["--config.model.name=vit_micro_rpe"], ["encode some patches", "vit_micro_rpe", "classify"]),
        ("moco", ["--config.model.name=swin_micro"], ["CLS token", "swin_micro", "vit, vit_rpe"]),
        ("moco", ["--config.model.name=hiera_micro"], ["CLS token", "hiera_micro"]),
        ("finetune_distill", ["--config.model.name=hiera_micro"], ["CLS token", "hiera_micro", "classify"]),
        ("finetune_distill", ["--config.model.name=swin_micro"], ["CLS token", "swin_micro"]),
        ("hiera", ["--config.objective.name=d2"], ["decoded from an inner block", "hiera_micro", "mae, distill"]),
        ("tinymim", ["--config.model.name=swin_micro"], ["encode some patches", "swin_micro"]),
        ("distill", [TEACHER + "{rpe}"], ["a teacher that can encode some patches", "vit_micro_rpe", "vit, hiera"]),
        ("distill", [TEACHER + "{swin}"], ["a teacher that can encode some patches", "swin_micro"]),
        ("tinymim", [TEACHER + "{rpe}"], ["a teacher that can encode some patches", "vit_micro_rpe"]),
        # heads
        (
            "finetune_distill",
            [TEACHER + "{classifier}", "--config.objective.expand=32", "--config.objective.pool=norm_mean"],
            ["norm_mean", "nearest: 'mean'"],
        ),
        ("finetune_distill", ["--config.objective.expand=-3"], ["objective.expand", "-3", "the least is 1"]),
        ("finetune_distill", ["--config.objective.expand=0"], ["objective.expand", "0", "the least is 1"]),
        (
            "simmim_swin",
            ["--config.objective.head=block", "--config.model.image_size=16", "--config.model.window=8"],
            ["the block of the head", "8x8 grid", "windows of 7", "nearest window: 8"],
        ),
        # sizes and rates
        ("hiera", ["--config.model.depths=()"], ["model.depths", "empty"]),
        ("simmim_swin", ["--config.model.depths=()"], ["model.depths", "empty"]),
        ("simmim_swin", ["--config.model.window=0"], ["model.window", "the least is 1"]),
        ("simmim", ["--config.objective.mask_unit=0"], ["objective.mask_unit", "the least is 1"]),
        ("moco", ["--config.objective.hidden=0"], ["objective.hidden", "the least is 1"]),
        ("moco", ["--config.objective.dim=0"], ["objective.dim", "the least is 1"]),
        ("mae", ["--config.model.drop_path=1.0"], ["drop-path", "1.0", "[0, 1)", "nearest: 0.99"]),
        ("simmim_swin", ["--config.model.drop_path=-0.5"], ["drop-path", "-0.5", "nearest: 0.0"]),
        ("hiera", ["--config.model.drop_path=1.5"], ["drop-path", "1.5"]),
        ("finetune_rpe", ["--config.model.drop_path=1.0"], ["drop-path", "1.0"]),
        ("tinymim", [TEACHER + "{mae}", "--config.objective.teacher_drop_path=1.5"], ["drop-path", "1.5"]),
        # layers and widths of students and teachers
        ("distill", [TEACHER + "{heads3}"], ["no teacher layer 4", "1 to 3", "nearest: 3"]),
        ("d2", [TEACHER + "{mae}", "--config.objective.decode_from=9"], ["decode_from=9", "1 to 4", "nearest: 4"]),
        ("tinymim", [TEACHER + "{heads3}"], ["3 heads", "width 64", "nearest width: 60"]),
        # weights of another kind
        ("finetune", [START + "{hiera}"], ["holds a hiera", "'hiera_micro'", "is a vit", "starts from: vit"]),
        ("finetune", [START + "{swin}"], ["holds a swin", "'swin_micro'", "is a vit"]),
        ("finetune", [START + "{rpe}"], ["holds a vit_rpe", "is a vit"]),
        ("finetune_rpe", [START + "{swin}"], ["holds a swin", "is a vit_rpe", "starts from: vit, vit_rpe"]),
    ],
)
def test_refused_in_one_line_before_the_first_compile(weights, tmp_path, config, overrides, words):
    own = ["--config.train.steps=1", "--config.optim.warmup_epochs=0.0", *from_weights(weights, overrides)]
    with pytest.raises(InputError) as error:
        train.main([f"--config=demo/{config}", f"--workdir={tmp_path / 'run'}", *own])
    line = str(error.value)
    assert all(word in line for word in words) and "\n" not in line, line
    assert not (tmp_path / "run").exists()


def built(weights, tmp_path, config, *overrides):
    own = ["--config.train.steps=1", "--config.optim.warmup_epochs=0.0", *from_weights(weights, overrides)]
    return build_run(read(config, *own), tmp_path / "run")[0]


def test_the_width_that_tinymim_names_works(weights, tmp_path):
    own = ["--config.model.width=60", "--config.model.last_heads=3"]
    run = built(weights, tmp_path, "tinymim", TEACHER + "{heads3}", *own)
    assert "encoder" in jax.eval_shape(run.init).params


@pytest.mark.parametrize("config", ["distill", "d2"])
def test_an_encoder_of_simmim_teaches_without_its_mask_token(weights, tmp_path, config):
    run = built(weights, tmp_path, config, TEACHER + "{simmim}")
    assert "mask_token" not in jax.eval_shape(run.init).frozen["teacher"]


def test_a_distilled_classifier_teaches_by_both_heads(weights, tmp_path):
    run = built(weights, tmp_path, "finetune_distill", TEACHER + "{student}")
    parts = jax.eval_shape(run.init).frozen["teacher"]
    assert set(parts) == {"encoder", "neck", "head", "dist_head"} and "dist_token" in parts["encoder"]


def test_a_hiera_goes_on_at_another_image_size_with_its_decoder(weights, tmp_path):
    run = built(weights, tmp_path, "hiera", START + "{hiera}", "--config.model.image_size=32")
    ours, theirs = flatten(run.init().params), flatten(load_params(weights("hiera")))
    for name, grids in {"encoder/pos_embed": ((32, 32), (16, 16)), "decoder/pos_embed": ((8, 8), (4, 4))}.items():
        np.testing.assert_array_equal(ours[name], resample(theirs[name], *grids, prefix=0))


@pytest.mark.parametrize(("config", "accumulate", "warned"), [("moco", 2, True), ("moco", 1, False), ("mae", 2, False)])
def test_accumulation_that_changes_the_mathematics_is_said(weights, tmp_path, caplog, config, accumulate, warned):
    built(weights, tmp_path, config, f"--config.train.accumulate={accumulate}")
    assert ("images of a microbatch" in caplog.text) == warned


def test_some_fields_may_be_unset():
    for config, field in (("finetune_distill", "objective.expand"), ("finetune_rpe", "model.layer_scale")):
        section, key = field.split(".")
        assert read(config, f"--config.{field}=1", f"--config.{field}=None")[section][key] is None
    assert read("simmim_swin", "--config.model.window=2", "--config.model.window=None")["model"]["window"] is None


@pytest.mark.parametrize("model", ["vit_micro_rpe", "hiera_micro", "swin_micro", "regnety_002"])
def test_bench_step_measures_plain_vits_alone(model, capsys):
    with pytest.raises(InputError, match=f"unknown plain ViT '{model}'.*valid: vit_base"):
        bench.main(["step", f"--model={model}"])
    with pytest.raises(SystemExit):
        bench.main(["step", "--help"])
    assert model not in capsys.readouterr().out
