"""The RPE ViT against timm's BEiT on copied weights; its index, its tables on other grids, its initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import timm
import torch
from scipy.interpolate import make_interp_spline
from timm.layers import pos_embed_rel

from lvit_jax.errors import InputError
from lvit_jax.models.features import attention_logits
from lvit_jax.models.heads import classifier
from lvit_jax.models.initial import from_scratch
from lvit_jax.models.relative import relative_index, resample_bias, table_rows
from lvit_jax.models.vit_rpe import vit_rpe
from lvit_jax.training.optim import decay_mask, layer_scales
from lvit_jax.tree import flatten

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch_size": 4, "dtype": "float32"}


def images(height=12, width=20):
    return np.random.default_rng(0).standard_normal((2, height, width, 3), np.float32)


def beit(**options):
    """timm's BEiT of our sizes on a 3x5 grid, with random weights: no zeros, ones or small tables left."""
    torch.manual_seed(0)
    sizes = {"img_size": (12, 20), "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    eps = torch.nn.LayerNorm, {"eps": 1e-6}
    model = timm.models.beit.Beit(**sizes, norm_layer=lambda d, **kw: eps[0](d, **eps[1]), **options)
    if not options.get("qkv_bias", True):  # timm then has no bias at all, MAE-Lite an ordinary one
        for block in model.blocks:
            block.attn.qkv = torch.nn.Linear(32, 96)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim < 2 or "table" in name else 0.2)
    return model.eval()


def from_timm(model):
    """timm's weights as our tree, written out here so that the test leans on no converter."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def linear(name):
        bias = {"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {}
        return {"kernel": state[f"{name}.weight"].T, **bias}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    kernel = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    encoder = {
        "cls_token": state["cls_token"],
        "patch_embed": {"kernel": kernel, "bias": state["patch_embed.proj.bias"]},
    }
    if "pos_embed" in state:
        encoder["pos_embed"] = state["pos_embed"]
    if "rel_pos_bias.relative_position_bias_table" in state:
        encoder["relative_position_bias_table"] = state["rel_pos_bias.relative_position_bias_table"]
    for i in range(2):
        attention = {part: linear(f"blocks.{i}.attn.{part}") for part in ("qkv", "proj")}
        for name in ("q_bias", "v_bias", "relative_position_bias_table"):
            if f"blocks.{i}.attn.{name}" in state:
                attention[name] = state[f"blocks.{i}.attn.{name}"]
        encoder[f"block_{i}"] = {
            "norm1": norm(f"blocks.{i}.norm1"),
            "attn": attention,
            "norm2": norm(f"blocks.{i}.norm2"),
            "mlp": {part: linear(f"blocks.{i}.mlp.{part}") for part in ("fc1", "fc2")},
            **{name: state[f"blocks.{i}.{name}"] for name in ("gamma_1", "gamma_2") if f"blocks.{i}.{name}" in state},
        }
    return {"encoder": encoder, "head": {"norm": norm("fc_norm"), "fc": linear("head")}}


CASES = [
    ({}, {"use_rel_pos_bias": True}),
    ({"qv_bias": False}, {"use_rel_pos_bias": True, "qkv_bias": False}),
    (
        {"layer_scale": 0.1, "positions": "none", "shared_table": True},
        {"init_values": 0.1, "use_abs_pos_emb": False, "use_shared_rel_pos_bias": True},
    ),
]


@pytest.mark.parametrize("ours, theirs", CASES, ids=["qv_bias", "qkv_bias", "shared"])
def test_logits_equal_timms(ours, theirs):
    model, torch_model = classifier(vit_rpe("vit_micro_rpe", **SIZES, **ours), 7), beit(**theirs)
    params = from_timm(torch_model)
    expected_names = flatten(jax.eval_shape(model.init, jax.random.key(0), images())["params"])
    assert set(flatten(params)) == set(expected_names)
    logits = jax.jit(model.apply)({"params": params}, images())
    with torch.no_grad():
        expected = torch_model(torch.tensor(images()).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_gradients_of_tables_and_biases_equal_timms():
    model, torch_model = classifier(vit_rpe("vit_micro_rpe", **SIZES), 7), beit(use_rel_pos_bias=True)
    weights = np.random.default_rng(3).standard_normal((2, 7), np.float32)
    loss = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images()) * weights).sum()))
    grads = flatten(loss(from_timm(torch_model))["encoder"])
    (torch_model(torch.tensor(images()).permute(0, 3, 1, 2)) * torch.tensor(weights)).sum().backward()
    for i in range(2):
        for name in ("relative_position_bias_table", "q_bias", "v_bias", "qkv.weight"):
            theirs = torch_model.get_parameter(f"blocks.{i}.attn.{name}").grad.numpy()
            ours = grads[f"block_{i}/attn/{name.replace('.weight', '/kernel')}"]
            theirs = theirs.T if name == "qkv.weight" else theirs
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("grid", [(3, 3), (2, 4), (1, 3)])
def test_the_index_is_that_of_a_direct_loop(grid):
    index, (rows, columns) = relative_index(grid), grid
    places = [(y, x) for y in range(rows) for x in range(columns)]
    for i, (yi, xi) in enumerate(places):
        for j, (yj, xj) in enumerate(places):
            assert index[1 + i, 1 + j] == (yi - yj + rows - 1) * (2 * columns - 1) + xi - xj + columns - 1
    offsets = (2 * rows - 1) * (2 * columns - 1)
    assert table_rows(grid) == offsets + 3 and index[0, 0] == offsets + 2
    assert set(index[0, 1:]) == {offsets} and set(index[1:, 0]) == {offsets + 1}


def test_the_papers_table_has_732_rows():
    index = relative_index((14, 14))
    assert index.shape == (197, 197) and (index[0, 1], index[1, 0], index[0, 0]) == (729, 730, 731)


def test_the_bias_is_part_of_the_attention_logits():
    model = vit_rpe("vit_micro_rpe", **SIZES)
    params = jax.jit(model.init)(jax.random.key(0), images())["params"]
    rng = np.random.default_rng(1)
    table = rng.standard_normal(params["block_0"]["attn"]["relative_position_bias_table"].shape, np.float32)
    moved = {**params, "block_0": {**params["block_0"], "attn": {**params["block_0"]["attn"]}}}
    moved["block_0"]["attn"]["relative_position_bias_table"] = table
    apply = jax.jit(lambda p: attention_logits(model.apply({"params": p}, images()).blocks[0])[:, 0])
    expected = np.broadcast_to(table[relative_index((3, 5))].transpose(2, 0, 1), (2, 4, 16, 16))
    np.testing.assert_allclose(apply(moved) - apply(params), expected, atol=1e-5)


def random_table(grid, heads=3):
    return np.random.default_rng(0).standard_normal((table_rows(grid), heads), np.float32)


def test_resampling_to_the_same_grid_changes_nothing():
    np.testing.assert_array_equal(resample_bias(random_table((4, 6)), (4, 6), (4, 6)), random_table((4, 6)))


@pytest.mark.parametrize("source, target", [((14, 14), (24, 24)), ((14, 14), (16, 20)), ((7, 9), (8, 12))])
def test_larger_grids_are_timms_geometric_interpolation(source, target, monkeypatch):
    """timm's road through scipy, BEiT's own; the function that it calls there has left scipy, so it is written out."""

    def interp2d(x, y, z, kind):
        assert kind == "cubic"
        return lambda dx, dy: make_interp_spline(x, make_interp_spline(y, z)(dy), axis=1)(dx)

    monkeypatch.setattr(pos_embed_rel, "_USE_SCIPY", True)
    monkeypatch.setattr(scipy.interpolate, "interp2d", interp2d)
    table = random_table(source)
    theirs = pos_embed_rel.resize_rel_pos_bias_table(torch.tensor(table), target, (table_rows(target), 3), source)
    # Its bisection stops within 1e-6 of the ratio, which moves the outermost place by 7e-5.
    ours, most = resample_bias(table, target, source), np.abs(table).max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * most)


@pytest.mark.parametrize("source, target", [((5, 4), (9, 6)), ((4, 4), (4, 7)), ((6, 5), (4, 5))])
def test_resampling_is_a_direct_spline_computation(source, target):
    """Each axis by a cubic spline through places that are solved for as roots of the series' polynomial."""
    table = random_table(source)
    values = table[:-3].reshape(2 * source[0] - 1, 2 * source[1] - 1, 3)
    for axis, (ours, theirs) in enumerate(zip(source, target, strict=True)):
        q = 1.0
        if theirs > ours:  # 1 + q + … + q^(n-1) - total = 0
            roots = np.roots([1.0] * (ours - 2) + [1.0 - (theirs - 1)])
            q = float(max(root.real for root in roots if abs(root.imag) < 1e-9))
        distances = [sum(q**k for k in range(i + 1)) for i in range(ours - 1)]
        places = [-d for d in distances[::-1]] + [0.0] + distances
        values = make_interp_spline(places, values, axis=axis)(np.arange(1 - theirs, theirs))
    made = resample_bias(table, target, source)
    np.testing.assert_allclose(made[:-3].reshape(values.shape), values, atol=1e-5)
    np.testing.assert_array_equal(made[-3:], table[-3:])


def test_a_smaller_grid_keeps_the_offsets_that_it_has():
    table = random_table((5, 5))
    kept = table[:-3].reshape(9, 9, 3)[2:7, 2:7].reshape(25, 3)
    np.testing.assert_allclose(resample_bias(table, (3, 3), (5, 5))[:-3], kept, atol=1e-5)


def test_initial_weights_are_those_of_the_recipe():
    model = vit_rpe("vit_micro_rpe", **SIZES | {"width": 128, "depth": 3, "layer_scale": 0.1})
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    leaves = flatten(from_scratch(model, jax.random.key(1), params))
    for name, leaf in leaves.items():
        if name.endswith("/kernel"):
            block = int(name.split("/")[0].split("_")[1]) if name.startswith("block_") else None
            last = name.endswith(("attn/proj/kernel", "mlp/fc2/kernel"))
            assert float(leaf.std()) == pytest.approx(0.02 / (2 * (block + 1)) ** 0.5 if last else 0.02, rel=0.03), name
        elif name.endswith(("bias", "table")):
            assert not np.any(leaf), name
        elif "gamma" in name:
            np.testing.assert_allclose(leaf, 0.1)


def test_tables_decay_and_learn_at_the_rate_of_their_block():
    """Recipes 5.2: the table of block i has id i+1, as the block; two axes, so that weight decay applies."""
    model = vit_rpe("vit_micro_rpe", **SIZES, shared_table=False)
    params = {"encoder": jax.eval_shape(model.init, jax.random.key(0), images())["params"]}
    scales, decays = flatten(layer_scales(params, 0.5, 2)), flatten(decay_mask(params, ("encoder/pos_embed",)))
    for i in range(2):
        attention = f"encoder/block_{i}/attn"
        table = f"{attention}/relative_position_bias_table"
        assert scales[table] == scales[f"{attention}/q_bias"] == 0.5 ** (3 - (i + 1)) and decays[table]
        assert not decays[f"{attention}/q_bias"] and not decays[f"{attention}/v_bias"]
    assert scales["encoder/pos_embed"] == 0.5**3 and not decays["encoder/pos_embed"]


def test_remat_changes_no_value():
    plain, again = (vit_rpe("vit_micro_rpe", **SIZES, remat=remat) for remat in (False, True))
    params = jax.jit(plain.init)(jax.random.key(0), images())
    a, b = (jax.jit(model.apply)(params, images()).tokens for model in (plain, again))
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: vit_rpe("vit_tiny_rpe", positions="nothing"), "did you mean|valid: learned, none, sincos"),
        (lambda: vit_rpe("vit_tiny_rpe", heads=5), "heads=5; nearest: 4"),
        (
            lambda: jax.eval_shape(
                vit_rpe("vit_micro_rpe", **SIZES).init, jax.random.key(0), images(), jnp.zeros((2, 3), int)
            ),
            "takes whole images",
        ),
        (lambda: resample_bias(random_table((3, 3)), (4, 4), (2, 3)), "28 rows is not that of a 2x3 grid"),
        (lambda: resample_bias(random_table((1, 3)), (4, 4), (1, 3)), "1x3 grid cannot be resampled; nearest: 2x2"),
    ],
)
def test_bad_input_is_one_line(act, message):
    with pytest.raises(InputError, match=message):
        act()
