"""Runs a check in a process of its own: what it may raise, crash or hang on becomes a failed check."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

from lvit_jax.bin.doctor_finding import Finding, Patient, Result, failed
from lvit_jax.errors import InputError


def isolated(name: str, check: Callable[[Patient], Finding], patient: Patient, seconds: float) -> Result:
    """The result of a check, or a failed one if it raises, crashes, or says nothing for so many seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(check, patient, theirs), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process ends the wait
    try:
        status, message, fix = ours.recv() if ours.poll(seconds) else _silent(seconds)
    except EOFError:
        process.join(5)
        status, message, fix = failed(f"the check crashed (exit code {process.exitcode})", "see the messages above")
    process.kill()
    return Result(name, status, message, fix)


def _silent(seconds: float) -> Finding:
    fix = "see whether a disk, the network or another process on the devices hangs, and try again"
    return failed(f"no answer within {seconds:.0f} s", fix)


def _child(check: Callable[[Patient], Finding], patient: Patient, answer: Connection) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what libraries say is no part of the report
    os.dup2(silence, 2)
    try:
        answer.send(check(patient))
    except InputError as error:  # one line that says what to do
        answer.send(failed(" ".join(str(error).split()), "change what this line names"))
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        answer.send(failed(text[:500], "this is no known trouble; the error names its cause"))
