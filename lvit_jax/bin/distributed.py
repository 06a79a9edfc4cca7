"""Many processes, one run: they meet over TCP, so that one which does not come is named, and then start JAX's service.

`jax.distributed.initialize` aborts the process where a host is missing and does not say which.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import socket
import sys
import time
from typing import Any, NamedTuple

from lvit_jax.errors import InputError, Stopped

LAST_PORT = 65535
HEARTBEAT = 60  # seconds of silence after which a process counts as dead, and the others end
SILENCE = 5.0  # seconds that a connection may say nothing
LAST_WORDS = 2.0  # seconds until process 0, and JAX's service with it, takes the others down
PAUSE = 0.2  # seconds between two tries to reach process 0


class Job(NamedTuple):
    """This process's place among those of a run."""

    host: str  # of process 0
    port: int  # where they meet; JAX's coordination service takes the next one
    processes: int
    process: int
    devices: list[int] | None = None  # of this host's, where it runs several processes; None for all


_joined: Job | None = None  # this process's job, once it is connected; kept here so that errors need not ask jax


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--distributed` and what names the cluster where it cannot be found out."""
    group = parser.add_argument_group("several processes", "one per host; every one runs this same command")
    group.add_argument("--distributed", action="store_true", help="find the others (TPU pod, GKE, Slurm, Open MPI)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, instead of finding them; also PORT+1")
    group.add_argument("--processes", type=int, help="how many, with --coordinator")
    group.add_argument("--process", type=int, help="which of them this is, from 0, with --coordinator")
    group.add_argument("--wait", type=float, default=300.0, help="seconds until all must have come")


def check_flags(args: argparse.Namespace) -> Job | None:
    """The job that the flags name, or None where it is to be found out or there is none.

    Raises:
      InputError: a part of the three flags, an address without port, a number out of range.
    """
    named = {f"--{name}": getattr(args, name) for name in ("coordinator", "processes", "process")}
    missing = [flag for flag, value in named.items() if value is None]
    if len(missing) == len(named):
        return None
    if missing:
        raise InputError(f"--coordinator, --processes and --process belong together; {missing[0]} is missing")
    host, _, port = args.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) < LAST_PORT:
        raise InputError(f"--coordinator={args.coordinator} is no HOST:PORT with a port from 1 to {LAST_PORT - 1}")
    if args.processes < 1:
        raise InputError(f"--processes={args.processes}; the least is 1")
    if not 0 <= args.process < args.processes:
        raise InputError(f"--process={args.process} is outside 0 to {args.processes - 1}")
    return Job(host, int(port), args.processes, args.process)


def connect(args: argparse.Namespace) -> None:
    """Joins the other processes, before JAX is asked for anything else; does nothing without the flags.

    Raises:
      InputError: no cluster is found, or the processes do not run the same command.
      Stopped: one did not come in time; each of those that came says which.
    """
    global _joined
    job = check_flags(args)
    if not (job or args.distributed):
        return
    import jax

    job = job or _detect(args.wait)
    meet(job, args.wait, _command(sys.argv[1:]))
    jax.distributed.initialize(
        f"{job.host}:{job.port + 1}",
        job.processes,
        job.process,
        job.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(args.wait) + 1,
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    _joined = job


def _detect(wait: float) -> Job:
    # The public `initialize` finds the cluster by this very call, but does not tell before it connects.
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(wait))
    except Exception as error:  # of whichever service describes the cluster
        raise Stopped(f"the cluster cannot be found out: {type(error).__name__}: {error}") from error
    address, processes, process, devices = found
    if None in (address, processes, process):
        raise InputError(
            "--distributed finds no cluster here (TPU pod, GKE, Slurm, Open MPI); "
            "name it: --coordinator=HOST:PORT --processes=N --process=I"
        )
    host, _, port = address.rpartition(":")
    return Job(host, min(int(port), LAST_PORT - 1), processes, process, devices)


def _command(argv: list[str]) -> list[str]:
    """What every process must have been started with alike: all but its own number."""
    numbers = {i + 1 for i, arg in enumerate(argv) if arg == "--process"}
    return [arg for i, arg in enumerate(argv) if not re.match("--process(=|$)", arg) and i not in numbers]


def meet(job: Job, wait: float, command: list[str]) -> None:
    """Returns in every process once all have come; see `connect` for the errors."""
    if job.processes == 1:
        return
    hello = {"process": job.process, "processes": job.processes, "host": socket.gethostname(), "command": command}
    deadline = time.monotonic() + wait
    verdict = _gather(job, hello, deadline, wait) if job.process == 0 else _report(job, hello, deadline, wait)
    if verdict:
        raise (Stopped if verdict.startswith("came") else InputError)(verdict)


def _gather(job: Job, hello: dict[str, Any], deadline: float, wait: float) -> str:
    """Process 0: waits for the others and tells them, and itself, what came of it ('' if all is well)."""
    with _listen(job.port) as server:
        _listen(job.port + 1).close()  # JAX's service would abort where the port is taken
        peers: list[socket.socket] = []
        there: set[int] = set()
        verdict = ""
        while len(there) < job.processes - 1 and not verdict:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                peer = server.accept()[0]
            except TimeoutError:
                verdict = _missing(job, there, wait)
                break
            peer.settimeout(SILENCE)
            said = _read(peer)
            if said is None:  # no process of ours: a port scan
                peer.close()
                continue
            verdict = _compare(hello, said, there)
            peers.append(peer)
            there.add(said["process"])
        for peer in peers:
            _send(peer, {"verdict": verdict})
            peer.close()
    return verdict


def _report(job: Job, hello: dict[str, Any], deadline: float, wait: float) -> str:
    """Another process: says who it is and waits for the verdict."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((job.host, job.port), timeout=max(deadline - time.monotonic(), 1e-3)) as peer:
                _send(peer, hello)
                # Process 0 may have begun later, and then waits longer than this one.
                peer.settimeout(deadline - time.monotonic() + wait)
                answer = _read(peer)
        except OSError:
            answer = None
        if answer is not None:
            return answer["verdict"]
        time.sleep(PAUSE)
    raise Stopped(f"process 0 did not answer at {job.host}:{job.port} within {wait:g} s; is it running there?")


def _missing(job: Job, there: set[int], wait: float) -> str:
    absent = [i for i in range(1, job.processes) if i not in there]
    command = shlex.join(["lvit", *sys.argv[1:]])
    again = f"{command.replace('--process=0', f'--process={absent[0]}')}"
    names = ", ".join(map(str, absent))
    return f"came {len(there) + 1} of {job.processes} within {wait:g} s, missing: {names}; run `{again}` there"


def _compare(ours: dict[str, Any], theirs: dict[str, Any], there: set[int]) -> str:
    who = f"process {theirs['process']} on {theirs['host']}"
    if theirs["process"] in there or not 0 < theirs["process"] < ours["processes"]:
        return f"{who} is one too many: each of --process=0 to {ours['processes'] - 1} runs once"
    if theirs["processes"] != ours["processes"]:
        return f"{who} counts {theirs['processes']} processes, process 0 counts {ours['processes']}"
    if theirs["command"] != ours["command"]:
        differs = set(theirs["command"]) ^ set(ours["command"])
        return f"{who} runs another command than process 0: {' '.join(sorted(differs)) or 'another order'}"
    return ""


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise InputError(f"port {port} is not free on {socket.gethostname()}: {error.strerror}") from None


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it has gone; the heartbeat will tell
        peer.sendall(json.dumps(message).encode() + b"\n")


def _read(peer: socket.socket) -> dict[str, Any] | None:
    """One line of JSON, or None where none comes."""
    try:
        with peer.makefile() as lines:
            return json.loads(lines.readline())
    except (OSError, ValueError):
        return None


def connected() -> bool:
    """Whether this process has joined others."""
    return _joined is not None


def is_first() -> bool:
    """Whether this process speaks for all: process 0, or the only one."""
    return _joined is None or _joined.process == 0


def me() -> str:
    """'process 1: ' where there are several."""
    return f"process {_joined.process}: " if _joined else ""


def leave(code: int) -> None:
    """Ends a process of several that failed: a tidy shutdown would wait minutes for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(LAST_WORDS)
    os._exit(code)
