"""`lvit bench`: that it measures both sides and prints its ratio; the figures themselves are for a quiet machine."""

import json

import numpy as np
from PIL import Image

from lvit_jax.bin import bench


def figures(capsys, *argv):
    assert bench.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_step_measures_jax_and_torch(capsys):
    tiny = ("--model=vit_micro", "--image_size=32", "--batch=4", "--rounds=2", "--steps=1")
    out = figures(capsys, "step", *tiny)
    assert out["jax_images_per_s"] > 0 and out["torch_images_per_s"] > 0
    assert out["ratio_min"] <= out["ratio_jax_to_torch"] <= out["ratio_max"]


def test_data_measures_both_and_how_far_apart_they_are(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(8):
        (tmp_path / "a").mkdir(exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / "a" / f"{i}.jpg")
    (tmp_path / "a" / "broken.jpg").write_bytes((tmp_path / "a" / "0.jpg").read_bytes()[:60])
    out = figures(
        capsys, "data", f"--source=folder:{tmp_path}", "--image_size=32", "--batch=4", "--seconds=2", "--rounds=2"
    )
    assert out["lvit_images_per_s"] > 0 and out["torch_images_per_s"] > 0
    assert 0 < out["grey_levels_from_pil"] < 0.3, out


def test_probe_measures_one_and_all(capsys):
    tiny = ("--model=vit_micro", "--image_size=32", "--batch=4", "--classes=3", "--rounds=2", "--steps=1")
    out = figures(capsys, "probe", *tiny)
    assert out["probes"] == 10 and out["one_ms"] > 0 and out["all_ms"] > 0
    assert out["ratio_min"] <= out["ratio"] <= out["ratio_max"]
