"""A pretended cloud: `gcloud`, `lvit` and what a worker needs, as programs that write down their arguments."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
"""
# A slice that is absent, made, given (or failed), preempted so many times, and deleted; commands run in a shell, as ssh
# would. `fail` names the calls that go wrong: of those with a word in them the first, the second and so on.
GCLOUD = """
import pathlib, subprocess
home = pathlib.Path({home!r})
state, left = home / "state", home / "preemptions"
argv = sys.argv[1:]
def put(path, text):  # at once, for those that read it at the same time
    whole = path.with_suffix(f".{{os.getpid()}}")
    whole.write_text(text)
    whole.replace(path)
for word, numbers in {fail!r}.items():
    if word in argv:
        with open(home / f"count-{{word}}", "ab", buffering=0) as count:
            count.write(b".")
            number = count.tell()  # where this very byte ends, whatever others write at the same time
        if number in numbers and word == "ssh":
            sys.exit(255)
        if number in numbers:
            sys.exit("ERROR: PERMISSION_DENIED: denied on 'locations/nowhere' (or it may not exist)")
flags = dict(arg[2:].split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)
now = state.read_text()
if "queued-resources" in argv and "describe" in argv or "list-instances" in argv:
    if now == "ABSENT":
        sys.exit("ERROR: NOT_FOUND: it was not found")
    if "describe" in argv:
        print(now)
        print("Updates are available for some components.", file=sys.stderr)
    else:
        status = {{"ACTIVE": "RUNNING", "SUSPENDED": "TERMINATED", "WAITING": "PROVISIONING"}}[now]
        print("\\n".join(f"vm-{{i}}\\t{{status}}" for i in range({hosts})))
    if now == "WAITING":
        put(state, {given!r})
elif "describe" in argv:
    sys.exit("ERROR: not found")
elif "create" in argv and ("queued-resources" in argv or "managed" in argv):
    assert now == "ABSENT", now
    put(state, "WAITING")
elif "delete" in argv:
    put(state, "ABSENT")
elif "ssh" in argv:
    assert now in ("ACTIVE", "SUSPENDED"), now
    worker = flags.get("worker") or argv[argv.index("ssh") + 1].removeprefix("vm-")
    code = subprocess.run(["bash", "-c", flags["command"]], env=os.environ | {{"WORKER": worker}}).returncode
    if "run_worker" in flags["command"] and int(left.read_text()):
        put(left, str(int(left.read_text()) - 1))
        put(state, "SUSPENDED")
        sys.exit(255)
    sys.exit(code)
"""
UV = """
import pathlib
if "venv" in sys.argv:
    (pathlib.Path.home() / ".lvit" / "bin").mkdir(parents=True, exist_ok=True)
"""
LVIT = """
import time
code = {codes}[int(os.environ.get("WORKER", 0)) % len({codes})]
if code is None:
    time.sleep(600)
sys.exit(code)
"""
KUBECTL = """
if "get" in sys.argv and {jobset!r} is not None:
    print({jobset!r} if "terminalState" in sys.argv[-1] else "jobset.jobset.x-k8s.io/mine")
"""


class Cloud:
    """Runs scripts with the pretended programs first on the PATH; `calls` are the arguments of each, in order."""

    def __init__(self, home: Path, hosts: int, preemptions: int, codes: tuple, fail: dict, given: str, jobset: str):
        self.home, self.log = home, home / "log"
        (home / "state").write_text("ABSENT")
        (home / "preemptions").write_text(str(preemptions))
        self.log.touch()
        bodies = {
            "gcloud": GCLOUD.format(home=str(home), hosts=hosts, fail=fail, given=given),
            "uv": UV,
            "lvit": LVIT.format(codes=codes),
            "kubectl": KUBECTL.format(jobset=jobset),
        }
        for name in (*bodies, "sleep", "sudo", "gcsfuse", "sky"):
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(
                RECORD.format(python=sys.executable, log=str(self.log), name=name) + bodies.get(name, "")
            )
            program.chmod(0o755)

    def start(self, script: str) -> subprocess.Popen:
        """Starts a script in a session of its own, as a terminal would."""
        env = os.environ | {"PATH": f"{self.home / 'bin'}:/usr/bin:/bin", "HOME": str(self.home), "USER": "me"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(["bash", "-c", script], env=env, start_new_session=True, **pipes)

    def run(self, script: str) -> subprocess.CompletedProcess:
        """Runs a script to its end."""
        process = self.start(script)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def state(self) -> str:
        """What became of the slice."""
        return (self.home / "state").read_text()

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of a program."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [argv for program, *argv in lines if program == name]


@pytest.fixture
def cloud(tmp_path):
    """Makes a Cloud.

    hosts: how many machines a group has; preemptions: how many starts end in one; codes: what `lvit` exits with on
    each worker (None: it never does); fail: {word of a gcloud call: which of those go wrong}; given: the state after
    waiting; jobset: terminal state of the JobSet that is there.
    """

    def make(hosts=1, preemptions=0, codes=(0,), fail=None, given="ACTIVE", jobset=None) -> Cloud:
        return Cloud(tmp_path, hosts, preemptions, codes, fail or {}, given, jobset)

    return make
