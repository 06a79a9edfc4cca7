"""Each notebook runs from top to bottom: shortened (LVIT_FAST=1), and slow in full. None stores outputs."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = 900  # seconds a cell, beside other tests on two cores


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def execute(name, folder, fast):
    """Runs a notebook in a folder of its own; what its last expression says, and how many figures it shows."""
    notebook = read(name)
    cache = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    env = os.environ | cache | {"LVIT_FAST": "1" if fast else "0"}
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(folder)}}).execute(env=env)
    data = [out["data"] for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out]
    said = [out["text/plain"] for out in data if "image/png" not in out]
    return ast.literal_eval(said[-1]), sum("image/png" in out for out in data)


def quickstart(said, figures, fast):
    assert figures == 2
    (first, last), (before, after) = said["error"], said["20-NN"]
    assert last < (1.0 if fast else 0.6) * first
    assert fast or after > before + 5


def to_torch(said, figures, fast):
    assert figures == 1
    assert said.keys() == {"timm", "transformers"} and max(said.values()) < 1e-4


def distil(said, figures, fast):
    assert figures == 1 and list(said) == ["untrained", "MAE", "D²-MAE"]
    assert all(10 <= top1 <= 100 for found in said.values() for top1 in found.values())
    assert fast or min(said[name]["k-NN"] for name in ("MAE", "D²-MAE")) > said["untrained"]["k-NN"] + 20


def analyze(said, figures, fast):
    assert figures == 4 and list(said) == ["supervised", "mae", "moco"]
    assert said["supervised"] == [1.0] * 5
    assert all(0 < value < 1 for name in ("mae", "moco") for value in said[name])


HOLDS = {"analyze": analyze, "distil": distil, "quickstart": quickstart, "to_torch": to_torch}


def test_every_notebook_is_known():
    assert sorted(HOLDS) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_stored_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_they_install_alike():
    first = {next(cell.source for cell in read(name).cells if cell.cell_type == "code") for name in NOTEBOOKS}
    assert len(first) == 1 and "%pip install" in first.pop()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_shortened(name, tmp_path):
    HOLDS[name](*execute(name, tmp_path, fast=True), fast=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_in_full_and_learns(name, tmp_path):
    HOLDS[name](*execute(name, tmp_path, fast=False), fast=False)
