"""Parameters split over devices: the numbers of data parallelism, a share of its memory. In a subprocess."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_devices import ENV

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "sharded.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sharded")
    subprocess.run([sys.executable, str(PROGRAM), str(workdir)], env=ENV, check=True)
    return workdir, json.loads((workdir / "results.json").read_text())


@pytest.mark.parametrize("way", ["one", "fsdp", "both"])
def test_losses_of_twenty_steps_are_those_of_data_parallelism(done, way):
    assert len(done[1][way]["losses"]) == 20
    np.testing.assert_allclose(done[1][way]["losses"], done[1]["data"]["losses"], rtol=1e-5)


@pytest.mark.parametrize("way", ["one", "fsdp", "both"])
def test_first_gradients_are_those_of_data_parallelism(done, way):
    ours, theirs = (np.load(done[0] / f"{name}.npz") for name in (way, "data"))
    largest = max(np.abs(theirs[name]).max() for name in theirs.files)
    for name in theirs.files:  # rounding of the sums over the batch; a key's bias has no other gradient
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("way", ["data", "fsdp", "both"])
def test_four_devices_each_compute_a_quarter(done, way):
    """With Explicit axes, or activations gathered in place of kernels, every device would do the whole batch."""
    assert done[1]["one"]["flops"] / done[1][way]["flops"] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(("way", "share"), [("one", 1), ("data", 1), ("fsdp", 1 / 4), ("both", 1 / 2)])
def test_a_device_holds_its_share_of_parameters_moments_and_teacher(done, way, share):
    assert done[1][way]["held"] == {"params": share, "frozen": share, "moment": share, "bias": 1}


@pytest.mark.parametrize("way", ["fsdp-one", "one-fsdp"])
def test_a_checkpoint_restores_onto_another_cut(done, way):
    assert done[1]["restored"][way] == {"equal": True, "laid_out": True}
