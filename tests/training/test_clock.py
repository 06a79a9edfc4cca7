"""Where the time of a run goes; the clock's own time is set here, not waited for."""

from concurrent.futures import Future

import pytest

from lvit_jax.training import clock as clock_lib
from lvit_jax.training.clock import Clock


@pytest.fixture
def passing(monkeypatch):
    """passing(seconds) lets time pass; passing.now is the time."""

    def sleep(seconds):
        sleep.now += seconds

    sleep.now = 100.0
    monkeypatch.setattr(clock_lib.time, "perf_counter", lambda: sleep.now)
    return sleep


def at(time=None):
    """The future end of a step; None: not yet."""
    future = Future()
    if time is not None:
        future.set_result(time)
    return future


def test_what_a_second_went_into(passing):
    clock = Clock(batch_size=10, steps=20, devices=2)
    passing(7.0)  # restoring and compiling
    assert clock.started(1, passing.now) == 7.0
    clock.under_way(1, at(passing.now))
    for part, seconds in {"checkpoint": 0.5, "evaluation": 2.0}.items():
        with clock.spending(part):
            passing(seconds)
    with clock.fetching():  # the devices have nothing to do
        passing(1.0)
    passing(3.0)  # the steps themselves
    clock.under_way(5, at(passing.now))
    passing(9.0)  # until it is read: the host may be late
    clock.compare(0.25)
    figures = clock.read(5)
    assert figures["mfu"] == pytest.approx(4 * 0.25 / 4.0)
    assert figures["images_per_s"] == pytest.approx(4 * 10 / 4.0)
    assert figures["images_per_s_per_device"] == pytest.approx(5.0)
    assert figures["data_wait"] == pytest.approx(1 / 4)
    assert (figures["checkpoint_s"], figures["evaluation_s"]) == pytest.approx((0.5, 2.0))
    assert figures["goodput"] == pytest.approx(3.0 / 13.5)
    assert figures["eta"] == pytest.approx(15 * 1.0)


def test_a_batch_is_waited_for_only_when_the_devices_are_idle(passing):
    clock = Clock(batch_size=10, steps=20, devices=1)
    clock.started(0, passing.now)
    busy = at()
    clock.under_way(1, busy)
    with clock.fetching():  # 5 s, and step 1 is still running
        passing(5.0)
    busy.set_result(passing.now + 1.0)
    clock.under_way(2, at(passing.now + 3.0))
    with clock.fetching():  # 4 s, of which the last has nothing to do
        passing(4.0)
    clock.under_way(3, at(passing.now + 1.0))
    figures = clock.read(3)
    assert figures["data_wait"] == pytest.approx(1.0 / 10.0)
    assert figures["goodput"] == pytest.approx(9.0 / 10.0)


def test_each_read_is_of_its_own_steps(passing):
    clock = Clock(batch_size=10, steps=20, devices=1)
    start = passing.now
    clock.started(0, start)
    for step, seconds in {1: 2.0, 2: 6.0}.items():
        clock.under_way(step, at(start + seconds))
    first, second = clock.read(1), clock.read(2)
    assert (first["images_per_s"], second["images_per_s"]) == (5.0, 2.5)
    assert "mfu" not in second  # of devices whose peak nobody knows
