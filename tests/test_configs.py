"""Every config that ships builds: its names, keys, shapes and rules are checked without data and without a compile."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lvit_jax.bin import flags
from lvit_jax.build.parts import count_steps, encoder, example, make_objective, shapes
from lvit_jax.build.run import make_optimizer
from lvit_jax.data.recipes import RECIPES
from lvit_jax.data.sources import open_data
from lvit_jax.models import ENCODERS
from lvit_jax.models.layers import drop_path_rates
from lvit_jax.objectives import NEEDS_TEACHER
from lvit_jax.training.checkpoint import load_into
from lvit_jax.training.record import write_record
from lvit_jax.tree import flatten, matches
from lvit_jax.types import TrainState

ROOT = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.py") if path.name != "__init__.py")
CLASSES = tuple(f"class {i}" for i in range(10))


# config -> its teacher: a size, or the config that trains it; MAE-Base for all others.
ABLATIONS = ("relations", "reconstruct", "features", "cls", "cls_reconstruct")  # of TinyMIM
TAUGHT_BY = {f"pretrain/tinymim_{row}.py": "vit_large" for row in ("base", *ABLATIONS)} | {
    "pretrain/tinymim_small.py": "pretrain/tinymim_base.py",
    "pretrain/tinymim_tiny.py": "pretrain/tinymim_small.py",
}


@pytest.fixture
def teacher(tmp_path, name):
    """The record of an imported Base classifier, or of another teacher: objectives read its sizes from it."""
    taught_by = TAUGHT_BY.get(name, "vit_base")
    if taught_by in CONFIGS:
        model = flags.load_config(taught_by).model.to_dict()
    else:
        model = {"name": taught_by, "image_size": 224, "patch_size": 16, "channels": 3}
    objective = {"name": "classify", "pool": "mean", "classes": len(CLASSES)}
    write_record(tmp_path, {"kind": "import", "config": {"model": model, "objective": objective}})
    return str(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(name, teacher, tmp_path):
    config = flags.check(flags.load_config(name))
    if config.objective.name in NEEDS_TEACHER:
        config.init.teacher = teacher
        swins = {"name": "swin_c96", "image_size": 224, "patch_size": 4, "channels": 3}
        hieras = {"name": "hiera_base", "image_size": 224, "channels": 3, "q_pool": 2}
        model = {"swin": swins, "hiera": hieras}.get(ENCODERS[config.model.name][0])
        if model:
            write_record(teacher, {"kind": "import", "config": {"model": model, "objective": None}})
        if config.init.demo_teacher:
            sizes = flags.load_config(config.init.demo_teacher)
            write_record(teacher, {"kind": "run", "config": sizes.to_dict()})
    plain = config.to_dict()
    objective = make_objective(plain, CLASSES, steps=count_steps(plain, 1_281_167)[0])
    abstract = shapes(objective, plain)
    tx, schedule, steps = make_optimizer(plain, abstract.params, 1_281_167)
    jax.eval_shape(tx.init, abstract.params)
    state = TrainState(jnp.zeros((), jnp.int32), abstract.params, (), abstract.frozen, abstract.extra)
    loss, aux = jax.eval_shape(objective.loss, abstract.params, state, example(plain), jax.random.key(0))
    assert loss.shape == () and all(value.shape == () for value in aux.metrics.values())
    assert steps > 0 and float(schedule(steps // 2)) > 0
    known = set(inspect.signature(open_data).parameters) | set(
        inspect.signature(RECIPES[config.data.recipe]).parameters
    )
    assert set(plain["data"]) <= known - {"augment", "labels", "mean", "std"}


def test_papers_numbers_reach_the_optimizer():
    config = flags.load_config("pretrain/mae_tiny").to_dict()
    abstract = shapes(make_objective(config, None), config)
    _, schedule, steps = make_optimizer(config, abstract.params, 1_281_167)
    assert steps == 400 * 312  # recipes, step counting
    assert float(schedule(40 * 312)) == pytest.approx(2.4e-3)  # 1.5e-4 * 4096 / 256
    count = sum(leaf.size for leaf in flatten(abstract.params["encoder"]).values())
    assert 5.4e6 < count < 5.6e6  # 5.52 M without the classifier


def test_a_dataset_smaller_than_a_batch_rounds_once():
    config = flags.load_config("demo/finetune").to_dict()
    config["train"].update(epochs=100.0, batch_size=128)
    abstract = shapes(make_objective(config, CLASSES), config)
    assert make_optimizer(config, abstract.params, 100)[2] == 78  # 100 * 100 / 128


@pytest.mark.parametrize("name", [f"pretrain/tinymim_{size}.py" for size in ("base", "small", "tiny")])
def test_tinymims_numbers_reach_the_model(name, teacher):
    config = flags.load_config(name).to_dict()
    config["init"]["teacher"] = teacher
    student = encoder(config["model"])
    assert [student.heads_of(layer) for layer in range(1, 13)] == [student.heads] * 11 + [16]
    assert drop_path_rates(student.drop_path, 12, student.drop_path_shape) == [0.1] * 11 + [0.0]  # recipes 1.3
    abstract = shapes(make_objective(config, None), config)
    frozen = {leaf for leaf in flatten(abstract.params) if matches(config["optim"]["frozen"], leaf)}
    last = "encoder/block_11/"
    used = {f"{last}{part}" for part in ("norm1/scale", "norm1/bias", "attn/qkv/kernel", "attn/qkv/bias")}
    assert frozen == {leaf for leaf in flatten(abstract.params) if leaf.startswith((last, "encoder/norm/"))} - used
    _, schedule, steps = make_optimizer(config, abstract.params, 1_281_167)
    assert steps == 300 * 312 and float(schedule(15 * 312)) == pytest.approx(2.4e-3)


SWIN = {"depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, "patch_size": 4}
# config -> steps, warm-up steps, highest rate, parameters of what is fine-tuned (in millions, with 1000 classes; None:
# nowhere stated), and fields of the model, objective and optimizer: recipes 1, 3 and 5, by hand. ImageNet has 312, 625
# or 1251 steps an epoch at batches of 4096, 2048 and 1024.
PUBLISHED = {
    "pretrain/moco_tiny": (
        (400 * 1251, 40 * 1251, 6e-4, None),  # 1.5e-4 * 1024 / 256
        {"width": 192, "depth": 12, "heads": 12, "positions": "sincos_moco", "drop_path": 0.0},
        {"hidden": 4096, "dim": 256, "temperature": 0.2, "momentum": 0.99},
        {"weight_decay": 0.1, "b2": 0.999, "warmup_lr": 1e-6, "decay_all": True, "frozen": ()},
    ),
    "pretrain/simmim_swin_tiny": (
        (400 * 625, 10 * 625, 4e-4, None),
        {"width": 48, "drop_path": 0.1, **SWIN},
        {"head": "block", "mask_ratio": 0.6, "mask_unit": 32, "norm_pix": False},
        {"b2": 0.99, "weight_decay": 0.05, "clip": 5.0, "warmup_lr": 2e-6, "milestones": (700.0,)},
    ),
    "pretrain/simmim_swin_d2": (
        (400 * 625, 10 * 625, 4e-4, None),
        {"width": 48, "drop_path": 0.1, **SWIN},
        {"head": "block", "mask_ratio": 0.6, "mask_unit": 32, "decode_stage": 2, "teacher_layer": 12, "alpha": 1.0},
        {"b2": 0.99, "clip": 5.0},
    ),
    "pretrain/simmim_tiny": (
        (400 * 625, 10 * 625, 4e-4, None),  # 1e-4 per 512 images
        {"width": 192, "heads": 12, "drop_path": 0.1},
        {"head": "linear", "mask_ratio": 0.6, "mask_unit": 32, "norm_pix": False},
        {"b2": 0.999, "clip": 5.0, "weight_decay": 0.05, "milestones": (700.0,)},
    ),
    "pretrain/hiera_tiny": (
        (400 * 312, 40 * 312, 2.4e-3, None),
        {"first_width": 46, "depths": (1, 2, 7, 2), "heads": 8, "q_pool": 2, "patch_size": 16, "mask_size": 32},
        {"decoder": "tiny", "mask_ratio": 0.4, "norm_pix": True},
        {"b2": 0.95, "weight_decay": 0.05, "decay_all": False},
    ),
    "finetune/hiera_tiny": (
        (300 * 1251, 5 * 1251, 4e-3, 6.7),
        {"first_width": 46, "q_pool": 3, "patch_size": 32, "drop_path": 0.0},
        {"mixup": 0.2, "cutmix": 0.0, "smoothing": 0.0, "head_std": 2e-5},
        {"layer_decay": 0.85, "b2": 0.999, "min_lr": 1e-6},
    ),
    "finetune/swin_tiny": (
        (300 * 1251, 5 * 1251, 4e-3, 7.30),
        {"width": 48, "drop_path": 0.0, **SWIN},
        {"mixup": 0.2, "cutmix": 0.0, "pool": "norm_mean"},
        {"layer_decay": 0.85, "min_lr": 1e-6},
    ),
    "finetune/imagenet_rpe": (
        (1000 * 1251, 5 * 1251, 4e-3, 5.82),  # ViT-Tiny's 5.72 and the tables' 0.105
        {"width": 192, "heads": 12, "qv_bias": True, "positions": "learned", "layer_scale": None},
        {"mixup": 0.2, "pool": "mean", "head_std": 2e-5},
        {"layer_decay": 0.85, "b2": 0.999},
    ),
    "finetune/imagenet_rpe_d2": (
        (1000 * 1251, 5 * 1251, 4e-3, 5.82),
        {"width": 192, "heads": 12, "qv_bias": False, "positions": "learned"},
        {"mixup": 0.2, "pool": "mean"},
        {"layer_decay": 0.85},
    ),
    "finetune/moco_tiny": (
        (300 * 1251, 5 * 1251, 4e-3, 5.72),
        {"width": 192, "heads": 12, "positions": "learned"},
        {"mixup": 0.2, "pool": "mean"},
        {"layer_decay": 0.75},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_reach_model_and_optimizer(name, tmp_path):
    (total, warmup, highest, millions), model, objective, optim = PUBLISHED[name]
    config = flags.load_config(name).to_dict()
    if config["objective"]["name"] in NEEDS_TEACHER:
        config["init"]["teacher"] = str(tmp_path)
        swins = {"name": "swin_c96", "image_size": 224, "patch_size": 4, "channels": 3}
        write_record(tmp_path, {"kind": "import", "config": {"model": swins, "objective": None}})
    module = encoder(config["model"])
    assert {field: getattr(module, field) for field in model} == model
    assert {field: config["objective"][field] for field in objective} == objective
    assert {field: config["optim"][field] for field in optim} == optim
    classes = tuple(map(str, range(1000)))
    abstract = shapes(make_objective(config, classes, steps=total), config)
    _, schedule, steps = make_optimizer(config, abstract.params, 1_281_167)
    assert steps == total and float(schedule(warmup)) == pytest.approx(highest)
    assert float(schedule(warmup // 2)) < 0.6 * highest
    if millions:
        count = sum(leaf.size for leaf in flatten(abstract.params).values())
        assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "teacher_size", "overrides"),
    [
        ("tinymim_small", "vit_base", ["--config.model.last_heads=12"]),
        ("tinymim_small", "vit_large", ["--config.objective.teacher_layer=18"]),
        ("tinymim_tiny", "vit_small", ["--config.model.last_heads=6"]),
        ("tinymim_tiny", "vit_base", ["--config.model.last_heads=12"]),
        ("tinymim_cls", "vit_large", ["--config.model.name=vit_small", "--config.model.heads=6"]),
        ("tinymim_features", "vit_large", ["--config.model.name=vit_tiny", "--config.model.heads=6"]),
    ],
)
def test_rows_in_docstrings_build(name, teacher_size, overrides, tmp_path):
    """TinyMIM's sequences of teachers and its targets at other sizes, as their configs describe them."""
    text = (ROOT / "pretrain" / f"{name}.py").read_text()
    assert all(flag in text for flag in overrides)
    model = {"name": teacher_size, "image_size": 224, "patch_size": 16, "channels": 3}
    model |= {"heads": 6} if teacher_size == "vit_small" else {}
    write_record(tmp_path, {"kind": "import", "config": {"model": model, "objective": None}})
    overrides = [*overrides, "--config.train.epochs=100", f"--config.init.teacher={tmp_path}"]
    config = flags.check(flags.override(flags.load_config(f"pretrain/{name}"), overrides)).to_dict()
    abstract = shapes(make_objective(config, None), config)
    assert make_optimizer(config, abstract.params, 1_281_167)[2] == 100 * 312


# name -> examples of the training split, classes, epochs, highest rate, epochs of warm-up (recipes 6)
TRANSFERS = {
    "cifar10": (50_000, 10, 50, 0.03, 20),
    "cifar100": (50_000, 100, 50, 0.1, 10),  # published: an absolute rate
    "flowers": (2_040, 102, 50, 0.03, 20),
    "pets": (3_680, 37, 50, 0.03, 20),
    "aircraft": (6_667, 100, 50, 0.03, 20),
    "cars": (8_144, 196, 50, 0.03, 20),
    "inat18": (437_513, 8_142, 50, 0.03, 20),
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer_is_mae_lites_sgd(name):
    examples, classes, epochs, highest, warmup = TRANSFERS[name]
    config = flags.load_config(f"transfer/{name}").to_dict()
    names = tuple(map(str, range(classes)))
    abstract = shapes(make_objective(config, names), config)
    _, schedule, steps = make_optimizer(config, abstract.params, examples)
    an_epoch = examples // 512
    assert steps == epochs * an_epoch
    assert float(schedule(warmup * an_epoch)) == pytest.approx(highest) and float(schedule(0)) == 0
    assert float(schedule(steps)) == pytest.approx(1e-6, abs=1e-8)
    optim = {
        key: config["optim"][key] for key in ("name", "momentum", "nesterov", "weight_decay", "clip", "layer_decay")
    }
    assert optim == {
        "name": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0,
        "clip": 1.0,
        "layer_decay": 0.75,
    }
    assert {config["objective"][key] for key in ("mixup", "cutmix", "smoothing")} == {0.0}
    data = config["data"]
    assert (data["crop_scale"], data["interpolation"], data["flip"]) == ((0.08, 1.0), "bicubic", 0.5)
    assert (data["eval_crop"], data["randaugment"], data["erase"]) == (0.875, None, 0.0)  # 224 of 256


def test_a_supervised_start_brings_all_but_its_last_linear(tmp_path):
    """MAE-Lite loads what is not the head's Linear; MAE's decoder and final norm stay behind as in fine-tuning."""
    config = flags.load_config("transfer/cars").to_dict()
    target = shapes(make_objective(config, CLASSES), config).params
    rules = {"fresh": config["init"]["fresh"], "dropped": config["init"]["dropped"]}
    supervised = shapes(make_objective(flags.load_config("finetune/imagenet").to_dict(), CLASSES[:7]), config).params
    missing = {"head/fc/kernel", "head/fc/bias"}
    assert set(flatten(target)) - set(flatten(load_into(target, supervised, **rules))) == missing
    pretrained = shapes(make_objective(flags.load_config("pretrain/mae_tiny").to_dict(), None), config).params
    loaded = set(flatten(load_into(target, pretrained, **rules)))
    assert set(flatten(target)) - loaded == missing | {"head/norm/scale", "head/norm/bias", "encoder/pos_embed"}


def test_the_command_of_a_transfer_names_its_own_config():
    for name in TRANSFERS:
        text = (ROOT / "transfer" / f"{name}.py").read_text()
        assert f"lvit train --config=configs/transfer/{name}.py --workdir=runs/{name} " in text
        assert ("search it with --grid" in text) == (name != "cifar100") and ("NV-recall" in text) == (
            name != "cifar10"
        )
