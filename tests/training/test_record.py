"""config.json: written whole, read back, compared when a run goes on."""

import json
import subprocess
import sys

import pytest

from lvit_jax.errors import InputError
from lvit_jax.training.record import compare_configs, read_record, write_record

CONFIG = {
    "model": {"name": "vit_tiny", "remat": False, "image_size": (32, 32)},
    "optim": {"blr": 1e-3, "no_decay": ()},
    "init": {"encoder": "runs/a", "teacher": None, "demo_teacher": None},
    "data": {"source": "folder:/x", "threads": None, "max_broken": 0.1},
    "mesh": {"devices": None},
    "log": {"profile": None},
}


def changed(**sections):
    return CONFIG | {name: CONFIG[name] | values for name, values in sections.items()}


def test_a_record_comes_back_and_leaves_no_part_behind(tmp_path):
    record = {"config": CONFIG, "kind": "run"}
    write_record(tmp_path / "new", record)
    write_record(tmp_path / "new", record | {"kind": "import"})
    assert read_record(tmp_path / "new") == json.loads(json.dumps(record)) | {"kind": "import"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not the folder of a run or an import: it has no config\.json"):
        read_record(tmp_path)
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(InputError, match="is not JSON"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ['{"model_type": "vit"}', '{"kind": "vit"}', "[]", "3", '{"kind": ["run"]}'])
def test_a_record_that_is_not_ours_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="`lvit import_torch --file=") as error:
        read_record(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_config_that_went_through_json_is_the_same():
    assert compare_configs(json.loads(json.dumps(CONFIG)), CONFIG) == []


def test_what_does_not_change_the_mathematics_may_differ():
    new = changed(
        model={"remat": True},
        init={"demo_teacher": "configs/demo/teacher.py"},
        data={"threads": 2, "max_broken": 0.5},
        mesh={"devices": 4},
        log={"profile": [10, 5]},
    )
    assert compare_configs(CONFIG, new) == [
        "model/remat: False -> True",
        "init/demo_teacher: None -> 'configs/demo/teacher.py'",
        "data/threads: None -> 2",
        "data/max_broken: 0.1 -> 0.5",
        "mesh/devices: None -> 4",
        "log/profile: None -> [10, 5]",
    ]


def test_every_other_difference_is_named():
    new = changed(optim={"blr": 2e-3}, model={"name": "vit_small", "width": 3}, mesh={"devices": 2})
    with pytest.raises(InputError) as error:
        compare_configs(CONFIG, new)
    message = str(error.value)
    for part in ("model/name: 'vit_tiny' -> 'vit_small'", "optim/blr: 0.001 -> 0.002", "model/width: None -> 3"):
        assert part in message
    assert "mesh" not in message
    assert "\n" not in message


def test_a_run_goes_on_under_a_later_version_that_has_more_fields():
    """Such a field is None where it is not used; a value of it would make it another run."""
    assert compare_configs(CONFIG, changed(init={"heads_from": None})) == []
    with pytest.raises(InputError, match="init/heads_from: None -> 3"):
        compare_configs(CONFIG, changed(init={"heads_from": 3}))


def test_paths_of_equal_content_may_differ():
    new = changed(init={"encoder": "runs/copy_of_a"})
    hashes = {"encoder": "1234"}
    assert compare_configs(CONFIG, new, old_hashes=hashes, new_hashes=hashes) == [
        "init/encoder: 'runs/a' -> 'runs/copy_of_a'"
    ]
    for old, other in [(hashes, {"encoder": "5678"}), (hashes, {}), ({}, {})]:
        with pytest.raises(InputError, match="init/encoder: 'runs/a' -> 'runs/copy_of_a'"):
            compare_configs(CONFIG, new, old_hashes=old, new_hashes=other)


def test_one_path_with_another_content_is_refused():
    with pytest.raises(InputError, match=r"init/encoder \(another content\)"):
        compare_configs(CONFIG, CONFIG, old_hashes={"encoder": "1234"}, new_hashes={"encoder": "5678"})


def test_the_record_is_read_without_jax():
    code = "import sys, lvit_jax.training.record; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
