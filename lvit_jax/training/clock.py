"""Where the time of a run goes: steps, waiting for data, checkpoints, evaluations; and what share of it is useful."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future

PARTS = ("checkpoint", "evaluation")


class Clock:
    """Begins with `fit`. It goes by the times at which the devices finish steps, for the host runs ahead of them."""

    def __init__(self, batch_size: int, steps: int, devices: int):
        """Args: batch_size: images per step over all processes; steps: length of the run; devices: of all processes."""
        self._batch_size, self._steps, self._devices = batch_size, steps, devices
        self._born, self._useful, self._ideal = time.perf_counter(), 0.0, None
        self._under_way: dict[int, Future] = {}  # step -> the time at which the devices finish it
        self._step, self._since = 0, self._born
        self._spent, self._idle = dict.fromkeys(PARTS, 0.0), 0.0

    def started(self, step: int, finish: float) -> float:
        """The first step of this start ended at the time `finish`: what comes after counts. Seconds it all took."""
        self._step, self._since, self._idle = step, finish, 0.0
        return finish - self._born

    def compare(self, ideal: float | None) -> None:
        """Takes the seconds of a step at the peak of the devices' matrix units, where that is known, for `mfu`."""
        self._ideal = ideal

    def under_way(self, step: int, finish: Future) -> None:
        """A step has been dispatched; `finish` is going to hold the `time.perf_counter()` of its end."""
        self._under_way[step] = finish

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Around what fetches a batch: it is waited for from when the devices have nothing left to do."""
        start = time.perf_counter()
        yield
        if all(finish.done() for finish in self._under_way.values()):
            busy = max((finish.result() for finish in self._under_way.values()), default=start)
            self._idle += time.perf_counter() - max(start, busy)

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Around what is one of `PARTS`."""
        start = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """Figures of the steps since the last read, up to `step`, whose end is waited for.

        Returns:
          images_per_s and images_per_s_per_device, without evaluations and saving; data_wait, the share of the same
          time in which the devices waited for a batch; checkpoint_s and evaluation_s, seconds; goodput, the share of
          the time since `fit` began that steps took, without waiting (0 to 1; what is left is restoring, compiling and
          the other figures here); eta, seconds to the end of the run at the rate of these steps; mfu, model FLOPs
          utilisation, the share of the peak of the matrix units (arXiv:2204.02311, appendix B; recomputed blocks do
          count), on TPUs. All 0 where only the first step of a start is done.
        """
        finish = self._under_way[step].result()
        self._under_way = {n: future for n, future in self._under_way.items() if n >= step}
        apart = sum(self._spent.values())
        seconds, done = max(finish - self._since - apart, 1e-9), step - self._step
        idle, rate = min(self._idle, seconds), done * self._batch_size / seconds
        self._useful += seconds - idle
        figures = {
            "images_per_s": rate,
            "images_per_s_per_device": rate / self._devices,
            "data_wait": idle / seconds,
            **{f"{part}_s": spent for part, spent in self._spent.items()},
            "goodput": min(self._useful / max(finish - self._born, 1e-9), 1.0),
            "eta": (self._steps - step) * seconds / max(done, 1),
        }
        self._step, self._since, self._idle = step, finish, 0.0
        self._spent = dict.fromkeys(PARTS, 0.0)
        return figures if self._ideal is None else figures | {"mfu": done * self._ideal / seconds}
