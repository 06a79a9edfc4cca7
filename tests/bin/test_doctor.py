"""`lvit doctor`: what each check says of a machine that is well and of one that is not; none can crash or hang it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lvit_jax.bin import doctor, doctor_machine, doctor_places, flags
from lvit_jax.bin.doctor_finding import Patient, ok
from lvit_jax.bin.doctor_run import isolated
from lvit_jax.bin.launch_local import free_port

ROOT = Path(__file__).parent.parent.parent
NOBODY = Patient(None, None)


def config(name="demo/mae", *overrides):
    return flags.override(flags.load_config(name), overrides).to_dict()


def raises(_):
    raise RuntimeError("two\nlines")


def crashes(_):
    os.abort()


def leaves(_):
    sys.exit(3)


def hangs(_):
    time.sleep(600)


def is_well(_):
    print("chatter of a library")
    return ok("well")


@pytest.mark.parametrize(
    ("check", "words"),
    [(raises, "RuntimeError: two lines"), (crashes, "crashed (exit code -6)"), (leaves, "SystemExit: 3")],
)
def test_a_check_that_fails_by_itself_is_a_failed_check(check, words):
    result = isolated("mine", check, NOBODY, 60)
    assert result.status == "failed" and words in result.message and result.fix and result.name == "mine"


def test_a_check_that_hangs_is_a_failed_check():
    result = isolated("mine", hangs, NOBODY, 1.0)  # it would take ten minutes
    assert result.status == "failed" and "no answer within 1 s" in result.message


def test_what_libraries_print_is_no_part_of_the_report(capfd):
    assert isolated("mine", is_well, NOBODY, 60).status == "ok"
    assert capfd.readouterr() == ("", "")


def test_every_check_says_something_of_a_well_machine(tmp_path, monkeypatch, capsys):
    """All checks with a real config and workdir; the versions here are the tested ones."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    code = doctor.main(["--config=demo/mae", f"--workdir={tmp_path / 'new' / 'run'}", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    by_name = {check["name"]: check for check in report["checks"]}
    assert list(by_name) == list(doctor.CHECKS)
    others = [name for name, check in by_name.items() if check["status"] != "ok" and name != "packages"]
    assert not others, others  # the packages of a test machine are pip's business
    assert code == (0 if by_name["packages"]["status"] == "ok" else 1)
    assert "1437 training images" in by_name["data"]["message"]  # 80 % of 1797 digits
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".lvit_doctor*"))


def test_python_and_jax_outside_of_the_tested_range(monkeypatch):
    monkeypatch.setattr(doctor_machine.platform, "python_version", lambda: "3.10.12")
    finding = doctor_machine.check_python(NOBODY)
    assert finding.status == "failed" and "3.10.12" in finding.message and "3.12" in finding.fix
    versions = {"jax": "0.9.1", "jaxlib": "0.9.1", "flax": "0.12.8", "orbax-checkpoint": "0.12.8"}
    monkeypatch.setattr(doctor_machine, "_version", versions.get)
    finding = doctor_machine.check_tested(NOBODY)
    assert finding.status == "failed" and finding.fix == "pip install 'jax>=0.10,<0.13'"
    versions |= {"jax": "0.12.0", "jaxlib": "0.11.0"}
    assert doctor_machine.check_tested(NOBODY).fix == "pip install 'jaxlib==0.12.0'"


def test_a_package_that_is_missing_or_too_old(monkeypatch):
    requirements = ["orbax-checkpoint>=0.12.8,<0.13", "numpy", "torch>=2.4 ; extra == 'torch'"]
    monkeypatch.setattr(doctor_machine.importlib.metadata, "requires", lambda name: requirements)
    versions = {"lvit_jax": "0.1.0", "orbax-checkpoint": "0.13.1"}
    monkeypatch.setattr(doctor_machine, "_version", versions.get)
    finding = doctor_machine.check_packages(NOBODY)
    assert "orbax-checkpoint<0.13,>=0.12.8 (here: 0.13.1)" in finding.message
    assert "numpy (here: absent)" in finding.message and "torch" not in finding.message
    assert finding.fix == "pip install 'orbax-checkpoint<0.13,>=0.12.8' 'numpy'"
    versions |= {"orbax-checkpoint": "0.12.9", "numpy": "2.4"}
    assert doctor_machine.check_packages(NOBODY).status == "ok"
    versions.pop("lvit_jax")
    assert "pip install -e ." in doctor_machine.check_packages(NOBODY).fix


def test_a_tpu_that_jax_does_not_see(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_has_tpu", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    finding = doctor_machine.check_devices(NOBODY)
    assert finding.status == "failed" and "has a TPU" in finding.message and "unset JAX_PLATFORMS" in finding.fix
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(doctor_machine, "_version", lambda name: None)
    assert doctor_machine.check_devices(NOBODY).fix == "pip install 'jax[tpu]'"
    monkeypatch.setattr(doctor_machine, "_version", lambda name: "0.0.42")
    assert "end the process" in doctor_machine.check_devices(NOBODY).fix


def test_workers_that_cannot_be_found(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,nobody.invalid")
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    finding = doctor_machine.check_processes(NOBODY)
    assert finding.status == "failed" and "worker 0 of 2 finds no address for nobody.invalid" in finding.message
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,127.0.0.1")
    assert "worker 0 of 2" in doctor_machine.check_processes(NOBODY).message


def doctors(*commands):
    """Runs doctors at the same time; the checks of each by name."""
    base = [sys.executable, "-m", "lvit_jax.bin.doctor", "--json"]
    started = [subprocess.Popen([*base, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True) for argv in commands]
    reports = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    return [{check["name"]: check for check in report["checks"]} for report in reports]


def test_two_processes_meet():
    job = [f"--coordinator=localhost:{free_port()}", "--processes=2"]
    found = doctors([*job, "--process=0"], [*job, "--process=1"])
    assert [checks["processes"]["status"] for checks in found] == ["ok", "ok"]
    assert "process 1 of 2, 2 devices in all" in found[1]["processes"]["message"]


def test_a_process_that_does_not_come_is_named():
    job = [f"--coordinator=localhost:{free_port()}", "--processes=2", "--process=0", "--wait=1"]
    (checks,) = doctors(job)
    assert checks["processes"]["status"] == "failed" and "missing: 1" in checks["processes"]["message"]


def test_a_workdir_that_is_a_file_or_not_ours(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    finding = doctor_places.check_workdir(Patient(None, str(tmp_path / "file" / "run")))
    assert finding == ("failed", f"{tmp_path / 'file'} is a file", "name a folder")

    def denied(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_places, "_write", denied)
    finding = doctor_places.check_workdir(Patient(None, str(tmp_path)))
    assert "Permission denied" in finding.message and "mkdir" in finding.fix
    finding = doctor_places.check_workdir(Patient(None, "gs://bucket/run"))
    assert "gs://bucket/run" in finding.message and "gcloud auth" in finding.fix


def test_a_slow_workdir_and_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_places, "_seconds", lambda action: action() or 100.0)
    finding = doctor_places.check_workdir(Patient(None, str(tmp_path)))
    assert finding.status == "failed" and "0 MB/s" in finding.message
    monkeypatch.setattr(doctor_places.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    finding = doctor_places.check_disk(Patient(None, str(tmp_path)))
    assert finding.status == "failed" and f"{tmp_path} 1 GB" in finding.message and "make room" in finding.fix


def test_imagenets_archives_are_named_with_their_place(tmp_path):
    section = f"--config.data.data_dir={tmp_path}"
    finding = doctor_places.check_data(Patient(config("pretrain/mae_tiny", section), None))
    place = tmp_path / "downloads" / "manual"
    assert finding.status == "failed" and "imagenet2012" in finding.message
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from image-net.org" in finding.fix
    assert f"into {place}, then `lvit prepare --source=imagenet2012" in finding.fix
    place.mkdir(parents=True)
    (place / "ILSVRC2012_img_train.tar").touch()
    fix = doctor_places.check_data(Patient(config("pretrain/mae_tiny", section), None)).fix
    assert "put ILSVRC2012_img_val.tar (" in fix
    (place / "ILSVRC2012_img_val.tar").touch()
    fix = doctor_places.check_data(Patient(config("pretrain/mae_tiny", section), None)).fix
    assert fix.startswith("`lvit prepare --source=imagenet2012") and "put" not in fix


def test_the_archive_of_a_data_set_of_ours_is_named_too(tmp_path):
    patient = Patient(config("transfer/aircraft", f"--config.data.data_dir={tmp_path}"), None)
    fix = doctor_places.check_data(patient).fix
    place = tmp_path / "downloads" / "manual"
    assert (
        "put fgvc-aircraft-2013b.tar.gz (from www.robots.ox.ac.uk" in fix
        and f"into {place}, then the next command prepares it" in fix
    )


def folder(root, count):
    for i in range(count):
        path = root / ("a", "b")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return Patient(config("demo/mae", f"--config.data.source=folder:{root}"), None)


def test_folders_missing_empty_and_broken(tmp_path):
    finding = doctor_places.check_data(Patient(config("demo/mae", "--config.data.source=folder:/no/such"), None))
    assert "/no/such" in finding.message and "class folders" in finding.fix
    patient = folder(tmp_path, 20)
    assert doctor_places.check_data(patient).message == f"folder:{tmp_path}: 18 training images, 2 for validation"
    for path in tmp_path.glob("a/*.png"):
        path.write_bytes(b"no image")
    finding = doctor_places.check_data(patient)
    assert finding.status == "failed" and "broken image: a/" in finding.message


def test_what_is_wrong_in_the_config_is_its_own_fix():
    finding = doctor_places.check_data(Patient(config("demo/mae", "--config.data.source=digts"), None))
    assert "did you mean 'digits'" in finding.message and "config" in finding.fix


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert doctor_places.check_cache(NOBODY).status == "ok"
    monkeypatch.setattr(doctor_places.os, "access", lambda place, mode: False)
    assert "JAX_COMPILATION_CACHE_DIR" in doctor_places.check_cache(NOBODY).fix


@pytest.mark.parametrize(
    ("job", "place"),
    [([], ".cache/lvit_jax/xla"), (["--coordinator=localhost:1", "--processes=1", "--process=0"], "run/compile_cache")],
)
def test_the_cache_is_the_one_that_the_run_would_use(job, place, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # what the doctor sets goes again after the test
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "CHECKS", {"cache": doctor.CHECKS["cache"]})
    assert doctor.main([f"--workdir={tmp_path}/run", *job]) == 0
    assert f"{tmp_path}/{place}\n" in capsys.readouterr().out


def test_without_workdir_and_config_they_are_skipped():
    assert doctor_places.check_workdir(NOBODY).status == doctor_places.check_data(NOBODY).status == "skipped"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdri=x"], "did you mean '--workdir'"),
        (["--config=demo/ma"], "demo/mae"),
        (["--config=demo/mae", "--config.seed=x"], "seed"),
        (["--config.seed=1"], "--config=FILE"),
    ],
)
def test_bad_flags_exit_with_2_at_once(argv, words):
    heavy = "sys.modules['jax'] = sys.modules['tensorflow'] = None"  # to import one of them would be an error
    code = f"import sys; {heavy}; from lvit_jax.bin import app, doctor; sys.exit(app.run(doctor.main))"
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr


def test_people_read_the_fix_below_the_failure():
    assert doctor.line(doctor.Result("data", "failed", "gone", "get it")) == (
        "FAILED  data       gone\n                   fix: get it"
    )
