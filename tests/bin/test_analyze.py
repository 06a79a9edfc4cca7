"""`lvit analyze` and `lvit embed` on random encoders: results, on one device as on four, and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from analysis_devices import measure
from encoders import make_workdir

from lvit_jax.bin import analyze
from lvit_jax.build.analysis import choose_images, load_models
from lvit_jax.build.backbone import load_backbone, make_features, transform
from lvit_jax.build.data import device_batches
from lvit_jax.build.images import open_chosen
from lvit_jax.errors import InputError
from lvit_jax.models.features import layers
from lvit_jax.training.mesh import make_mesh

ROOT = Path(__file__).parent.parent.parent


def from_definition(k, m):
    """The unbiased HSIC of recipes 10.1, as it is written, of two Gram matrices."""
    n, ones = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    value = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (value - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: make_workdir(folder / name, name, seed) for seed, name in enumerate(("vit", "wide", "swin", "regnet"))
    }


@pytest.fixture(scope="module")
def analysis(models):
    """The folder that one call of the command wrote."""
    out = Path(models["vit"]).parent / "analysis"
    argv = [f"--workdir={models['vit']}", f"--against={models['swin']}", f"--out={out}", "--images=70"]
    assert analyze.main([*argv, "--batch_size=32", "--queries=0,1;3,3", "--map_images=2"]) == 0
    return out


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory):
    """{devices: (analysis, features)}: here on one device, in a subprocess on four, with another batch."""
    folders = {devices: tmp_path_factory.mktemp(f"on{devices}") for devices in (1, 4)}
    measure(models["vit"], models["wide"], folders[1], 37)
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    env["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
    program = [sys.executable, str(Path(__file__).parent / "analysis_devices.py"), models["vit"], models["wide"]]
    subprocess.run([*program, str(folders[4]), "64"], env=env, check=True)
    return {n: [dict(np.load(folder / f"{k}.npz")) for k in ("analysis", "features")] for n, folder in folders.items()}


def test_figures_and_features_on_four_devices_are_those_on_one(measured):
    """With a last batch of 27 of 37 images here, of 40 of 64 there; heads see 100 images, CKA three times 32."""
    (one, ours), (four, theirs) = measured[1], measured[4]
    assert (one.pop("devices"), four.pop("devices")) == (1, 4) and one.keys() == four.keys()
    for name in one:
        np.testing.assert_allclose(four[name], one[name], atol=2e-6, rtol=1e-5, err_msg=name)
    assert ours["feature"].shape == (360, 32)
    np.testing.assert_allclose(theirs["feature"], ours["feature"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(theirs["name"], ours["name"])


def test_features_are_of_the_named_image_layer_and_token(models, measured):
    model = load_backbone(models["vit"])
    source = open_chosen(model)
    table = measured[1][1]
    np.testing.assert_array_equal(table["name"], source.ids())
    np.testing.assert_array_equal(table["label"], source.labels)
    batch = next(device_batches(source, transform(model.config, model.data), 40, make_mesh())())
    expected = layers(make_features(model)(model.params, batch["image"]))[1][:, 0]
    np.testing.assert_allclose(table["feature"][:40], expected, rtol=1e-5, atol=1e-6)


def test_cka_is_that_of_the_patches_by_its_definition(models, measured):
    """Without CLS, each model on the images as it was trained to see them, in float64, averaged before dividing."""
    loaded = load_models([models["vit"], models["wide"]]).values()
    source = choose_images(open_chosen(next(iter(loaded))), 96, 32)
    hsic = np.zeros((7, 7))
    streams = [device_batches(source, transform(m.config, m.data), 32, make_mesh())() for m in loaded]
    for batches in zip(*streams, strict=True):
        kept = []
        for model, batch in zip(loaded, batches, strict=True):
            found = layers(jax.jit(make_features(model))(model.params, batch["image"]))
            kept += [np.asarray(tokens[:, 1:], np.float64).reshape(32, -1) for tokens in found]
        hsic += [[from_definition(a @ a.T, b @ b.T) for b in kept] for a in kept]
    own = np.sqrt(np.diag(hsic))
    expected = (hsic / np.outer(own, own))[:, :3]
    found = measured[1][0]
    np.testing.assert_allclose(np.concatenate([found["cka.vit"], found["cka.wide"]]), expected, atol=2e-6)


def test_the_json_has_every_figure_and_the_npz_the_same(analysis):
    figures, arrays = json.loads((analysis / "analysis.json").read_text()), np.load(analysis / "analysis.npz")
    assert (figures["images"], figures["cka_images"], figures["split"]) == (70, 64, "validation")
    own, other = figures["cka"]
    assert (own["x"], own["y"], other["x"], other["y"]) == ("vit", "vit", "vit", "swin")
    np.testing.assert_allclose(own["rows_are_layers_of_y"], arrays["cka/vit"])
    np.testing.assert_allclose(np.diag(arrays["cka/vit"]), 1)
    assert arrays["cka/swin"].shape == (5, 3)  # layers of y by layers of x
    vit, swin = figures["models"]
    assert np.shape(vit["distance"]) == np.shape(vit["entropy"]) == arrays["distance/vit"].shape == (2, 2)
    assert [len(block) for block in swin["entropy"]] == [2, 2, 4, 4] and np.isnan(arrays["entropy/swin"][0, 3])
    assert arrays["maps/vit"].shape == (2, 2, 2, 4, 4) and "maps/swin" not in arrays
    np.testing.assert_allclose(arrays["maps/vit"].sum(axis=(-1, -2)), 1, rtol=1e-5)


def test_there_is_a_figure_of_everything_for_light_and_dark_paper(analysis):
    names = ("cka", "attention_distance", "attention_entropy", "attention_maps_vit")
    files = {f"{name}{paper}.{kind}" for name in names for paper in ("", "_dark") for kind in ("png", "svg")}
    assert {path.name for path in analysis.iterdir()} == files | {"analysis.json", "analysis.npz"}
    assert all(path.stat().st_size > 1000 for path in analysis.iterdir())
    assert (analysis / "cka.png").read_bytes() != (analysis / "cka_dark.png").read_bytes()


def test_a_layer_that_is_like_none_has_no_number():
    pair = {"x": "a", "y": "b", "rows_are_layers_of_y": [[None, None], [None, 0.5]]}
    figures = {"source": "s", "split": "t", "images": 4, "cka_images": 4, "cka": [pair], "models": []}
    assert analyze._summary(figures)["b: CKA with the nearest layer of a"] == "nan 0.50"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--batch_size=3"], "--batch_size=3, but CKA needs mini-batches of at least 4"),
        (["--images=90"], r"90 image\(s\) .* make no mini-batch of 128 for CKA; nearest: --batch_size=90"),
        (["--block=3"], "--block=3, but vit has blocks 1 to 2"),
        (["--queries=0,4"], "--queries=0,4: vit has patches 0,0 to 3,3"),
        (["--queries=0;1"], "is no list of patches"),
        (["--against={vit}"], "is named twice"),
        (["--workdir={swin}", "--block=1"], "swin is a swin_micro, and attention maps are of vit and vit_rpe"),
        (["--against={regnet}"], "holds a RegNet: it teaches classifiers"),
        (["--against=/nowhere"], "/nowhere is not the folder of a run"),
        (["--images=0"], "the least is 1"),
        (["--split=nowhere"], "unknown split"),
        (["--out={vit}"], "exists already"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(models, tmp_path, flags, says):
    argv = [f"--workdir={models['vit']}", f"--out={tmp_path}/out", *(flag.format(**models) for flag in flags)]
    with pytest.raises(InputError, match=says):
        analyze.main(argv)
    assert not list(tmp_path.iterdir())
