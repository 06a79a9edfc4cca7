"""Files as people have them: nests, settings beside the weights, pickles that must not be trusted, broken files."""

import argparse
import os
import sys

import numpy as np
import pytest
import torch
from make import DECODER, SMALL, random_params

from lvit_jax.bin import app
from lvit_jax.bin.import_torch import main as import_torch
from lvit_jax.convert.files import read, write_safetensors
from lvit_jax.convert.params import to_torch
from lvit_jax.errors import InputError
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record
from lvit_jax.tree import flatten

ARCH = SMALL._replace(decoder=DECODER)


@pytest.fixture(scope="module")
def weights():
    return to_torch(random_params(ARCH), ARCH, "mae")


@pytest.fixture
def tensors(weights):
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def same(found, weights):
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_settings_beside_the_weights(tensors, weights, tmp_path, zipped, core):
    settings = {"lr": np.float64(1e-3), "steps": np.int64(5), "list": np.arange(3), "type": np.dtype("float32")}
    content = {"model": tensors, "args": argparse.Namespace(**settings), "epoch": 3, "optimizer": {"state": {}}}
    path = tmp_path / "mae.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if not zipped:  # names in a plain pickle end with a newline: another length does no harm
        path.write_bytes(path.read_bytes().replace(b"numpy._core", core))
        assert core in path.read_bytes()
    same(read(path)[0], weights)


def test_mae_lite_file_as_it_comes(tensors, weights, tmp_path):
    nested = {f"module.model.{name}": t if "pos_embed" in name else t.half() for name, t in tensors.items()}
    torch.save({"start_epoch": 400, "model": nested, "scaler": {"scale": 65536.0}}, tmp_path / "last_ckpt.pth.tar")
    flags = ["--heads=3", "--decoder-heads=2", f"--out={tmp_path / 'out'}"]
    assert import_torch([f"--file={tmp_path / 'last_ckpt.pth.tar'}", *flags]) == 0
    record, params = read_record(tmp_path / "out"), load_params(tmp_path / "out")
    assert record["config"]["objective"]["decoder"] == {"width": 16, "depth": 1, "heads": 2}
    assert record["kind"] == "import" and record["config"]["model"]["heads"] == 3
    read_back = to_torch(params, ARCH, "mae")["blocks.1.mlp.fc2.weight"]
    np.testing.assert_allclose(read_back, weights["blocks.1.mlp.fc2.weight"], rtol=1e-3)


def test_d2_file_loses_its_13th_block_and_its_decoder(tensors, tmp_path, capsys):
    for name in ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias"):
        tensors[f"blocks.2.{name}"] = tensors[f"blocks.1.{name}"]
    torch.save({"state_dict": tensors}, tmp_path / "d2.pth")
    assert import_torch([f"--file={tmp_path / 'd2.pth'}", "--heads=3", f"--out={tmp_path / 'out'}"]) == 0
    assert "the final norm is that of block 8" in capsys.readouterr().out
    assert read_record(tmp_path / "out")["config"]["objective"] == {"name": "d2"}
    names = list(flatten(load_params(tmp_path / "out")))
    assert not [name for name in names if name.startswith(("decoder", "encoder/block_2"))]


class Custom:
    pass


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not(tensors, tmp_path, capsys, zipped):
    torch.save(
        {"model": tensors, "hook": Runs(tmp_path / "ran")}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(SystemExit) as stop:
        app.run(import_torch, [f"--file={tmp_path / 'evil.pth'}", "--heads=3", f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "posix.mkdir" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"w": Custom()}, "holds an object of type test_files.Custom"),
        ({"w": np.array([Custom()], dtype=object)}, "holds an object of type numpy.dtypes.ObjectDType"),
        ([1, 2], "holds a list, not a dict of tensors"),
        ({"epoch": 3}, "holds no tensors; its keys: epoch"),
    ],
)
def test_other_content_is_refused_by_its_type(content, named, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=named):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_truncated_files_are_one_line(tensors, weights, tmp_path, name, share):
    path = tmp_path / name
    torch.save({"model": tensors}, path) if name == "x.pth" else write_safetensors(path, weights)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="is not a readable") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_without_torch(tensors, weights, tmp_path, monkeypatch):
    torch.save({"model": tensors}, tmp_path / "x.pth")
    write_safetensors(tmp_path / "x.safetensors", weights)
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import of it then finds is nothing
    same(read(tmp_path / "x.safetensors")[0], weights)
    with pytest.raises(InputError, match=r"pip install 'lvit_jax\[torch\]'"):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["nothing.pth", "empty", "x.npz"])
def test_what_is_no_file_of_weights(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.npz").touch()
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)
