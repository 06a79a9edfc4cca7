"""Bad input on the command line: one line that names the value and the nearest valid one, exit code 2, in a second."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvit_jax.bin import app, flags
from lvit_jax.errors import InputError

ROOT = Path(__file__).parent.parent
D2 = "configs/pretrain/d2_tiny.py"


def parse(*argv):
    parser = flags.Parser("train", "doc")
    parser.add_argument("--workdir", required=True)
    return flags.parse_with_config(parser, ["--workdir=w", *argv])[1]


def message(*argv):
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_overrides_take_the_type_of_their_field():
    config = parse(
        f"--config={D2}",
        "--config.optim.blr=1",
        "--config.model.heads=3",
        "--config.model.remat=true",
        "--config.model.image_size=(32, 48)",
        "--config.data.source=folder:/a=b",
        "--config.init.fresh=['head/.*']",
        "--config.data.data_dir=None",
    )
    assert (config.optim.blr, type(config.optim.blr)) == (1.0, float)
    assert config.model.heads == 3 and config.model.remat is True
    assert config.model.image_size == (32, 48)
    assert config.data.source == "folder:/a=b"
    assert config.init.fresh == ("head/.*",) and config.data.data_dir is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((f"--config={D2}", "--config.optim.blrr=1"), ("optim.blrr", "optim.blr")),
        ((f"--config={D2}", "--config.optim.blr=fast"), ("optim.blr", "float", "'fast'")),
        ((f"--config={D2}", "--config.train.batch_size=1.5"), ("train.batch_size", "int", "1.5")),
        ((f"--config={D2}", "--config.model.heads=many"), ("model.heads", "int", "many")),
        ((f"--config={D2}", "--config.model.remat=2"), ("model.remat", "bool")),
        ((f"--config={D2}", "--config.optim=1"), ("section", "blr")),
        ((f"--config={D2}", "--config.seed"), ("seed", "VALUE")),
        ((f"--config={D2}", "--config.data.source="), ("data.source", "empty")),
        ((f"--config={D2}", "--config.train.batch_size=(1, 2)"), ("train.batch_size", "int")),
        ((f"--config={D2}", "--config.train.batch_size=None"), ("train.batch_size", "int")),
        ((f"--config={D2}", "--config.data.crop_scale=1"), ("data.crop_scale", "tuple")),
        ((f"--config={D2}", "--config.train.accumulate=0"), ("train.accumulate", "0", "1")),
        ((f"--config={D2}", "--config.model.image_size=(0, 32)"), ("model.image_size", "0")),
        ((f"--config={D2}", "--config.log.every_steps=0"), ("log.every_steps", "0")),
        ((f"--config={D2}", "--config.optim.blr=-1"), ("optim.blr", "-1.0", "the least is 0.0")),
        ((f"--config={D2}", "--config.optim.layer_decay=-0.5"), ("optim.layer_decay", "the least is 0.0")),
        ((f"--config={D2}", "--config.optim.clip=-2.0"), ("optim.clip", "the least is 0.0")),
        (("--config=",), ("config", "empty")),
        (("--config=README.md",), ("README.md", "get_config")),
        (("--config=configs/pretrain/d2_tin.py",), ("d2_tin.py", "configs/pretrain/d2_tiny.py")),
        ((f"--config={D2}", "--config.model.name=vit_tin"), ("vit_tin", "vit_tiny", "vit_base")),
        ((f"--config={D2}", "--config.objective.name=d3"), ("d3", "d2", "mae")),
        ((f"--config={D2}", "--config.objective.decoder=tny"), ("tny", "tiny")),
        ((f"--config={D2}", "--config.optim.name=adam"), ("adam", "adamw")),
        ((f"--config={D2}", "--workdri=x"), ("--workdri", "--workdir")),
        ((), ("--config",)),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_name(argv, words):
    assert all(word in message(*argv) for word in words), message(*argv)


def test_a_config_file_with_a_misspelt_key_says_which(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from lvit_jax.configs import labelled\n"
        "def get_config():\n    config = labelled.finetune()\n    config.optim.blrr = 1.0\n    return config\n"
    )
    assert "blrr" in message(f"--config={path}")


@pytest.mark.parametrize("body", ["return None", "return {}", "return 1 / 0", "return undefined", "return ((", ""])
def test_a_broken_config_file_is_one_line(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config():\n    {body}\n")
    assert str(path) in message(f"--config={path}")


def test_configs_resolve_by_name_outside_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (D2, "pretrain/d2_tiny.py", "pretrain/d2_tiny"):
        assert parse(f"--config={name}").objective.name == "d2"


def test_help_lists_the_fields_of_the_config(capsys):
    with pytest.raises(SystemExit):
        parse(f"--config={D2}", "--config.seed=7", "--help")
    out = capsys.readouterr().out
    assert "--config.optim.blr=0.00015" in out and "--config.seed=7" in out


def test_a_binary_says_one_line_and_exits_with_2_at_once(tmp_path):
    start = time.monotonic()
    command = [sys.executable, "-m", "lvit_jax.bin.train", f"--config={D2}", "--workdir=w", "--config.a=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert time.monotonic() - start < 3  # a second on an idle machine; importing jax alone would take longer
    assert not (ROOT / "w").exists()


@pytest.mark.parametrize("argv", [["--help"], ["no_such_command"], []])
def test_lvit_menu_and_unknown_commands(argv, capsys):
    with pytest.raises(SystemExit) as done:
        app.lvit(argv)
    assert done.value.code == (0 if argv == ["--help"] else 2)
    captured = capsys.readouterr()
    assert "eval_classify" in captured.out + captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdr=w"], "unknown flag '--workdr=w' (did you mean '--workdir'?)"),
        ([], "the following arguments are required: --workdir"),
        (["--zzz=1"], "the following arguments are required: --workdir"),
    ],
)
def test_a_misspelt_flag_is_named_and_not_the_one_it_leaves_missing(argv, words):
    parser = flags.Parser("train", "doc")
    parser.add_argument("--workdir", required=True)
    with pytest.raises(InputError) as error:
        parser.parse_args(argv)
    assert str(error.value).startswith(words)
