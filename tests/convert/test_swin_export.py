"""Swins out: what the libraries compute from the exported weights, the way back, and what no format can hold."""

import json
import re
import sys

import numpy as np
import pytest
import timm
import torch
import transformers
from make import exported, fails, workdir
from safetensors.numpy import load_file
from timm.models.swin_transformer import checkpoint_filter_fn

from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.convert import export, files
from lvit_jax.convert.compare import MASK_RATIO, fixed_batch, outputs
from lvit_jax.convert.load import load
from lvit_jax.convert.swin import SwinArch, _pixels, shapes, to_torch
from lvit_jax.convert.swin_export import hf_config
from lvit_jax.errors import InputError
from lvit_jax.tree import flatten, unflatten

# Of the project's Tiny: width 48, windows of 7, shifted in the first stage, a last stage of one window.
SIZES = {"width": 48, "depths": (2, 1), "heads": (3, 6), "window": 7, "patch_size": 4, "channels": 3}
BARE = SwinArch(**SIZES, image_size=(56, 56))
ARCHS = {
    "classifier": BARE._replace(classes=5),
    "encoder": BARE._replace(final_norm=True),
    "simmim": BARE._replace(final_norm=True, mask_token=True, decoder="linear"),
    "simmim block": BARE._replace(final_norm=True, mask_token=True, decoder={"width": 24, "heads": 3, "window": 7}),
    "d2": BARE._replace(mask_token=True),
}
OBJECTIVES = {
    "classifier": {"name": "classify", "pool": "norm_mean"},
    "encoder": None,
    "simmim": {"name": "simmim", "head": "linear"},
    "simmim block": {"name": "simmim", "head": {"width": 24, "heads": 3, "window": 7}},
    "d2": {"name": "simmim_d2", "head": "block"},
}
MODEL = {"name": "swin_c48", "image_size": 56, "norm_eps": 1e-5, "drop_path": 0.1, "dtype": "bfloat16"}
MODEL |= {key: value for key, value in SIZES.items() if key != "width"} | {"width": None}
FOLDER = ["README.md", "config.json", "model.safetensors"]
WAYS = [(kind, to) for kind in ("classifier", "encoder") for to in ("timm", "hf", "mae")]
WAYS += [(kind, "mae") for kind in ("simmim", "simmim block", "d2")] + [("simmim", "timm"), ("simmim block", "hf")]


def random_params(arch):
    rng = np.random.default_rng(0)
    flat = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes(arch).items()}
    flat = {name: leaf * (5 if name.endswith("bias_table") else 1) for name, leaf in flat.items()}  # so that they count
    return unflatten(_pixels(flat, arch, back=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of each kind, the folder of a run and its parameters."""
    made = {}
    for kind, arch in ARCHS.items():
        params = random_params(arch)
        folder = tmp_path_factory.mktemp("runs") / kind.replace(" ", "_")
        made[kind] = workdir(folder, params, MODEL, OBJECTIVES[kind]), params
    return made


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    """Of each way, the exported folder; every export is compared with the JAX model as it is written."""
    out = tmp_path_factory.mktemp("exports")
    return {way: exported(runs[way[0]][0], out / "-".join(way).replace(" ", "_"), way[1]) for way in WAYS}


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_import_of_an_export_is_the_run(way, runs, exports):
    kind, to = way
    folder = exports[way]
    again = load(folder / "swin.pth" if to == "mae" else folder, {"image_size": (56, 56)} if to == "mae" else {})
    before, after = flatten(runs[kind][1]), flatten(again.params)
    if to != "mae":  # the encoder alone
        before = {name: x for name, x in before.items() if not name.startswith(("decoder", "encoder/mask_token"))}
    assert after.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert again.arch == ARCHS[kind]._replace(**({} if to == "mae" else {"mask_token": False, "decoder": None}))


def images_and_ours(kind, runs):
    images = np.random.default_rng(7).standard_normal((3, 56, 56, 3), np.float32)
    ours = outputs(runs[kind][1], ARCHS[kind], images, None)
    return torch.from_numpy(images).permute(0, 3, 1, 2), ours


def close(theirs, ours):
    """Within 1e-4 of the largest entry."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(theirs.detach().numpy(), ours, rtol=0, atol=1e-4 * np.abs(ours).max())


def test_a_classifier_in_the_libraries(runs, exports):
    pixels, ours = images_and_ours("classifier", runs)
    assert np.ptp(ours) > 0.1
    close(timm.create_model(f"local-dir:{exports['classifier', 'timm']}", pretrained=True).eval()(pixels), ours)
    folder = exports["classifier", "hf"]
    model, said = transformers.SwinForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not (said["missing_keys"] or said["unexpected_keys"])
    close(model.eval()(pixels).logits, ours)
    auto = transformers.AutoModelForImageClassification.from_pretrained(exports["classifier", "timm"])
    close(auto.eval()(pixels).logits, ours)


def test_an_encoder_in_the_libraries(runs, exports):
    """timm 1.0.20 reads tensors without a classifier as official ones, whatever their names: so they have those."""
    assert "layers.0.downsample.norm.weight" in load_file(exports["encoder", "timm"] / "model.safetensors")
    pixels, ours = images_and_ours("encoder", runs)
    model = timm.create_model(f"local-dir:{exports['encoder', 'timm']}", pretrained=True).eval()
    close(model.forward_features(pixels).flatten(1, 2), ours)
    model, said = transformers.SwinModel.from_pretrained(exports["encoder", "hf"], output_loading_info=True)
    assert not (said["missing_keys"] or said["unexpected_keys"])
    close(model.eval()(pixels).last_hidden_state, ours)


def test_files_are_checked_through_timm_where_it_reads_them(runs, tmp_path, capsys):
    for kind, through in {"classifier": "timm", "encoder": "timm", "simmim": "jax"}.items():
        capsys.readouterr()
        exported(runs[kind][0], tmp_path / kind, "mae", "--json")
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["checked_with"] == through


def test_the_official_file_in_timm(runs, exports):
    """timm reads the official layout; the buffers that it leaves out are those that it computes."""
    pixels, ours = images_and_ours("classifier", runs)
    weights = torch.load(exports["classifier", "mae"] / "swin.pth", weights_only=True)["model"]
    sizes = {"embed_dim": 48, "depths": (2, 1), "num_heads": (3, 6), "img_size": 56, "num_classes": 5}
    model = timm.models.swin_transformer.SwinTransformer(**sizes).eval()
    buffers = {name.replace("layers.", "", 1): x for name, x in model.named_buffers() if x is not None}
    assert len(buffers) == 4  # three indices, the mask of the one shifted block
    for name, buffer in buffers.items():
        torch.testing.assert_close(weights[f"layers.{name}"], buffer)
    model.load_state_dict(checkpoint_filter_fn(weights, model))
    close(model(pixels), ours)


def test_the_file_of_simmim_has_the_official_names(exports):
    weights = torch.load(exports["simmim", "mae"] / "swin.pth", weights_only=True)["model"]
    assert {name.split(".")[0] for name in weights} == {"encoder", "decoder"}
    assert weights["encoder.mask_token"].shape == (1, 1, 48)
    assert weights["decoder.0.weight"].shape == (192, 96, 1, 1)


def test_simmim_predicts_what_transformers_predicts(runs, tmp_path):
    """From the same table, with the head's pixels in the order of its pixel shuffle."""
    arch, (_, params) = ARCHS["simmim"], runs["simmim"]
    files.write_safetensors(tmp_path / "model.safetensors", to_torch(params, arch, "hf"))
    files.write_json(tmp_path / "config.json", hf_config(arch, {}, None))
    model = transformers.SwinForMaskedImageModeling.from_pretrained(tmp_path).eval()
    images, noise = fixed_batch(arch)
    ours = outputs(params, arch, images, noise)
    pixels, mask = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(noise) < MASK_RATIO
    theirs = model(pixels, bool_masked_pos=mask).reconstruction
    close(theirs, ours.reshape(2, 7, 7, 8, 8, 3).transpose(0, 5, 1, 3, 2, 4).reshape(2, 3, 56, 56))


def test_without_its_head_a_file_of_simmim_is_an_encoder(runs, tmp_path):
    out = exported(runs["simmim"][0], tmp_path / "out", "mae", "--no-decoder")
    again = load(out / "swin.pth", {"image_size": (56, 56)})
    assert set(again.params) == {"encoder"} and again.arch == ARCHS["simmim"]._replace(decoder=None)


def test_without_torch(runs, tmp_path, monkeypatch, capsys):
    for name in ("torch", "timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for to, left in {"mae": ["README.md", "swin.safetensors"], "timm": FOLDER}.items():
        capsys.readouterr()
        out = exported(runs["classifier"][0], tmp_path / to, to, "--json")
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["checked_with"] == "jax (timm cannot be imported)"
        assert sorted(path.name for path in out.iterdir()) == left


@pytest.mark.parametrize("way", [("classifier", "timm"), ("classifier", "hf"), ("encoder", "hf"), ("simmim", "mae")])
def test_the_snippet_of_the_card_runs(way, exports, capsys):
    card = (exports[way] / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], {})
    shape = {"classifier": "torch.Size([1, 5])", "encoder": "torch.Size([1, 49, 96])", "simmim": "55 "}[way[0]]
    assert capsys.readouterr().out.startswith(shape)
    assert "# Swin (" in card and "| windows | 7 × 7 tokens, shifted by 3 in every other block |" in card


def test_a_wrong_export_is_found_and_removed(runs, tmp_path, monkeypatch):
    def swapped(*args):  # columns and rows of one bias table
        weights = to_torch(*args)
        name = next(name for name in weights if name.endswith("bias_table"))
        weights[name] = weights[name].reshape(13, 13, -1).swapaxes(0, 1).reshape(weights[name].shape)
        return weights

    monkeypatch.setattr(export.swin_export, "to_torch", swapped)
    for to in ("timm", "hf", "mae"):
        with pytest.raises(InputError, match="differs by"):
            export_torch([f"--workdir={runs['classifier'][0]}", f"--to={to}", f"--out={tmp_path / 'out'}"])
    assert not list(tmp_path.iterdir())


def refused(tmp_path, kind, to, *flags, objective=None, **model):
    """The line that refuses a run, or, where sizes differ, an architecture."""
    run = workdir(tmp_path / "run", random_params(ARCHS[kind]), MODEL | model, objective or OBJECTIVES[kind])
    line = fails(export_torch, [f"--workdir={run}", f"--to={to}", f"--out={tmp_path / 'out'}", *flags])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    return line


CASES = {
    "norm after the mean": (["classifier", "timm"], {"objective": {"name": "classify"}}, "pool='mean': the Swins of"),
    "another eps": (["classifier", "mae"], {"norm_eps": 1e-6}, "norm_eps=1e-06: the Swins of PyTorch have 1e-05"),
    "no final norm, timm": (["d2", "timm"], {}, "which this encoder has none of: --to=mae is the way"),
    "no final norm, hf": (["d2", "hf"], {}, "which this encoder has none of: --to=mae is the way"),
    "the head of a D² run": (["d2", "mae", "--decoder"], {}, "there is no decoder in this simmim_d2"),
    "a last stage below the window": (
        ["classifier", "hf"],
        {"image_size": 32, "window": 8},
        "window=8: transformers' Swin has no bias table for a last stage of 4 tokens a side: --to=timm or --to=mae",
    ),
    "rectangles": (["classifier", "timm"], {"image_size": [56, 112]}, "image_size=56x112: in its last stage, timm's"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_format_cannot_hold(case, tmp_path):
    arguments, changes, line = CASES[case]
    assert line in refused(tmp_path, *arguments, **changes)
