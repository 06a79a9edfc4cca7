"""TinyMIM against a direct PyTorch computation; what its loss reaches; that every option trains; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from common import DECODER, assert_grads_close, images, small, start, value_and_grad
from torch_reference import encode, gradients, linear, mask_of, norm, reconstruction, tensors

from lvit_jax.bin import flags
from lvit_jax.errors import InputError
from lvit_jax.objectives.targets import feature_views
from lvit_jax.objectives.tinymim import make_tinymim
from lvit_jax.training.step import make_step
from lvit_jax.tree import flatten, matches

RNG = jax.random.key(5)
BATCH = {"image": jnp.stack([images(seed=0), images(seed=1)], axis=1)}  # the teacher's view, the student's
TEACHER = {"width": 48, "depth": 4, "heads": 3}  # other width, depth and heads than the student, which has 4
UNUSED = flags.load_config("pretrain/tinymim_base").optim.frozen


def student(**kwargs):
    return small(**{"last_heads": 8, "drop_path_shape": "constant"} | kwargs)


def teacher(**kwargs):
    return small(**TEACHER | {"heads": 8} | kwargs)


def cut(x, keep):
    """CLS and the patches keep [B,K] of [B,...,N,D]."""
    if keep is None:
        return x
    tokens = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)
    return torch.stack([row[..., index, :] for row, index in zip(x, tokens, strict=True)])


def block_views(p, pixels, keep, layer, heads, last_heads=None):
    """All views of a block (counted from 1, at least 2), from its own input: features [B,N,D], q, k, v [B,H,N,K]."""
    out = encode(p, pixels, keep, heads)
    p_block, x, heads = p[f"block_{layer - 1}"], out.xs[layer - 2], last_heads or heads
    b, n, d = x.shape
    q, k, v = linear(p_block["attn"]["qkv"], norm(p_block["norm1"], x)).split(d, -1)
    q, k, v = (y.reshape(b, n, heads, d // heads).transpose(1, 2) for y in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
    attn = linear(p_block["attn"]["proj"], mixed)
    middle = x + attn
    mlp = linear(p_block["mlp"]["fc2"], F.gelu(linear(p_block["mlp"]["fc1"], norm(p_block["norm2"], middle))))
    views = {"attn": attn, "attn_residual": middle, "mlp": mlp, "block": middle + mlp, "q": q, "k": k, "v": v}
    return views | {"output": norm(p["norm"], middle + mlp)}


def torch_loss(target, name, ours, theirs, weights, softmax, keep):
    """Recipes 4.6, one view."""
    if target == "relations":
        a, b = (views[name[0]] @ views[name[1]].mT / views[name[0]].shape[-1] ** 0.5 for views in (ours, theirs))
        if not softmax:
            return F.smooth_l1_loss(a, b, beta=2.0)
        return F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="none").sum(-1).mean()
    a, b = ours[name], theirs[name]
    if name in "qkv":  # the heads side by side again
        a, b = (x.transpose(1, 2).flatten(2) for x in (a, b))
    if target == "cls":
        a = linear(weights["adapters"][name], a[:, 0])
        return F.kl_div(a.log_softmax(-1), b[:, 0].softmax(-1), reduction="batchmean")
    a = linear(weights["adapters"][name], a)
    return F.smooth_l1_loss(a, F.layer_norm(b, b.shape[-1:], eps=1e-6), beta=2.0)


def check(teacher_layer=3, last_heads=8, target="relations", views=("qk", "vv"), softmax=True, mask=0.0, mim=False):
    """Losses, metrics and gradients against PyTorch's; returns the gradients."""
    extra = {"decoder": DECODER, "norm_pix": True} if mim else {}
    options = {"target": target, "views": views, "softmax": softmax, "mask_ratio": mask}
    objective = make_tinymim(student(last_heads=last_heads), teacher(), teacher_layer=teacher_layer, **options, **extra)
    params, state = start(objective, BATCH)
    (loss, aux), grads = value_and_grad(objective, params, state, BATCH, RNG)
    weights = tensors(params)
    seen, shown = (torch.tensor(np.asarray(BATCH["image"][:, i])) for i in range(2))
    noise = jax.random.uniform(jax.random.split(jax.random.split(RNG)[0])[0], (3, 24))
    keep, restore, hidden = mask_of(noise, mask) if mask else (None,) * 3
    ours = block_views(weights["encoder"], shown, keep, 3, 4, last_heads)
    with torch.no_grad():
        theirs = block_views(tensors(state.frozen["teacher"]), seen, None, teacher_layer, 8)
        theirs = {name: cut(x, keep) for name, x in theirs.items()}
    expected = {name: torch_loss(target, name, ours, theirs, weights, softmax, keep) for name in views}
    if mim:
        latent = ours["output"]
        expected["reconstruction"] = reconstruction(
            weights["decoder"], latent, shown, restore, hidden, heads=2, patch=4
        )
    assert aux.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(aux.metrics[name], value.item(), rtol=1e-4, err_msg=name)
    total = sum(expected.values())
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(total, weights))
    return grads


def unreached(grads):
    return {name for name, g in flatten(grads).items() if not np.any(g)}


def unused(grads, depth=3):
    """What the rules of the configs freeze, for this depth."""
    rules = [rule.replace("block_11", f"block_{depth - 1}") for rule in UNUSED]
    return {name for name in flatten(grads) if matches(rules, name)}


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("views", [("qk", "vv"), ("qq", "kk", "vv")])
def test_relations_equal_pytorch_and_reach_all_but_what_is_frozen(views, softmax):
    grads = check(views=views, softmax=softmax)
    assert unreached(grads) == unused(grads) != set()


def test_features_equal_pytorch():
    views = ("block", "mlp", "attn", "attn_residual", "q", "k", "v")
    grads = check(target="features", views=views, last_heads=None)
    assert unreached(grads) == {"encoder/norm/scale", "encoder/norm/bias"}


def test_attention_features_of_a_masked_student_equal_pytorch():
    grads = check(target="features", views=("attn", "k"), last_heads=None, mask=0.5)
    assert unreached(grads) == {name for name in unused(grads) if "/proj/" not in name}


@pytest.mark.parametrize("target", ["features", "cls"])
def test_the_models_output_equals_pytorch(target):
    assert not unreached(check(4, None, target, ("output",)))


def test_relations_beside_reconstruction_equal_pytorch():
    assert not unreached(check(mask=0.75, mim=True))


OPTIONS = {
    "relations": {},
    "all relations, no softmax": {"views": ("qq", "kk", "vv"), "softmax": False},
    "masked": {"mask_ratio": 0.5},
    "masked and reconstruction": {"mask_ratio": 0.5, "decoder": DECODER, "norm_pix": False},
    "features": {"target": "features", "views": ("mlp", "attn_residual", "q", "k", "v")},
    "output": {"target": "features", "views": ("output",), "teacher_layer": 2},
    "cls": {"target": "cls", "views": ("output",), "teacher_layer": 2},
    "cls and reconstruction": {
        "target": "cls",
        "views": ("output",),
        "teacher_layer": 2,
        "mask_ratio": 0.5,
        "decoder": DECODER,
        "norm_pix": True,
    },
    "drop-path of both": {"teacher_drop_path": 0.2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_alike_twice_and_leaves_its_teacher(name):
    tiny = {"width": 16, "depth": 2, "heads": 2, "patch_size": 4}
    options = {"teacher_layer": 1} | OPTIONS[name]
    objective = make_tinymim(
        student(**tiny, last_heads=4, drop_path=0.1), teacher(**tiny | {"heads": 4, "width": 24}), **options
    )
    batch = {"image": jax.random.normal(RNG, (16, 2, 16, 16, 1))}
    batch["image"] = batch["image"].repeat(3, axis=-1)
    tx = optax.adam(3e-3)
    params, begin = start(objective, batch)
    begin = begin.replace(opt_state=tx.init(params))
    step = jax.jit(make_step(objective, tx, seed=3))
    runs = []
    for _ in range(2):
        state, losses = begin, []
        for _ in range(30):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        runs.append((losses, flatten(jax.tree.map(np.asarray, state.params))))
        jax.tree.map(np.testing.assert_array_equal, state.frozen, begin.frozen)
    assert np.mean(losses[-5:]) < 0.9 * losses[0], losses
    assert runs[0][0] == runs[1][0]
    assert all(np.array_equal(leaf, runs[1][1][key]) for key, leaf in runs[0][1].items())


def test_the_stream_between_the_branches_is_that_of_a_block_that_drops_paths():
    """x - middle is the second branch, over 1 - 0.5 or dropped for a whole image; the first may be dropped too."""
    model = teacher(drop_path=0.5, drop_path_shape="constant")
    pixels = images(batch=16)
    weights = model.init(RNG, pixels)
    seen = model.apply(weights, pixels, train=True, rngs={"dropout": RNG})
    views = feature_views(seen, 2, ("attn_residual", "block", "mlp"))
    branch, expected = views["block"] - views["attn_residual"], 2 * views["mlp"]
    dropped = np.all(branch == 0, axis=(1, 2))
    assert 0 < dropped.sum() < 16
    np.testing.assert_allclose(branch[~dropped], expected[~dropped], atol=1e-5)


def test_the_stream_between_the_branches_is_exact_in_bfloat16():
    model = teacher(dtype="bfloat16")
    views = feature_views(model.apply(model.init(RNG, images()), images()), 2, ("attn_residual", "block", "mlp"))
    middle, block, mlp = (views[name].astype(jnp.bfloat16) for name in ("attn_residual", "block", "mlp"))
    np.testing.assert_array_equal(middle + mlp, block)


def test_drop_path_of_each_side_is_its_own():
    def losses(teacher_rate, student_rate):
        objective = make_tinymim(
            student(drop_path=student_rate), teacher(), teacher_layer=3, teacher_drop_path=teacher_rate
        )
        params, state = start(objective, BATCH)
        loss = jax.jit(lambda rng: objective.loss(params, state, BATCH, rng)[0])
        return {float(loss(jax.random.key(i))) for i in range(4)}

    assert len(losses(0.0, 0.0)) == 1
    assert len(losses(0.0, 0.4)) > 1 and len(losses(0.4, 0.0)) > 1


def test_the_teacher_is_an_argument_and_gets_no_gradient():
    objective = make_tinymim(student(), teacher(), teacher_layer=3)
    params, state = start(objective, BATCH)
    program = jax.make_jaxpr(objective.loss)(params, state, BATCH, RNG)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.frozen) if leaf.ndim > 1}
    assert not shapes & {np.shape(constant) for constant in program.consts}
    to_teacher = jax.jit(jax.grad(lambda s: objective.loss(params, s, BATCH, RNG)[0], allow_int=True))(state).frozen
    assert all(not np.any(g) for g in flatten(to_teacher).values())


def test_a_teacher_with_another_last_block_is_read_with_its_heads():
    """A TinyMIM student as the next teacher: its last block counts by `last_heads`, the others by `heads`."""
    make_tinymim(student(last_heads=8), teacher(heads=4, last_heads=8), teacher_layer=4)
    make_tinymim(student(last_heads=4), teacher(heads=4, last_heads=8), teacher_layer=3)
    with pytest.raises(InputError, match="block 4 of the teacher has 8 heads"):
        make_tinymim(student(last_heads=4), teacher(heads=4, last_heads=8), teacher_layer=4)


def refuses_one_view():
    objective = make_tinymim(student(), teacher(), teacher_layer=3)
    jax.eval_shape(objective.init, RNG, {"image": images()})


def refuses_mask():
    objective = make_tinymim(student(), teacher(), teacher_layer=3, mask_ratio=0.97)
    jax.eval_shape(objective.init, RNG, BATCH)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_tinymim(student(), teacher()), "no teacher block 18: it has blocks 1 to 4; nearest: 4"),
        (lambda: make_tinymim(student(), teacher(), teacher_layer=0), "no teacher block 0.*nearest: 1"),
        (lambda: make_tinymim(student(), teacher(heads=4), teacher_layer=3), r"4 heads.* 8; set .*last_heads=4"),
        (lambda: make_tinymim(student(), teacher(heads=3), teacher_layer=3), "3 heads.* width 32; nearest width: 36"),
        (lambda: student(last_heads=7), "last_heads=7; nearest: 8"),
        (lambda: student(drop_path_shape="const"), "did you mean 'constant'"),
        (lambda: make_tinymim(student(), teacher(), target="relation"), "did you mean 'relations'"),
        (lambda: make_tinymim(student(), teacher(), views=("qv", "kq", "x")), "unknown view of relations 'x'"),
        (lambda: make_tinymim(student(), teacher(), target="features", views=("mpl",)), "did you mean 'mlp'"),
        (lambda: make_tinymim(student(), teacher(), views=()), "at least one view"),
        (
            lambda: make_tinymim(student(), teacher(), target="cls", views=("output",), teacher_layer=3),
            "teacher_layer=4",
        ),
        (lambda: make_tinymim(student(patch_size=8), teacher(), teacher_layer=3), "patch_size"),
        (lambda: make_tinymim(student(), teacher(), teacher_layer=3, mask_ratio=1.0), "mask_ratio=1.0"),
        (lambda: make_tinymim(student(), teacher(), teacher_layer=3, norm_pix=True), "belong together"),
        (refuses_one_view, "takes 2 views of an image, the data give 1; set --config.data.recipe=tinymim"),
        (refuses_mask, "mask_ratio=0.97 leaves none of the 24 patches; at most 0.958 leaves one"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
