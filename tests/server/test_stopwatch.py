"""What a run took is counted over all the processes that worked on it."""

import time

import pytest

from fedhealth.server.stopwatch import Stopwatch


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_pause_takes_time_and_no_processor():
    stopwatch = Stopwatch()
    time.sleep(0.1)
    found = stopwatch.read()
    assert found["wall_s"] >= 0.1
    assert found["cpu_s"] < 0.05


def test_work_takes_both():
    stopwatch = Stopwatch()
    busy(0.1)
    assert all(stopwatch.read()[key] >= 0.1 for key in ("wall_s", "cpu_s"))


def test_what_another_process_spent_is_added_and_its_start_kept():
    stopwatch = Stopwatch()
    stopwatch.go_on({"started": "2026-01-01T00:00:00+00:00", "wall_s": 1000.0, "cpu_s": 500.0})
    found = stopwatch.read()
    assert found == {
        "started": "2026-01-01T00:00:00+00:00",
        "wall_s": pytest.approx(1000, abs=1),
        "cpu_s": pytest.approx(500, abs=1),
    }
