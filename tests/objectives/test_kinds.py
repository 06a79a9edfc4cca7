"""What the tables of models and objectives say of each other: every pair that they allow traces, others are refused."""

import jax
import jax.numpy as jnp
import pytest

from lvit_jax.bin import flags
from lvit_jax.build.parts import encoder, example, make_objective, shapes
from lvit_jax.errors import InputError
from lvit_jax.models import ABILITIES, KINDS
from lvit_jax.objectives import NEEDS_CLASSIFIER, NEEDS_TEACHER, OBJECTIVES, check_encoder
from lvit_jax.types import TrainState

# kind -> the demo config of its model; objective -> its demo config, and the fields that any size of encoder has.
MODELS = {"vit": "simmim", "vit_rpe": "finetune_rpe", "hiera": "hiera", "swin": "simmim_swin"}
METHODS = {
    "mae": ("mae", {}),
    "distill": ("distill", {}),
    "d2": ("d2", {"decode_from": 1}),
    "tinymim": ("tinymim", {"target": "cls", "views": ("output",), "teacher_layer": 4, "mask_ratio": 0.5}),
    "moco": ("moco", {}),
    "simmim": ("simmim", {}),
    "simmim_d2": ("simmim_d2", {}),
    "classify": ("finetune", {}),
    "classify_distill": ("finetune_distill", {}),
    "probe": ("probe", {}),
}
CLASSES = ("0", "1", "2")


def config_of(method, kind):
    name, own = METHODS[method]
    config = flags.load_config(f"demo/{name}").to_dict()
    model = flags.load_config(f"demo/{MODELS[kind]}").to_dict()["model"]
    objective = config["objective"] | own
    if "pairs" in objective:
        objective["pairs"] = ((encoder(model).depth,) * 2,)
    return config | {"objective": objective, "model": model}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", OBJECTIVES)
def test_the_tables_say_which_encoders_a_method_takes(method, kind):
    config = config_of(method, kind)
    teacher = {"model": config["model"], "objective": None}
    if method in NEEDS_CLASSIFIER:
        teacher = flags.load_config("demo/teacher_classifier").to_dict()
    if not OBJECTIVES[method].needs <= KINDS[kind].can:
        with pytest.raises(InputError, match=f"objective '{method}' needs an encoder that can .* a {kind} takes: "):
            make_objective(config, CLASSES, teacher, steps=10)
        return
    objective = make_objective(config, CLASSES, teacher if method in NEEDS_TEACHER else None, steps=10)
    start, batch = shapes(objective, config), example(config)
    state = TrainState(jnp.int32(0), start.params, (), start.frozen, start.extra)
    loss, _ = jax.eval_shape(objective.loss, start.params, state, batch, jax.random.key(0))
    assert loss.shape == ()


@pytest.mark.parametrize("kind", MODELS)
def test_a_kind_can_what_the_table_says(kind):
    model = flags.load_config(f"demo/{MODELS[kind]}").to_dict()["model"]
    module, images = encoder(model), example({"model": model, "data": {"recipe": "mae"}})["image"]

    def seen(**options):
        return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images, **options)[0])

    whole = seen()
    assert (whole.prefix > 0) == ("cls" in KINDS[kind].can)
    assert bool(whole.stages) == ("stages" in KINDS[kind].can)
    patches = jnp.zeros((1, whole.blocks[0].x.shape[1] - whole.prefix))
    for ability, options in {"keep": {"keep": jnp.zeros((1, 2), jnp.int32)}, "mask": {"mask": patches}}.items():
        if ability in KINDS[kind].can:
            assert seen(**options).grid == whole.grid
        else:
            with pytest.raises((TypeError, InputError)):
                seen(**options)


def test_methods_ask_for_abilities_that_there_are():
    for method in OBJECTIVES.values():
        assert method.needs <= set(ABILITIES)
        assert any(method.needs <= kind.can for kind in KINDS.values())
    assert all(kind.can <= set(ABILITIES) for kind in KINDS.values())


def test_a_frozen_convolutional_teacher_pre_trains_nothing():
    with pytest.raises(InputError, match=r"as a regnet such as 'regnety_160' cannot.* a regnet takes: classify"):
        check_encoder("mae", "regnety_160")
