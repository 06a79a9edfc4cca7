"""The optimizer against torch.optim under timm's parameter groups, and the schedule against its formula."""

import ast
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay

from lvit_jax.errors import InputError
from lvit_jax.training import optim
from lvit_jax.training.optim import averaged, decay_mask, layer_id, make_schedule, make_tx, with_average
from lvit_jax.tree import flatten, unflatten

RUN = {"steps": 10, "steps_per_epoch": 2, "batch_size": 512, "blr": 0.05, "warmup_epochs": 1, "weight_decay": 0.05}


def tiny_params(seed=0):
    """The names of a classifier with learned positions and two blocks, tiny shapes."""
    block = {
        "norm1/scale": (8,),
        "norm1/bias": (8,),
        "attn/qkv/kernel": (8, 24),
        "attn/qkv/bias": (24,),
        "attn/proj/kernel": (8, 8),
        "mlp/fc1/kernel": (8, 16),
    }
    shapes = {f"encoder/block_{i}/{name}": shape for i in range(2) for name, shape in block.items()}
    shapes |= {
        "encoder/cls_token": (1, 1, 8),
        "encoder/pos_embed": (1, 5, 8),
        "encoder/patch_embed/kernel": (2, 2, 3, 8),
    }
    shapes |= {
        "encoder/patch_embed/bias": (8,),
        "head/norm/scale": (8,),
        "head/fc/kernel": (8, 3),
        "head/fc/bias": (3,),
    }
    rng = np.random.default_rng(seed)
    return unflatten({name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()})


def random_like(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def run_jax(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def run_torch(make_optimizer, tensors, groups, schedule, grads, names):
    """Steps a torch optimizer whose groups carry `lr_scale` on the same gradients; lr set per iteration."""
    import torch

    optimizer = make_optimizer(groups)
    for step, grad in enumerate(grads):
        for name, g in flatten(grad).items():
            tensors[name].grad = torch.tensor(np.asarray(g)).reshape(tensors[name].shape)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step)) * group.get("lr_scale", 1.0)
        optimizer.step()
    return {name: tensors[name].detach().numpy() for name in names}


def test_adamw_with_layer_decay_is_timms():
    """Groups made by timm itself, on timm's own ViT: the rule of recipes 5.2 is not written out a second time here."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    vit = VisionTransformer(**sizes, global_pool="avg")
    ours = {_our_name(name): p for name, p in vit.named_parameters()}
    params = unflatten({name: jnp.asarray(p.detach().numpy()) for name, p in ours.items()})
    grads = [random_like(params, seed) for seed in range(3)]
    groups = param_groups_layer_decay(
        vit, weight_decay=0.05, no_weight_decay_list=vit.no_weight_decay(), layer_decay=0.85
    )
    no_decay = ("encoder/(pos_embed|cls_token)",)
    tx, schedule = make_tx(params, **RUN, warmup_lr=1e-3, layer_decay=0.85, depth=3, no_decay=no_decay)
    mine, _ = run_jax(tx, params, grads)
    theirs = run_torch(lambda g: torch.optim.AdamW(g, lr=1.0), ours, groups, schedule, grads, list(ours))
    for name, value in flatten(mine).items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(value - flatten(params)[name]).max() > 1e-4, name


def _our_name(name):
    """timm's name as ours, as far as the rules look at names."""
    name = name.replace("blocks.", "block_").replace("patch_embed.proj", "patch_embed").replace(".", "/")
    return name if name.startswith(("head", "fc_norm")) else f"encoder/{name}"


def test_sgd_with_nesterov_is_torchs():
    params = tiny_params()
    grads = [random_like(params, seed) for seed in range(3)]
    tx, schedule = make_tx(params, **RUN, name="sgd", momentum=0.9, nesterov=True, warmup_lr=1e-3)
    mine, _ = run_jax(tx, params, grads)
    tensors = {name: torch.nn.Parameter(torch.tensor(np.asarray(p))) for name, p in flatten(params).items()}
    decays = flatten(decay_mask(params))
    groups = [{"params": [p], "weight_decay": 0.05 * decays[name]} for name, p in tensors.items()]
    sgd = {"lr": 1.0, "momentum": 0.9, "nesterov": True}
    theirs = run_torch(lambda g: torch.optim.SGD(g, **sgd), tensors, groups, schedule, grads, list(tensors))
    for name, value in flatten(mine).items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-6, err_msg=name)


def test_schedule_is_the_formula():
    schedule = make_schedule(peak=2.4e-3, steps=100, warmup=20, start=1e-5, end=1e-6)
    for t in range(101):
        if t < 20:
            expected = 1e-5 + (2.4e-3 - 1e-5) * t / 20
        else:
            q = 0.5 * (1 + math.cos(math.pi * (t - 20) / 80))
            expected = 2.4e-3 * q + 1e-6 * (1 - q)
        assert float(schedule(t)) == pytest.approx(expected, rel=1e-5, abs=1e-6 * 2.4e-3), t


def test_peak_rate_scales_with_the_batch_and_warmup_counts_epochs():
    _, schedule = make_tx(tiny_params(), **RUN | {"steps_per_epoch": 2.5, "warmup_epochs": 2})
    assert float(schedule(5)) == pytest.approx(0.05 * 512 / 256)
    assert float(schedule(4)) == pytest.approx(0.8 * 0.1)


def test_milestones_are_torchs_multistep_after_the_warmup():
    import torch

    _, schedule = make_tx(tiny_params(), **RUN, milestones=(2, 4.5), min_lr=1e-3)  # epochs of two steps
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 9], gamma=0.1)
    for t in range(12):
        expected = optimizer.param_groups[0]["lr"] if t >= 2 else 0.1 * t / 2
        assert float(schedule(t)) == pytest.approx(expected, rel=1e-5, abs=1e-9), t
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("warmup", [10, 11])
def test_a_warmup_as_long_as_the_run_is_refused(warmup):
    with pytest.raises(InputError, match=f"warm-up of {warmup} steps"):
        make_schedule(1.0, 10, warmup)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder/cls_token", 0),
        ("encoder/pos_embed", 0),
        ("encoder/patch_embed/kernel", 0),
        ("decoder/mask_token", 0),
        ("encoder/block_0/norm1/bias", 1),
        ("encoder/block_11/attn/qkv/kernel", 12),
        ("encoder/norm/scale", 13),
        ("head/fc/kernel", 13),
        ("decoder/block_0/norm1/scale", 13),
    ],
)
def test_layers_of_the_recipes(name, layer):
    assert layer_id(name, depth=12) == layer


def test_layer_decay_for_a_shallower_model_is_refused():
    with pytest.raises(InputError, match="block_1/"):
        make_tx(tiny_params(), **RUN, layer_decay=0.8, depth=0)


def test_what_decays():
    decays = flatten(decay_mask(tiny_params(), no_decay=("encoder/pos_embed",)))
    assert {name for name, yes in decays.items() if yes} == {
        "encoder/cls_token",  # MAE pre-training decays it (recipes 2.2); fine-tuning names it in no_decay
        "encoder/patch_embed/kernel",
        "head/fc/kernel",
        *(f"encoder/block_{i}/{k}/kernel" for i in range(2) for k in ("attn/qkv", "attn/proj", "mlp/fc1")),
    }


def test_frozen_parameters_do_not_move():
    params = tiny_params()
    tx, _ = make_tx(params, **RUN, warmup_lr=1e-3, frozen=("encoder/.*",))
    after, _ = run_jax(tx, params, [random_like(params, seed) for seed in range(3)])
    for name, value in flatten(after["encoder"]).items():
        np.testing.assert_array_equal(value, flatten(params["encoder"])[name], err_msg=name)
    assert np.abs(after["head"]["fc"]["kernel"] - params["head"]["fc"]["kernel"]).min() > 0


def test_clipping_is_on_the_global_norm_of_what_is_trained():
    params = tiny_params()
    sgd = {"name": "sgd", "weight_decay": 0.0, "warmup_epochs": 0, "clip": 0.5}
    tx, schedule = make_tx(params, **RUN | sgd, frozen=("encoder/.*",))
    updates, _ = tx.update(random_like(params, 1), tx.init(params), params)
    assert float(optax.global_norm(updates)) == pytest.approx(0.5 * float(schedule(0)), rel=1e-5)


def test_average_follows_the_parameters():
    params = tiny_params()
    grads = [random_like(params, seed) for seed in range(3)]
    tx, _ = make_tx(params, **RUN, warmup_lr=1e-3, ema=0.75)
    state, expected = tx.init(params), params
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        expected = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, expected, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averaged(state), expected)


def test_the_average_can_be_taken_out_and_put_back():
    params = tiny_params()
    state = make_tx(params, **RUN, ema=0.9)[0].init(params)
    bare = with_average(state, ())
    assert len(jax.tree.leaves(bare)) == len(jax.tree.leaves(state)) - len(jax.tree.leaves(params))
    again = with_average(bare, averaged(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert averaged(make_tx(params, **RUN)[0].init(params)) is None


@pytest.mark.parametrize("rule", ["no_decay", "frozen"])
def test_a_rule_that_matches_nothing_is_refused(rule):
    with pytest.raises(InputError, match="encoder/pos_embd"):
        make_tx(tiny_params(), **RUN, **{rule: ("encoder/pos_embd",)})


def test_an_unknown_optimizer_is_refused_with_the_valid_ones():
    with pytest.raises(InputError, match=r"'adam'.*adamw.*sgd"):
        make_tx(tiny_params(), **RUN, name="adam")


def test_no_function_here_is_longer_than_fifty_lines():
    for node in ast.walk(ast.parse(inspect.getsource(optim))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


def test_decay_of_everything_is_torchs_adamw_without_groups():
    params = tiny_params()
    grads = [random_like(params, seed) for seed in range(3)]
    tx, schedule = make_tx(params, **RUN | {"weight_decay": 5.0}, decay_all=True, warmup_lr=1e-3)
    mine, _ = run_jax(tx, params, grads)
    tensors = {name: torch.nn.Parameter(torch.tensor(np.asarray(p))) for name, p in flatten(params).items()}
    groups = [{"params": list(tensors.values()), "weight_decay": 5.0}]
    theirs = run_torch(lambda g: torch.optim.AdamW(g, lr=1.0), tensors, groups, schedule, grads, list(tensors))
    for name, value in flatten(mine).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)
    still = flatten(decay_mask(params, frozen=("encoder/patch_embed/.*",), decay_all=True))
    assert {name for name, decays in still.items() if not decays} == {n for n in still if "patch_embed" in n}


def test_lars_is_mocos():
    """By its definition (MoCo-v3, moco/optimizer.py) in numpy: vectors take the plain gradient and do not decay."""
    params = tiny_params()
    params["encoder"]["cls_token"] = jnp.zeros((1, 1, 8))  # a norm of 0 leaves the gradient as it is
    grads = [random_like(params, seed) for seed in range(3)]
    tx, schedule = make_tx(params, **RUN, name="lars", momentum=0.9, nesterov=True, warmup_lr=1e-3)
    mine, _ = run_jax(tx, params, grads)
    for name, start in flatten(params).items():
        p, trace = np.float64(start), 0.0
        for step, grad in enumerate(grads):
            g = np.float64(flatten(grad)[name])
            if p.ndim > 1:
                g = g + 0.05 * p
                norms = np.linalg.norm(p), np.linalg.norm(g)
                g = g * (0.001 * norms[0] / norms[1] if all(norms) else 1.0)
            trace = 0.9 * trace + g
            p = p - float(schedule(step)) * trace
        np.testing.assert_allclose(flatten(mine)[name], p, rtol=1e-5, atol=1e-7, err_msg=name)


def test_lars_decays_no_vectors():
    with pytest.raises(InputError, match=r"set --config.optim.decay_all=False"):
        make_tx(tiny_params(), **RUN, name="lars", decay_all=True)
