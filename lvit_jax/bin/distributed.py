"""Many processes, one run: they meet over TCP, so that one which does not come is named, and then start JAX's service.

`jax.distributed.initialize` aborts the process where a host is missing and does not say which.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

from lvit_jax.bin.meeting import Job, meet
from lvit_jax.errors import InputError, Stopped

LAST_PORT = 65535
HEARTBEAT = 60  # seconds of silence after which a process counts as dead, and the others end
WAIT = 300.0  # seconds until all must have come, where --wait does not say
LAST_WORDS = 2.0  # seconds until process 0, and JAX's service with it, takes the others down
_joined: Job | None = None  # this process's job, once it is connected; kept here so that errors need not ask jax


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--distributed` and what names the cluster where it cannot be found out."""
    group = parser.add_argument_group("several processes", "one per host; every one runs this same command")
    group.add_argument("--distributed", action="store_true", help="find the others (TPU pod, GKE, Slurm, Open MPI)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, instead of finding them; also PORT+1")
    group.add_argument("--processes", type=int, help="how many, with --coordinator")
    group.add_argument("--process", type=int, help="which of them this is, from 0, with --coordinator")
    group.add_argument("--wait", type=float, help=f"seconds until all must have come; {WAIT:g} if not given")


def check_flags(args: argparse.Namespace) -> Job | None:
    """The job that the flags name, or None where it is to be found out or there is none.

    Raises:
      InputError: a part of the three flags, an address without port, a number out of range.
    """
    if args.wait is not None and not 0 < args.wait < 1e6:  # nan is refused too
        raise InputError(f"--wait={args.wait:g} is no number of seconds above 0")
    named = {f"--{name}": getattr(args, name) for name in ("coordinator", "processes", "process")}
    missing = [flag for flag, value in named.items() if value is None]
    if len(missing) == len(named):
        if args.wait is not None and not args.distributed:
            raise InputError("--wait is for several processes; add --distributed")
        return None
    if missing:
        raise InputError(f"--coordinator, --processes and --process belong together; {missing[0]} is missing")
    host, _, port = args.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) < LAST_PORT:
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

    wait = WAIT if args.wait is None else args.wait
    job = job or _detect(wait)
    meet(job, wait, _command(sys.argv))
    jax.distributed.initialize(
        f"{job.host}:{job.port + 1}",
        job.processes,
        job.process,
        job.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(wait) + 1,
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
    """What every process must have been started with alike, from `lvit` or `python -m` on: all but its own number."""
    name = Path(argv[0]).stem
    start = ["lvit", name] if (Path(__file__).parent / f"{name}.py").exists() else ["lvit"]
    numbers = {i + 1 for i, arg in enumerate(argv) if arg == "--process"}
    own = [i for i, arg in enumerate(argv) if re.match("--process(=|$)", arg) or i in numbers]
    return start + [arg for i, arg in enumerate(argv) if i and i not in own]


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
