"""import∘export is the identity in every layout; names, nests and prefixes of the files people have."""

import jax
import numpy as np
import pytest
from make import DECODER, SMALL, random_params

from lvit_jax.convert.arch import infer
from lvit_jax.convert.names import normalise, respell, rows
from lvit_jax.convert.params import from_torch, to_torch
from lvit_jax.errors import InputError
from lvit_jax.tree import flatten

ARCHS = {
    "encoder": SMALL,
    "mae": SMALL._replace(decoder=DECODER),
    "mae with learned positions": SMALL._replace(positions="learned", decoder=DECODER | {"positions": "learned"}),
    "mean": SMALL._replace(pool="mean", classes=5, positions="learned"),
    "cls": SMALL._replace(pool="cls", classes=5),
    "not square": SMALL._replace(image_size=(8, 24), channels=1, pool="mean", classes=2),
}
STATED = {"heads": 3, "decoder_heads": 2}


@pytest.mark.parametrize("layout", ["mae", "hf"])
@pytest.mark.parametrize("name", ARCHS)
def test_import_of_export_is_the_identity(name, layout):
    arch = ARCHS[name]
    if layout == "hf" and arch.pool == "mean":
        pytest.skip("transformers has no such model")
    params = random_params(arch)
    weights = to_torch(params, arch, layout)
    found, names = normalise(weights)
    assert found == layout and names == {n: n for n in weights}
    stated = STATED | ({"image_size": arch.image_size} if name == "not square" else {})
    read = infer(weights, layout, stated, "x")
    back, read = from_torch(weights, read, layout, "x")
    assert read == arch
    assert list(flatten(back)) == list(flatten(back)) and set(flatten(back)) == set(flatten(params))
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_axes_are_those_of_torch():
    params = random_params(SMALL)
    weights = to_torch(params, SMALL, "mae")
    kernel, qkv = params["encoder"]["patch_embed"]["kernel"], params["encoder"]["block_1"]["attn"]["qkv"]["kernel"]
    assert weights["patch_embed.proj.weight"].shape == (24, 3, 4, 4)
    assert weights["patch_embed.proj.weight"][5, 2, 1, 3] == kernel[1, 3, 2, 5]
    assert weights["blocks.1.attn.qkv.weight"][30, 7] == qkv[7, 30]
    split = to_torch(params, SMALL, "hf")
    np.testing.assert_array_equal(split["vit.encoder.layer.1.attention.attention.key.weight"], qkv[:, 24:48].T)


def test_tables_name_every_tensor_once():
    for layout in ("mae", "hf"):
        for head in (None, "cls"):
            table = rows(layout, depth=3, decoder_depth=2, head=head)
            names = [name for row in table for name in row.torch]
            assert len(set(names)) == len(names) and len({row.jax for row in table}) == len(table)
            assert [respell(name) for name in names] == names or layout == "mae"


def test_prefix_of_mae_lite_and_a_teacher_beside():
    weights = to_torch(random_params(SMALL), SMALL, "mae")
    stored = {f"module.model.{name}": w for name, w in weights.items()} | {"module.teacher.cls_token": np.zeros(1)}
    assert normalise(stored) == ("mae", {f"module.model.{name}": name for name in weights})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.fc1.bias": None}, "x has no tensor 'blocks.1.mlp.fc1.bias'"),
        ({"blocks.1.mlp.fc1.bias": (95,)}, r"x: blocks.1.mlp.fc1.bias has shape \(95,\), but the model's is \(96,\)"),
        ({"patch_embed.proj.weight": (24, 3, 4, 5)}, r"patch_embed.proj.weight .*\(24, 3, 4, 5\).*\(24, 3, 4, 4\)"),
        ({"blocks.0.ls1.gamma": (24,)}, "tensor 'blocks.0.ls1.gamma' that .* has no place for"),
        ({"cls_token": None}, "x has no tensor 'cls_token'"),
        ({"pos_embed": None}, "x has no tensor 'pos_embed'"),
        ({"pos_embed": (1, 16, 24)}, "15 positions, no square"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    weights = to_torch(random_params(SMALL), SMALL, "mae")
    for name, shape in change.items():
        weights.pop(name, None)
        if shape:
            weights[name] = np.zeros(shape, np.float32)
    with pytest.raises(InputError, match=message):
        from_torch(weights, infer(weights, "mae", STATED, "x"), "mae", "x")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({}, "x does not state its number of attention heads; say it with --heads=N"),
        ({"heads": 5}, "--heads=5 does not divide the width 24 of x; nearest: 4"),
        ({"heads": 0}, "--heads=0 does not divide"),
        ({"heads": 3, "decoder_heads": 3}, "--decoder-heads=3 does not divide the width 16 of x; nearest: 2"),
        ({"heads": 3, "image_size": (8, 8)}, "16 positions, but 8x8 with patch 4 has others"),
    ],
)
def test_what_shapes_do_not_tell_must_be_said(stated, message):
    arch = SMALL._replace(decoder=DECODER)
    weights = to_torch(random_params(arch), arch, "mae")
    with pytest.raises(InputError, match=message):
        infer(weights, "mae", stated, "x")


def test_default_heads_of_decoders():
    for width, heads in ((512, 16), (96, 3), (192, 6), (16, 1)):
        arch = SMALL._replace(decoder={"width": width, "depth": 1, "heads": heads, "positions": "sincos"})
        weights = to_torch(random_params(arch), arch, "mae")
        assert infer(weights, "mae", {"heads": 3}, "x").decoder["heads"] == heads
