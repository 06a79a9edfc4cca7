"""The one training loop."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
import optax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lvit_jax.errors import InputError, Stopped
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import Checkpoints, restore
from lvit_jax.training.chips import peak_flops
from lvit_jax.training.clock import Clock
from lvit_jax.training.flops import count_flops
from lvit_jax.training.optim import Schedule
from lvit_jax.training.report import Report, say
from lvit_jax.training.step import make_step
from lvit_jax.types import Batch, Eval, Objective, TrainState


class Run(NamedTuple):
    """Everything that `fit` needs to know; build.py makes it from a config."""

    objective: Objective
    tx: optax.GradientTransformation
    schedule: Schedule  # step -> learning rate, to report it
    batches: Callable[
        [int], Iterator[dict[str, np.ndarray]]
    ]  # step -> this process's rows of batches step, step+1, ...
    evals: tuple[Eval, ...]
    mesh: Mesh
    init: Callable[[], TrainState]  # the state at step 0 on the mesh, loaded weights and teacher in it
    workdir: epath.PathLike
    steps: int
    seed: int
    batch_size: int  # images per step over all processes
    accumulate: int = 1
    rules: mesh_lib.Rules = ()  # sharding of parameters, before that by shape (`mesh.spread`)
    save_every: int = 1000
    keep: int = 2
    log_every: int = 50
    tensorboard: bool = True
    profile: tuple[int, int] | None = None  # (first step >= 2, how many) to trace into workdir/profile


class NonFinite(Stopped):
    """The loss or the gradient norm of a step is not finite: nothing of that step has been saved."""

    def __init__(self, step: int, what: str, value: float):
        super().__init__(f"step {step}: {what} is {value}; stopped, the last good checkpoint stays")
        self.step, self.what = step, what


def fit(run: Run) -> TrainState:
    """Trains to `run.steps` from the latest good checkpoint of `run.workdir`, or from `run.init()`.

    The state after any step is a function of the run alone: stopped and started again, it comes out bit by bit as if
    it had never stopped. A run that is already finished says so and does nothing. One that is to be preempted (a
    SIGTERM to one of its processes, where `jax.distributed` runs) saves in all of them the same step and returns early.

    Raises:
      NonFinite: a loss or gradient norm that is not finite; the checkpoint before it stays the last.
      InputError: intervals below 1, a batch that does not divide over the devices, checkpoints of another model.
      Stopped: there are checkpoints, and none of them is readable.
    """
    check_intervals(run)
    mesh_lib.check_batch(run.batch_size, run.mesh, run.accumulate)
    clock = Clock(run.batch_size, run.steps, run.mesh.size)
    state = restore(run.workdir, run.init())
    start = int(state.step)
    if start >= run.steps:
        say(f"{run.workdir}: finished at step {start}, nothing to do")
        return state
    if start:
        say(f"{run.workdir}: going on from step {start}")
    report = Report(run.workdir, start, run.steps, run.tensorboard)
    with Checkpoints(run.workdir, run.keep) as checkpoints, report, ThreadPoolExecutor(1) as watcher:
        return _train(run, state, checkpoints, _Meter(run, start, clock, report, watcher))


def check_intervals(run: Run) -> None:
    """Raises InputError for an interval below 1, or a `profile` that is no (first step, how many)."""
    intervals = {
        "log.every_steps": run.log_every,
        "checkpoint.every_steps": run.save_every,
        "checkpoint.keep": run.keep,
    }
    intervals |= {f"eval.every ({evaluation.name})": evaluation.every for evaluation in run.evals}
    for key, value in intervals.items():
        if value < 1:
            raise InputError(f"{key}={value}; it must be at least 1")
    if run.profile is None:
        return
    pair = isinstance(run.profile, tuple | list) and len(run.profile) == 2
    if not pair or not all(type(number) is int for number in run.profile) or run.profile[0] < 2 or run.profile[1] < 1:
        raise InputError(f"log.profile={run.profile}; it must be (first step, at least 2; how many, at least 1)")


def _train(run: Run, state: TrainState, checkpoints: Checkpoints, meter: "_Meter") -> TrainState:
    """Steps start+1 to run.steps; step n is the n-th update, and the state after it has `step` n."""
    step = mesh_lib.jit_step(run.mesh, run.objective, run.tx, state, run.accumulate, run.rules)
    start, clock = int(state.step), meter.clock
    seed = jax.device_put(np.uint32(run.seed % 2**32), mesh_lib.replicated(run.mesh))
    batches = run.batches(start)
    for n in range(start + 1, run.steps + 1):
        with clock.fetching():
            batch = mesh_lib.put(run.mesh, meter.host(next(batches)))
        if n == start + 1:
            clock.compare(_ideal(run, state, batch))
        state, metrics = step(state, batch, seed)
        meter.push(n, metrics)
        last = n == run.steps
        if last or n % run.save_every == 0:
            meter.flush()  # raises where this step must not be saved
            with clock.spending("checkpoint"):
                checkpoints.save(n, state)
        if not last and multihost_utils.reached_preemption_sync_point(n):
            _leave(run, n, state, meter, checkpoints)
            return state
        for evaluation in run.evals:
            if last or n % evaluation.every == 0:
                meter.flush()
                with clock.spending("evaluation"):
                    meter.report.evaluation(evaluation.name, n, evaluation.run(state))
        _profile(run, start, n, state)
    return state


def _ideal(run: Run, state: TrainState, batch: Batch) -> float | None:
    """Seconds of a step at the peak of the matrix units; None on devices whose peak is not known."""
    peak = peak_flops(run.mesh.devices.flat[0].device_kind)
    if peak is None:
        return None
    step = make_step(run.objective, run.tx, run.seed, run.accumulate)
    return count_flops(step, state, batch) / (peak * run.mesh.size)


def _leave(run: Run, n: int, state: TrainState, meter: "_Meter", checkpoints: Checkpoints) -> None:
    """After step n of a run that is to be preempted, in all its processes: saves what is not saved yet."""
    if n % run.save_every:
        meter.flush()
        checkpoints.save(n, state)
    say(f"preempted: saved step {n} of {run.steps}; the same command goes on from there")


def _profile(run: Run, start: int, n: int, state: TrainState) -> None:
    """After step n: opens or closes the trace of the steps that `run.profile` asks for (not the first: it compiles)."""
    if not run.profile:
        return
    first, count = run.profile
    if n == first - 1:
        jax.profiler.start_trace(str(epath.Path(run.workdir) / "profile"))
    if start < first - 1 and n == min(first + count - 1, run.steps):
        jax.block_until_ready(state)
        jax.profiler.stop_trace()


def _finish(metrics: dict[str, jax.Array]) -> float:
    """The time at which the devices have computed what they were given; for a thread that waits beside the loop."""
    jax.block_until_ready(metrics)
    return time.perf_counter()


class _Meter:
    """Reads the metrics of a step once the next one is under way, checks that they are finite, and reports them."""

    def __init__(self, run: Run, start: int, clock: Clock, report: Report, watcher: Executor):
        self.clock, self.report = clock, report
        self._run, self._watcher, self._lr = run, watcher, jax.jit(run.schedule)
        self._lr(0)  # compiles here, not in the time of a step
        self._first = start + 1
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._window: list[dict[str, float]] = []
        self._broken = 0

    def host(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch without what is not for the devices; counts the broken images among its rows."""
        self._broken += int(np.sum(batch.get("broken", 0)))
        return {name: rows for name, rows in batch.items() if name not in ("broken", "index")}

    def push(self, n: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of step n, on their way to the host, and reads those of the step before."""
        for value in metrics.values():
            value.copy_to_host_async()
        finish = self._watcher.submit(_finish, metrics)
        self.clock.under_way(n, finish)
        if n == self._first:  # waited for: the time of the others does not count what came before them
            say(f"step {n} after {self.clock.started(n, finish.result()):.1f} s of restoring and compiling")
        previous, self._pending = self._pending, (n, metrics)
        self._read(previous)

    def flush(self) -> None:
        """Reads what is pending; afterwards the last step is known to be finite."""
        pending, self._pending = self._pending, None
        self._read(pending)

    def _read(self, item: tuple[int, dict[str, jax.Array]] | None) -> None:
        if item is None:
            return
        n, metrics = item
        values = {name: float(value) for name, value in metrics.items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise NonFinite(n, name, values[name])
        self._window.append(values)
        if n % self._run.log_every == 0 or n == self._run.steps:
            self._log(n)

    def _log(self, n: int) -> None:
        """The means over the steps since the last report, the rate of the step, and the clock's figures."""
        means = {name: float(np.mean([values[name] for values in self._window])) for name in self._window[0]}
        self._window = []
        broken = self._total(self._broken)
        self.report.train(n, means | {"lr": float(self._lr(n - 1)), "broken": broken} | self.clock.read(n))

    @staticmethod
    def _total(count: int) -> int:
        """Every process counts its own rows."""
        if jax.process_count() == 1:
            return count
        return int(np.sum(multihost_utils.process_allgather(np.int32(count))))
