"""Blocks of hospitals on workers of Ray: the bits of one process, whoever works, and one line where one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

STUDY = (
    "simulate", "experiment=smoke", "sites=generated", "sites.count=64", "sites.patients=100", "run.report=false",
    "run.baselines=[]",
)  # fmt: skip


def fedhealth(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fedhealth", *STUDY, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> dict[int, str]:
    """By id, the commands of the processes that descend from one."""
    said = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in said.splitlines()]
    everybody = {int(pid): (int(parent), args) for pid, parent, state, args in rows if not state.startswith("Z")}
    found = {pid}
    while more := {child for child, (parent, _) in everybody.items() if parent in found} - found:
        found |= more
    return {child: everybody[child][1] for child in found - {pid} if child in everybody}


def alive(pid: int) -> bool:
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(said.strip()) and not said.strip().startswith("Z")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    _, wrong = fedhealth("rounds=2", "runtime.processes=1", f"run.folder={folder}").communicate(timeout=200)
    assert not wrong
    return folder


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_on_workers_of_ray_gives_the_bits_of_one_in_this_process(here, tmp_path, workers):
    there = tmp_path / "there"
    process = fedhealth("rounds=2", "runtime.executor=ray", f"runtime.processes={workers}", f"run.folder={there}")
    _, wrong = process.communicate(timeout=200)
    assert (process.returncode, wrong) == (0, "")
    for name in ("model.safetensors", "results.json", "statistics.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    # Each worker's hospitals log into the run's one log.
    assert len((here / "run.log").read_text().splitlines()) == len((there / "run.log").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("how", ["a worker is killed", "the user interrupts"])
def test_an_end_before_the_end_is_one_line_and_leaves_nothing_running(tmp_path, how):
    process = fedhealth("rounds=5000", "runtime.executor=ray", "runtime.processes=2", f"run.folder={tmp_path / 'run'}")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoints/*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # A worker writes its name anew with each thing that it is asked to do, and may be seen without.
    workers: list[int] = []
    while len(workers) < 2:
        family = children(process.pid)
        workers = [pid for pid, command in family.items() if command.startswith("ray::_Worker")]
        assert time.monotonic() < deadline, family
    if how == "a worker is killed":
        os.kill(workers[0], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=60)
    # The last line is why; the one before it says how to go on.
    assert len(wrong.splitlines()) <= 2
    assert "rounds are kept" in wrong
    if how == "a worker is killed":
        assert process.returncode == 1
        assert "a worker of Ray must live to the end" in wrong.splitlines()[-1]
    deadline = time.monotonic() + 10
    while left := [pid for pid in family if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
