"""Processes meet over TCP before JAX connects them, so that one that does not come is named.

Process 0 listens; the others say who they are, and wait for the verdict.
"""

import contextlib
import json
import shlex
import socket
import time
from typing import Any, NamedTuple

from lvit_jax.errors import InputError, Stopped

SILENCE = 1.0  # seconds that a connection may say nothing
PAUSE = 0.2  # seconds between two tries to reach process 0
LATE = 2.0  # seconds that process 0 still answers after it has told why nothing comes of it
HELLO = {"process": int, "processes": int, "host": str, "command": list}
VERDICT = {"text": str}


class Job(NamedTuple):
    """This process's place among those of a run."""

    host: str  # of process 0
    port: int  # where they meet; JAX's coordination service takes the next one
    processes: int
    process: int
    devices: list[int] | None = None  # of this host's, where it runs several processes; None for all


def meet(job: Job, wait: float, command: list[str]) -> None:
    """Returns in every process once all have come; see `connect` for the errors."""
    if job.processes == 1:
        return
    hello = {"process": job.process, "processes": job.processes, "host": socket.gethostname(), "command": command}
    deadline = time.monotonic() + wait
    verdict = _gather(job, hello, deadline, wait) if job.process == 0 else _report(job, hello, deadline, wait)
    if verdict["text"]:
        raise (InputError if verdict["refused"] else Stopped)(verdict["text"])


def _gather(job: Job, hello: dict[str, Any], deadline: float, wait: float) -> dict[str, Any]:
    """Process 0: waits for the others and tells them, and itself, what came of it (no text if all is well)."""
    there: dict[int, socket.socket] = {}
    with _listen(job.port) as server:
        _listen(job.port + 1).close()  # JAX's service would abort where the port is taken
        verdict = None
        while verdict is None:
            verdict = _take_one(server, hello, there, deadline)
            if verdict is None and len(there) == job.processes - 1:
                verdict = {"text": ""}
            elif verdict is None and time.monotonic() >= deadline:
                verdict = {"text": _missing(hello, there, wait), "refused": False}
        for peer in there.values():
            _send(peer, verdict)
        if verdict["text"]:
            _turn_away(server, verdict)
    return verdict


def _take_one(server: socket.socket, hello: dict[str, Any], there: dict, deadline: float) -> dict[str, Any] | None:
    """Lets in the next process, if one comes within a second, and forgets those that have gone; None, or a verdict."""
    peer = _accept(server, min(1.0, deadline - time.monotonic()))
    said = peer and _read(peer, HELLO)
    for number in [number for number, other in there.items() if _gone(other)]:
        there.pop(number).close()  # stopped while it waited; it may come again
    if said is None:
        if peer:  # no process of ours: a port scan
            peer.close()
        return None
    verdict = _compare(hello, said, there)
    if verdict:
        _send(peer, verdict)
        return verdict
    there[said["process"]] = peer
    return None


def _turn_away(server: socket.socket, verdict: dict[str, Any]) -> None:
    """Tells those that come just after."""
    until = time.monotonic() + LATE
    while (left := until - time.monotonic()) > 0:
        if peer := _accept(server, left):
            _send(peer, verdict)
            peer.close()


def _accept(server: socket.socket, seconds: float) -> socket.socket | None:
    server.settimeout(max(seconds, 1e-3))
    try:
        peer = server.accept()[0]
    except TimeoutError:
        return None
    peer.settimeout(SILENCE)
    return peer


def _gone(peer: socket.socket) -> bool:
    """Whether the other end of a connection that waits for its verdict is closed."""
    peer.settimeout(0.0)
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        peer.settimeout(SILENCE)


def _report(job: Job, hello: dict[str, Any], deadline: float, wait: float) -> dict[str, Any]:
    """Another process: says who it is and waits for the verdict."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((job.host, job.port), timeout=max(deadline - time.monotonic(), 1e-3)) as peer:
                _send(peer, hello)
                # Process 0 may have begun later, and then waits longer than this one.
                peer.settimeout(deadline - time.monotonic() + wait + LATE)
                answer = _read(peer, VERDICT)
        except OSError:
            answer = None
        if answer is not None:
            return answer
        time.sleep(PAUSE)
    raise Stopped(f"process 0 did not answer at {job.host}:{job.port} within {wait:g} s; is it running there?")


def _missing(hello: dict[str, Any], there: dict[int, socket.socket], wait: float) -> str:
    absent = [i for i in range(1, hello["processes"]) if i not in there]
    named = any(arg.startswith("--coordinator") for arg in hello["command"])
    again = shlex.join([*hello["command"], *([f"--process={absent[0]}"] if named else [])])
    names = ", ".join(map(str, absent))
    return f"came {len(there) + 1} of {hello['processes']} within {wait:g} s, missing: {names}; run `{again}` there"


def _compare(ours: dict[str, Any], theirs: dict[str, Any], there: dict[int, socket.socket]) -> dict[str, Any] | None:
    """What is wrong with a process that came, if anything; refused is what no second try will mend."""
    who = f"process {theirs['process']} on {theirs['host']}"
    if theirs["processes"] != ours["processes"]:
        text = f"{who} counts {theirs['processes']} processes, process 0 counts {ours['processes']}"
        return {"text": text, "refused": True}
    if theirs["command"] != ours["command"]:
        differs = set(theirs["command"]) ^ set(ours["command"])
        text = f"{who} runs another command than process 0: {' '.join(sorted(differs)) or 'another order'}"
        return {"text": text, "refused": True}
    if theirs["process"] in there or not 0 < theirs["process"] < ours["processes"]:
        text = f"{who} is one too many: each of --process=0 to {ours['processes'] - 1} runs once"
        return {"text": text, "refused": False}  # the other may be of a start before, and on its way out
    return None


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port))
    except OSError as error:  # held by a start before, perhaps: a second try may find it free
        raise Stopped(f"port {port} is not free on {socket.gethostname()}: {error.strerror}") from None


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it has gone; the heartbeat will tell
        peer.sendall(json.dumps(message).encode() + b"\n")


def _read(peer: socket.socket, fields: dict[str, type]) -> dict[str, Any] | None:
    """One line of JSON with these fields, or None where none comes."""
    try:
        with peer.makefile() as lines:
            message = json.loads(lines.readline())
    except (OSError, ValueError):
        return None
    known = isinstance(message, dict) and all(isinstance(message.get(name), kind) for name, kind in fields.items())
    return message if known else None
