"""Files in BEiT's names, as timm and MAE-Lite's RPE models write them: logits after the import, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from make import imported
from safetensors.torch import save_file

from lvit_jax.bin import export_torch
from lvit_jax.build.trained import load_trained
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record

SIZES = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
CASES = {
    "MAE-Lite's, qv_bias": {"img_size": 12, "use_rel_pos_bias": True},
    "MAE-Lite's, qkv_bias": {"img_size": 12, "use_rel_pos_bias": True, "qkv_bias": False},
    "BEiT's": {"img_size": 12, "use_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.1},
    "shared table, CLS, not square": {
        "img_size": (8, 16),
        "use_shared_rel_pos_bias": True,
        "global_pool": "token",
    },
}


def beit(options):
    """timm's BEiT with random weights, no zeros or ones among them."""
    torch.manual_seed(0)
    model = timm.models.beit.Beit(**SIZES, **options)
    if not options.get("qkv_bias", True):  # timm then has no bias at all, MAE-Lite an ordinary one
        for block in model.blocks:
            block.attn.qkv = torch.nn.Linear(32, 96)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim < 2 or "table" in name else 0.2)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_imported_logits_are_timms(case, tmp_path):
    model, size = beit(CASES[case]), CASES[case]["img_size"]
    weights = model.state_dict()
    if case.startswith("MAE-Lite"):  # its files: a wrapper's prefix, and the index beside each table
        block = {f"blocks.{i}.attn.relative_position_index": torch.zeros(10, 10, dtype=torch.long) for i in range(2)}
        weights = {f"module.model.{name}": value for name, value in {**weights, **block}.items()}
        torch.save({"model": weights}, tmp_path / "weights.pth")
    else:
        save_file(weights, tmp_path / "weights.safetensors")
    file = next(tmp_path.glob("weights.*"))
    folder = imported(file, tmp_path / "ours", *([] if isinstance(size, int) else ["--image-size=8x16"]))
    height, width = (size, size) if isinstance(size, int) else size
    images = np.random.default_rng(0).standard_normal((2, height, width, 3), np.float32)
    trained = load_trained(folder)
    ours = trained.objective.predict(trained.params, trained.state, {"image": jnp.asarray(images)})["logits"]
    with torch.no_grad():
        expected = model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_what_does_not_fit_is_one_line(tmp_path):
    def refused(weights, *flags):
        save_file(weights, tmp_path / "weights.safetensors")
        with pytest.raises(InputError) as error:
            imported(tmp_path / "weights.safetensors", tmp_path / "out", *flags)
        assert not (tmp_path / "out").exists() and "\n" not in str(error.value)
        return str(error.value)

    weights = beit(CASES["BEiT's"]).state_dict()
    assert "4 columns, one a head" in refused(weights, "--heads=3")
    assert "say --image-size=HEIGHTxWIDTH" in refused(weights, "--image-size=16")
    less = {name: value for name, value in weights.items() if name != "blocks.1.gamma_2"}
    assert "no tensor 'blocks.1.gamma_2'" in refused(less)
    assert "blocks.0.attn.norm.weight" in refused({**weights, "blocks.0.attn.norm.weight": torch.zeros(8)})


def test_an_import_is_refused_as_an_export(tmp_path):
    save_file(beit(CASES["BEiT's"]).state_dict(), tmp_path / "weights.safetensors")
    folder = imported(tmp_path / "weights.safetensors", tmp_path / "ours")
    assert load_params(folder)["encoder"]["block_1"]["gamma_2"].shape == (32,)
    assert read_record(folder)["config"]["model"]["name"] == "vit_base_rpe"
    with pytest.raises(InputError, match="exports are of plain ViTs and Hieras, and vit_base_rpe is of kind 'vit_rpe'"):
        export_torch.main([f"--workdir={folder}", "--to=timm", f"--out={tmp_path / 'export'}"])
