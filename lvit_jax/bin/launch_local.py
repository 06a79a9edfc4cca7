"""`lvit launch --on=local`: several processes of one run on this machine, started, watched and ended together."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

GRACE = 30.0  # seconds that the others have to leave after one has failed


class Planned(NamedTuple):
    """One process: its command, as a person types it, and what it adds to the environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


def plan(train: Sequence[str], processes: int, devices: int | None) -> list[Planned]:
    """The processes of a run that meet at a free port of this machine.

    Args:
      train: ['lvit', 'train', ..., '--distributed'].
      devices: CPU devices that each pretends to have; None: whatever there is.
    """
    added = {}
    if devices is not None:
        forced = f"--xla_force_host_platform_device_count={devices}"
        added = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()}
    meet = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
    return [Planned([*train, *meet, f"--process={i}"], added) for i in range(processes)]


def free_port() -> int:
    """A port that is free together with the next one: the first is to meet at, the second is for JAX."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("", port + 1))
                return port


def spell(planned: Planned) -> str:
    """A process as a line for a shell; all but the last of them are to be started in the background."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in planned.environment.items()]
    return " ".join([*settings, shlex.join(planned.command)])


def run(planned: Sequence[Planned], environment: Mapping[str, str], grace: float = GRACE) -> int:
    """Starts all, passes their output on with the number of the process before each line, and waits for all.

    Ctrl-C and SIGTERM reach every process as SIGTERM, on which a run saves; a second one kills them. When one fails,
    the others are told to stop and killed after `grace` seconds.

    Returns:
      0, or the exit code of the process that failed first (128 + n where signal n ended it).
    """
    processes: list[subprocess.Popen] = []
    threads: list[threading.Thread] = []
    try:
        with _forwarded(processes):
            for number, one in enumerate(planned):
                processes.append(_start(one, environment))
                threads += _relay(number, processes[-1])
            code = _wait(processes, grace)
    finally:
        _tell(processes, signal.SIGKILL)
    for thread in threads:
        thread.join()
    return code if code >= 0 else 128 - code


def _start(one: Planned, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts a process; `lvit COMMAND` is the one of this very Python, whatever the PATH says."""
    name, *rest = one.command
    command = [sys.executable, "-m", f"lvit_jax.bin.{rest[0]}", *rest[1:]] if name == "lvit" else [name, *rest]
    return subprocess.Popen(
        command,
        env={**environment, **one.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # or Ctrl-C would reach it twice
    )


def _relay(number: int, process: subprocess.Popen) -> list[threading.Thread]:
    streams = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    threads = [threading.Thread(target=_copy, args=(number, *pair), daemon=True) for pair in streams]
    for thread in threads:
        thread.start()
    return threads


def _copy(number: int, source: IO[bytes], target: IO[str]) -> None:
    for line in source:
        target.write(f"[{number}] {line.decode(errors='replace').rstrip()}\n")
        target.flush()


def _wait(processes: Sequence[subprocess.Popen], grace: float) -> int:
    """Until all have left: 0, or the return code of the first that failed."""
    code, deadline = 0, float("inf")
    while None in [process.poll() for process in processes]:  # a list: every one of them is asked
        if not code:
            code = _failed(processes)
            if code:
                print(f"process {_number(processes)} failed with {code}; ending the others", file=sys.stderr)
                _tell(processes, signal.SIGTERM)
                deadline = time.monotonic() + grace
        if time.monotonic() > deadline:
            _tell(processes, signal.SIGKILL)
        time.sleep(0.05)
    return code or _failed(processes)


def _failed(processes: Sequence[subprocess.Popen]) -> int:
    return next((process.returncode for process in processes if process.returncode), 0)


def _number(processes: Sequence[subprocess.Popen]) -> int:
    return next(number for number, process in enumerate(processes) if process.returncode)


def _tell(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to every process that is still there, and to what it started."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


@contextlib.contextmanager
def _forwarded(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM ask the processes to save and leave (SIGTERM); from the second on they kill."""
    seen: list[int] = []

    def forward(number: int, _: object) -> None:
        seen.append(number)
        _tell(processes, signal.SIGTERM if len(seen) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
