"""Where the time of a run goes: steps, waiting for data, checkpoints, evaluations; and what share of it is useful."""

import contextlib
import time
from collections.abc import Iterator

PARTS = ("data", "checkpoint", "evaluation")


class Clock:
    """Begins with a start of a run, before anything is loaded or compiled."""

    def __init__(self, batch_size: int, steps: int, devices: int):
        """Args: batch_size: images per step over all processes; steps: length of the run; devices: of all processes."""
        self._batch_size, self._steps, self._devices = batch_size, steps, devices
        self._born, self._useful, self._ideal = time.perf_counter(), 0.0, None
        self.begin(0)

    def begin(self, step: int) -> None:
        """Counts from now, when `step` steps are done."""
        self._step, self._since = step, time.perf_counter()
        self._spent = dict.fromkeys(PARTS, 0.0)

    def age(self) -> float:
        """Seconds since this start of the run."""
        return time.perf_counter() - self._born

    def compare(self, ideal: float | None) -> None:
        """Takes the seconds of a step at the peak of the devices' matrix units, where that is known, for `mfu`."""
        self._ideal = ideal

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Around what is one of `PARTS`: it fetches a batch, starts to save, or evaluates."""
        start = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """Figures of the steps since the last read.

        Returns:
          images_per_s and images_per_s_per_device, without evaluations and saving; data_wait, a share of the same time;
          checkpoint_s and evaluation_s, seconds; goodput, the share of the time since the start of the run that its
          steps took, without waiting (0 to 1; what is left is loading, compiling and the other figures here); eta,
          seconds to the end of the run at the rate of these steps; mfu, model FLOPs utilisation, the share of the
          peak of the matrix units (arXiv:2204.02311, appendix B; recomputed blocks do count), on TPUs.
        """
        apart = self._spent["checkpoint"] + self._spent["evaluation"]
        seconds = max(time.perf_counter() - self._since - apart, 1e-9)
        done = max(step - self._step, 1)
        rate = done * self._batch_size / seconds
        self._useful += max(seconds - self._spent["data"], 0.0)
        figures = {
            "images_per_s": rate,
            "images_per_s_per_device": rate / self._devices,
            "data_wait": min(self._spent["data"] / seconds, 1.0),
            "checkpoint_s": self._spent["checkpoint"],
            "evaluation_s": self._spent["evaluation"],
            "goodput": self._useful / self.age(),
            "eta": (self._steps - step) * seconds / done,
        }
        self.begin(step)
        return figures if self._ideal is None else figures | {"mfu": done * self._ideal / seconds}
