"""A pretended cloud: `gcloud`, `lvit` and what a worker needs, as programs that write down their arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
"""
# A slice that is absent, made, given, preempted so many times, and deleted; commands run in a shell, as ssh would.
GCLOUD = """
import pathlib, subprocess
home = pathlib.Path({home!r})
state, left = home / "state", home / "preemptions"
argv = sys.argv[1:]
flags = dict(arg[2:].split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)
now = state.read_text()
if "queued-resources" in argv and "describe" in argv or "list-instances" in argv:
    if now == "ABSENT":
        sys.exit("ERROR: NOT_FOUND: it was not found")
    if "describe" in argv:
        print(now)
    else:
        status = {{"ACTIVE": "RUNNING", "SUSPENDED": "TERMINATED", "WAITING": "PROVISIONING"}}[now]
        print("\\n".join(f"vm-{{i}}\\t{{status}}" for i in range({hosts})))
    if now == "WAITING":
        state.write_text("ACTIVE")
elif "describe" in argv:
    sys.exit("ERROR: not found")
elif "create" in argv and ("queued-resources" in argv or "managed" in argv):
    assert now == "ABSENT", now
    state.write_text("WAITING")
elif "delete" in argv:
    state.write_text("ABSENT")
elif "ssh" in argv:
    assert now in ("ACTIVE", "SUSPENDED"), now
    code = subprocess.run(["bash", "-c", flags["command"]]).returncode
    if "run_worker" in flags["command"] and int(left.read_text()):
        left.write_text(str(int(left.read_text()) - 1))
        state.write_text("SUSPENDED")
        sys.exit(255)
    sys.exit(code)
"""
UV = """
import pathlib
if "venv" in sys.argv:
    (pathlib.Path.home() / ".lvit" / "bin").mkdir(parents=True, exist_ok=True)
"""
LVIT = """
sys.exit({code})
"""


class Cloud:
    """Runs scripts with the pretended programs first on the PATH; `calls` are the arguments of each, in order."""

    def __init__(self, home: Path, hosts: int, preemptions: int, code: int):
        self.home, self.log = home, home / "log"
        (home / "state").write_text("ABSENT")
        (home / "preemptions").write_text(str(preemptions))
        self.log.touch()
        bodies = {
            "gcloud": GCLOUD.format(home=str(home), hosts=hosts),
            "uv": UV,
            "lvit": LVIT.format(code=code),
        }
        for name in (*bodies, "sleep", "sudo", "gcsfuse", "kubectl", "sky"):
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(
                RECORD.format(python=sys.executable, log=str(self.log), name=name) + bodies.get(name, "")
            )
            program.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess:
        """Runs a script to its end."""
        env = os.environ | {"PATH": f"{self.home / 'bin'}:/usr/bin:/bin", "HOME": str(self.home), "USER": "me"}
        return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of a program."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [argv for program, *argv in lines if program == name]


@pytest.fixture
def cloud(tmp_path):
    """Makes a Cloud: cloud(hosts=1, preemptions=0, code=0), the last being what `lvit` exits with."""

    def make(hosts: int = 1, preemptions: int = 0, code: int = 0) -> Cloud:
        return Cloud(tmp_path, hosts, preemptions, code)

    return make
