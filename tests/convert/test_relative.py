"""Files in BEiT's names, as timm and MAE-Lite's RPE models write them: logits after the import, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from make import exported, fails, imported, workdir
from safetensors.torch import save_file

from lvit_jax.bin import export_torch
from lvit_jax.build.trained import load_trained
from lvit_jax.convert.load import load
from lvit_jax.convert.relative import model_of
from lvit_jax.convert.relative_export import arch_of
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record
from lvit_jax.tree import flatten

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


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """timm's model, and the folder of its import."""
    model, size = beit(CASES[request.param]), CASES[request.param]["img_size"]
    path = tmp_path_factory.mktemp("case")
    save_file(model.state_dict(), path / "weights.safetensors")
    flags = [] if isinstance(size, int) else ["--image-size=8x16"]
    return model, imported(path / "weights.safetensors", path / "ours", *flags)


def test_a_file_has_the_tensors_that_it_came_from(case, tmp_path, capsys):
    model, folder = case
    out = exported(folder, tmp_path / "out", "mae", "--json")
    through = json.loads(capsys.readouterr().out.splitlines()[-1])["checked_with"]
    assert through == ("timm" if model.rel_pos_bias is None else "jax")  # that one is not square
    weights = torch.load(out / "rpe.pth", weights_only=True)["model"]
    theirs = dict(model.state_dict())
    indices = {name: buffer for name, buffer in model.named_buffers() if name.endswith("relative_position_index")}
    assert weights.keys() == theirs.keys() | indices.keys() and indices
    for name, tensor in (theirs | indices).items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)
    size = read_record(folder)["config"]["model"]["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    again = load(tmp_path / "out/rpe.pth", {"image_size": size})
    assert flatten(again.params).keys() == flatten(load_params(folder)).keys()


def test_timms_beit_computes_the_same(case, tmp_path):
    model, folder = case
    if model.rel_pos_bias is not None:
        said = fails(export_torch.main, [f"--workdir={folder}", "--to=timm", f"--out={tmp_path / 'out'}"])
        assert "image_size=8x16: timm resizes tables that are not square: --to=mae is the way" in said
        return
    out = exported(folder, tmp_path / "out", "timm")
    back = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, expected = back(pixels), model(pixels)
    assert (theirs - expected).abs().max() <= 1e-5 * expected.abs().max() and expected.std() > 0.1
    plain = model.blocks[0].attn.qkv.bias is not None
    assert ("no bias of keys" in (out / "README.md").read_text()) == plain
    again = load(out, {})
    before, after = flatten(load_params(folder)), flatten(again.params)
    assert again.arch.qv_bias and (set(before) == set(after)) != plain
    assert all((after[name] == before[name]).all() for name in set(before) & set(after))


def random_run(path, **model):
    """The folder of a run with random weights, the parameters, and what the run holds."""
    model = {"name": "vit_micro_rpe", "image_size": 12, "patch_size": 4, "width": 32, "depth": 2} | model
    arch = arch_of({"config": {"model": model, "objective": None}}, {}, False)
    arch = arch._replace(pool="cls", classes=5)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model_of(arch).init, jax.random.key(0), np.zeros((1, 12, 12, 3), np.float32))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    return workdir(path, params, model, {"name": "classify", "pool": "cls"}), params, arch


@pytest.mark.parametrize("to", ["timm", "mae"])
def test_fixed_positions_and_a_shared_table_come_back(to, tmp_path):
    run, params, arch = random_run(tmp_path / "run", positions="sincos", shared_table=True, layer_scale=0.0)
    out = exported(run, tmp_path / "out", to)
    again = load(out / "rpe.pth" if to == "mae" else out, {})
    assert again.arch._replace(layer_scale=0.0) == arch and "pos_embed" not in again.params["encoder"]
    before, after = flatten(params), flatten(again.params)
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)


def test_what_a_format_cannot_hold(tmp_path):
    def refused(run, to, *flags):
        line = fails(export_torch.main, [f"--workdir={run}", f"--to={to}", f"--out={tmp_path / 'out'}", *flags])
        assert not (tmp_path / "out").exists()
        return line

    run, params, _ = random_run(tmp_path / "run")
    model = read_record(run)["config"]["model"]
    assert "is exported --to=timm or --to=mae, not --to=hf" in refused(run, "hf")
    assert "there is no decoder in this classify" in refused(run, "mae", "--decoder")
    other = workdir(tmp_path / "eps", params, model | {"norm_eps": 1e-5}, {"name": "classify", "pool": "cls"})
    assert "norm_eps=1e-05: PyTorch's ViTs with relative positions have 1e-06" in refused(other, "mae")
    other = workdir(tmp_path / "pool", params, model, {"name": "classify", "pool": "norm_mean"})
    assert "pool='norm_mean': PyTorch's ViTs with relative positions pool by mean or cls" in refused(other, "timm")
