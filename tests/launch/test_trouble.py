"""The scripts where gcloud, ssh or a worker fails: no false success, no loop without end, and what is left is named."""

import contextlib
import os
import signal
import time

import pytest
from cases import CASES, printed

ALWAYS = range(1, 10_000)
WAYS = pytest.mark.parametrize("case", ["queued", "gce"])


def run(world, case, *more):
    return world.run(printed(*CASES[case], *more))


def made(world):
    return [argv for argv in world.calls("gcloud") if "create" in argv and {"queued-resources", "managed"} & set(argv)]


def given_up(world, done):
    """Ten tries with a pause between each, an error, and a line that says what may still cost money."""
    assert done.returncode == 1 and "10 of 10 in a row" in done.stderr
    assert len(world.calls("sleep")) >= 9
    last = done.stderr.splitlines()[-1]
    assert "costs money" in last and "gcloud compute" in last and " delete " in last


@pytest.mark.parametrize("call", [4, 5])
def test_a_list_of_workers_that_fails_is_no_success(call, cloud):
    """Three calls tell the state (absent, waiting, active), the next two whom to prepare and whom to start."""
    world = cloud(hosts=4, fail={"list-instances": [call]})
    assert run(world, "gce").returncode == 0
    assert len(world.calls("lvit")) == 4 and world.state() == "ABSENT" and len(made(world)) == 1


@WAYS
def test_workers_that_do_not_answer_yet_are_tried_again(case, cloud):
    world = cloud(hosts=4, fail={"ssh": range(1, 10)})
    assert run(world, case).returncode == 0
    assert len(world.calls("lvit")) == 4 and len(world.calls("sleep")) >= 3 and world.state() == "ABSENT"


@WAYS
def test_workers_that_never_answer_are_given_up(case, cloud):
    world = cloud(hosts=4, fail={"ssh": ALWAYS})
    given_up(world, run(world, case))
    assert not world.calls("lvit")


@WAYS
def test_a_delete_that_fails_is_tried_again(case, cloud):
    world = cloud(hosts=4, fail={"delete": [1, 2]})
    done = run(world, case)
    assert done.returncode == 0 and world.state() == "ABSENT" and "costs money" not in done.stderr


@WAYS
def test_a_slice_that_cannot_be_deleted_is_named(case, cloud):
    world = cloud(hosts=4, fail={"delete": ALWAYS})
    given_up(world, run(world, case))
    assert world.state() == "ACTIVE" and len(world.calls("lvit")) == 4


@pytest.mark.parametrize(("case", "word"), [("queued", "describe"), ("gce", "list-instances")])
def test_a_state_that_cannot_be_told_is_given_up(case, word, cloud):
    world = cloud(hosts=4, fail={word: ALWAYS})
    given_up(world, run(world, case))
    assert not made(world)


@WAYS
def test_a_slice_that_cannot_be_made_is_tried_again(case, cloud):
    world = cloud(hosts=4, fail={"create": [1, 2, 3]})
    assert run(world, case).returncode == 0
    assert len(world.calls("lvit")) == 4 and len(world.calls("sleep")) >= 3


@WAYS
def test_a_slice_that_can_never_be_made_is_given_up(case, cloud):
    world = cloud(hosts=4, fail={"create": ALWAYS})
    given_up(world, run(world, case))


@pytest.mark.parametrize(("case", "given"), [("queued", "FAILED"), ("queued", "SUSPENDED"), ("gce", "SUSPENDED")])
def test_slices_that_fail_before_they_are_given_count_as_starts(case, given, cloud):
    world = cloud(hosts=4, given=given)
    done = run(world, case, "--cluster.restarts=2")
    assert done.returncode == 1 and "given up after 2" in done.stderr and "costs money" not in done.stderr
    assert len(made(world)) == 3 and len(world.calls("sleep")) >= 3 and world.state() == "ABSENT"


@WAYS
@pytest.mark.parametrize("codes", [(1, 134, 2, 1), (2, 1, 1, 134)])
def test_one_worker_that_refuses_is_enough(case, codes, cloud):
    """The others fail because of it, each in its own way."""
    world = cloud(hosts=4, codes=codes)
    done = run(world, case)
    assert done.returncode == 2 and len(world.calls("lvit")) == 4
    assert "refused" in done.stderr and "costs money" in done.stderr


@WAYS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_names_what_is_left(case, number, cloud):
    world = cloud(hosts=4, codes=(None,))
    process = world.start(printed(*CASES[case]))
    deadline = time.monotonic() + 60
    while len(world.calls("lvit")) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number)  # a terminal tells the whole group
    _, err = process.communicate(timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what bash started in the background does not hear of Ctrl-C
    assert process.returncode == 128 + number and "costs money" in err and " delete " in err


def test_a_jobset_that_runs_is_left_alone(cloud):
    world = cloud(jobset="")
    done = run(world, "gke")
    assert done.returncode == 1 and "has not ended" in done.stderr and "kubectl delete jobset" in done.stderr
    assert [argv[0] for argv in world.calls("kubectl")] == ["get", "get"]


@pytest.mark.parametrize("ended", ["Completed", "Failed"])
def test_a_jobset_that_has_ended_goes_with_its_pods_before_the_next(ended, cloud):
    world = cloud(jobset=ended)
    assert run(world, "gke").returncode == 0
    calls = world.calls("kubectl")
    assert [argv[0] for argv in calls] == ["get", "get", "delete", "apply"]
    assert "--cascade=foreground" in calls[2]
