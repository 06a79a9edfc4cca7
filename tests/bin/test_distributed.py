"""Processes meet before JAX connects them: threads stand for them here."""

import argparse
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from jax._src.clusters import cloud_tpu_cluster

from lvit_jax.bin import distributed, meeting
from lvit_jax.bin.launch_local import free_port
from lvit_jax.bin.meeting import Job, meet
from lvit_jax.errors import InputError, Stopped


def outcomes(*processes, wait=5.0):
    """What `meet` does in each (job, command): None, or what it raises."""

    def run(process):
        try:
            meet(process[0], wait, process[1])
        except (InputError, Stopped) as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, processes))


def jobs(processes, *, port=None):
    port = port or free_port()
    return [Job("127.0.0.1", port, processes, i) for i in range(processes)]


def test_all_come():
    assert outcomes(*[(job, ["train"]) for job in jobs(4)]) == [None] * 4


def test_one_alone_waits_for_nobody():
    assert outcomes((Job("127.0.0.1", 1, 1, 0), [])) == [None]


def test_all_that_came_are_told_who_is_missing():
    came = [(job, ["train"]) for job in jobs(4) if job.process != 2]
    came = [(job, ["lvit", "train", "--workdir=a b", "--coordinator=x:1"]) for job, _ in came]
    errors = outcomes(*came, wait=1.0)
    assert {str(error) for error in errors} == {
        "came 3 of 4 within 1 s, missing: 2; run `lvit train '--workdir=a b' --coordinator=x:1 --process=2` there"
    }
    assert {type(error) for error in errors} == {Stopped}


def test_process_0_does_not_come():
    (error,) = outcomes((jobs(2)[1], []), wait=0.5)
    assert isinstance(error, Stopped)
    assert "process 0 did not answer at 127.0.0.1:" in str(error)


def test_another_command_is_refused():
    first, second = jobs(2)
    errors = outcomes((first, ["train", "--seed=1"]), (second, ["train", "--seed=2"]))
    for error in errors:
        assert isinstance(error, InputError)
        assert "another command than process 0: --seed=1 --seed=2" in str(error)


def test_the_same_number_twice_is_refused():
    first, second, _ = jobs(3)
    errors = outcomes((first, []), (second, []), (second, []))
    assert all("one too many" in str(error) for error in errors)


def test_other_counts_are_refused():
    first, second = jobs(2)
    errors = outcomes((first, []), (second._replace(processes=3), []))
    assert all("counts 3 processes, process 0 counts 2" in str(error) for error in errors)


def test_a_stranger_at_the_port_does_no_harm(monkeypatch):
    monkeypatch.setattr(meeting, "SILENCE", 0.2)
    first, second = jobs(2)
    with ThreadPoolExecutor() as pool:
        first_one = pool.submit(outcomes, (first, []))
        time.sleep(0.2)
        with socket.create_connection((first.host, first.port)) as silent:
            for line in (b"GET / HTTP/1.1\n", b"{}\n", b"1\n", b'{"process": "1"}\n'):
                with socket.create_connection((first.host, first.port)) as loud:
                    loud.sendall(line)
            assert outcomes((second, [])) == [None]
            assert first_one.result() == [None]
            silent.close()


def test_one_that_stopped_while_it_waited_may_come_again():
    first, second, third = jobs(3)
    with ThreadPoolExecutor() as pool:
        first_one = pool.submit(outcomes, (first, []))
        time.sleep(0.2)
        hello = {"process": 1, "processes": 3, "host": "h", "command": []}
        with socket.create_connection((first.host, first.port)) as early:
            early.sendall(json.dumps(hello).encode() + b"\n")
            time.sleep(0.2)
        assert outcomes((second, []), (third, [])) == [None, None]
        assert first_one.result() == [None]


def test_those_that_come_after_a_mismatch_hear_of_it():
    first, second, third = jobs(3)
    with ThreadPoolExecutor() as pool:
        first_one = pool.submit(outcomes, (first, ["a"]), (second, ["b"]))
        time.sleep(0.7)
        (late,) = outcomes((third, ["a"]))
        assert "another command" in str(late)
        assert all("another command" in str(error) for error in first_one.result())


def test_a_port_in_use_is_one_line():
    first = jobs(2)[0]
    with socket.create_server(("", first.port + 1)):
        (error,) = outcomes((first, []))
    assert f"port {first.port + 1} is not free" in str(error)
    assert isinstance(error, Stopped)  # a second try may find it free


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2"], "--coordinator is missing"),
        (["--coordinator=here:1", "--processes=2"], "--process is missing"),
        (["--coordinator=here", "--processes=2", "--process=0"], "no HOST:PORT"),
        (["--coordinator=here:70000", "--processes=2", "--process=0"], "port from 1 to 65534"),
        (["--coordinator=here:8²", "--processes=2", "--process=0"], "no HOST:PORT"),
        (["--distributed", "--wait=nan"], "--wait=nan is no number"),
        (["--distributed", "--wait=-5"], "--wait=-5 is no number"),
        (["--wait=5"], "add --distributed"),
        (["--coordinator=here:1", "--processes=0", "--process=0"], "the least is 1"),
        (["--coordinator=here:1", "--processes=2", "--process=2"], "outside 0 to 1"),
    ],
)
def test_flags_that_name_no_job(flags, message):
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    with pytest.raises(InputError, match=message):
        distributed.check_flags(parser.parse_args(flags))


def test_without_a_cluster_the_flags_are_named():
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    with pytest.raises(InputError, match="finds no cluster here"):
        distributed.connect(parser.parse_args(["--distributed"]))


def test_a_pod_is_found(monkeypatch):
    """What GKE sets on the workers of two TPU slices: JAX's own detection reads it."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,localhost")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name, value in {"COORDINATOR_ADDRESS": "127.0.0.1:8081", "NUM_SLICES": "2", "SLICE_ID": "1"}.items():
        monkeypatch.setenv(f"MEGASCALE_{name}", value)
    job = distributed._detect(1.0)
    assert job._replace(port=0) == Job("127.0.0.1", 0, 4, 3)


def test_a_slurm_job_is_found(monkeypatch):
    job = {"JOB_ID": 4095, "STEP_NODELIST": "node[07-08]", "NTASKS": 2, "PROCID": 1, "LOCALID": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert distributed._detect(1.0) == Job("node07", 65534, 2, 1, [0])  # with the next port free for JAX


@pytest.mark.parametrize("start", [["/usr/bin/lvit", "train"], ["/x/lvit_jax/bin/train.py"]])
def test_the_command_of_all_leaves_out_ones_own_number(start):
    argv = [*start, "--process=1", "--processes=2", "--process", "1", "--workdir=x"]
    assert distributed._command(argv) == ["lvit", "train", "--processes=2", "--workdir=x"]
