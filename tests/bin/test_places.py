"""Commands that read a run: a folder that is none, or an --out that cannot be one, is told before jax is imported."""

import sys
from subprocess import run

import pytest

from lvit_jax.bin import places
from lvit_jax.errors import InputError

CODE = "import sys; from lvit_jax.bin import app\ntry: app.lvit(sys.argv[1:])\nfinally: assert 'jax' not in sys.modules"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["eval_probe", "--workdir=none"], "none is not the folder of a run"),
        (["eval_probe", "--workdir=untrained:none"], "none is not the folder of a run"),
        (["eval_probe", "--workdir=none", "--k=5,0"], "--k=0; the least is 1"),
        (["eval_probe", "--workdir=run", "--out=text", "--linear"], "text is a file, and not a folder"),
        (["analyze", "--workdir=run", "--against=run,none", "--out=new"], "none is not the folder of a run"),
        (["analyze", "--workdir=run", "--against=run,,run", "--out=new"], "a workdir is empty"),
        (["analyze", "--workdir=run", "--out=text/new"], "text is a file, and not a folder"),
        (["embed", "--workdir=none", "--out=new.npz"], "none is not the folder of a run"),
        (["embed", "--workdir=run", "--out=text/new.npz"], "text is a file, and not a folder"),
        (["train", "--workdir=text", "--config=demo/mae"], "--workdir=text: "),
        (["observation", "--workdir=text/new"], "--workdir=text/new: "),
        (["eval_robustness", "--workdir=run", "--source=imagenet_a", "--out=text/new"], "text is a file"),
    ],
)
def test_bad_places_are_told_without_jax(tmp_path, argv, words):
    (tmp_path / "text").write_text("no folder")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "run"}')
    done = run([sys.executable, "-c", CODE, *argv], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"text", "run"}


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(places.os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match=f"{tmp_path} may not be written"):
        places.check_out(str(tmp_path / "a" / "b"))
