"""Where the time of a run goes; the clock's own time is set here, not waited for."""

import pytest

from lvit_jax.training import clock as clock_lib
from lvit_jax.training.clock import Clock


@pytest.fixture
def passing(monkeypatch):
    """passing(seconds) lets time pass."""
    now = [100.0]
    monkeypatch.setattr(clock_lib.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def test_what_a_second_went_into(passing):
    clock = Clock(batch_size=10, steps=20, devices=2)
    passing(7.0)  # loading and compiling
    clock.begin(1)
    for part, seconds in {"data": 1.0, "checkpoint": 0.5, "evaluation": 2.0}.items():
        with clock.spending(part):
            passing(seconds)
    passing(3.0)  # the steps themselves
    clock.compare(0.25)
    figures = clock.read(5)
    assert figures["mfu"] == pytest.approx(4 * 0.25 / 4.0)
    assert figures["images_per_s"] == pytest.approx(4 * 10 / 4.0)
    assert figures["images_per_s_per_device"] == pytest.approx(5.0)
    assert figures["data_wait"] == pytest.approx(1 / 4)
    assert (figures["checkpoint_s"], figures["evaluation_s"]) == pytest.approx((0.5, 2.0))
    assert figures["goodput"] == pytest.approx(3.0 / 13.5)
    assert figures["eta"] == pytest.approx(15 * 1.0)


def test_each_read_is_of_its_own_steps_and_goodput_of_all(passing):
    clock = Clock(batch_size=10, steps=20, devices=1)
    clock.begin(0)
    with clock.spending("data"):
        passing(5.0)
    assert clock.read(1)["goodput"] == 0
    passing(5.0)
    figures = clock.read(2)
    assert (figures["data_wait"], figures["goodput"]) == pytest.approx((0.0, 0.5))
    assert "mfu" not in figures  # of devices whose peak nobody knows
