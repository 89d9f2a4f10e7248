"""The supervisor: what ends is started again, one at a time, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.runtime.deployment import supervisor

pytestmark = pytest.mark.process

CHILD = (
    "from fedhealth.runtime.deployment.supervisor import end_with_parent; import os, sys, time, pathlib\n"
    "end_with_parent(); place = pathlib.Path(sys.argv[1])\n"
    "with (place / 'pids').open('a') as file: file.write(f'{os.getpid()}\\n')\n"
    "time.sleep(60)\n"
)
KEEPER = (
    "import sys, pathlib; from fedhealth.runtime.deployment.supervisor import Child, Supervisor\n"
    "place = pathlib.Path(sys.argv[1])\n"
    "print(Supervisor(place, [Child('one', [sys.executable, '-c', sys.argv[2], str(place)])]).run())\n"
)


def until(happened):
    deadline = time.monotonic() + 20
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def place(tmp_path):
    for name in ("state", "logs"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def keeper(place):
    process = subprocess.Popen([sys.executable, "-c", KEEPER, str(place), CHILD], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def pids(place) -> list[int]:
    return [int(line) for line in (place / "pids").read_text().split()] if (place / "pids").exists() else []


def test_a_process_that_is_killed_is_started_again_and_all_end_when_told(place, keeper):
    (first,) = until(lambda: pids(place))
    os.kill(first, signal.SIGKILL)
    second = until(lambda: pids(place)[1:])[0]
    told = supervisor.running(place)
    assert (told["pid"], told["children"]["one"]) == (keeper.pid, {"pid": second, "starts": 2})
    with pytest.raises(SettingError, match=f"one at work \\(process {keeper.pid}\\)"), supervisor.held(place):
        pass
    assert supervisor.stop(place)
    assert keeper.communicate(timeout=10)[0] == "SIGTERM\n"
    assert not is_alive(second)
    assert (supervisor.running(place), supervisor.stop(place)) == ({}, False)
    assert "one ended with -9, starts again in 0.3 s" in (place / "logs" / "one.log").read_text()


def test_what_it_started_ends_with_a_supervisor_that_is_killed(place, keeper):
    (child,) = until(lambda: pids(place))
    keeper.kill()
    until(lambda: not is_alive(child))
    assert supervisor.running(place) == {}


def test_a_folder_that_was_not_made_is_refused(tmp_path):
    with pytest.raises(SettingError, match="must have been made by init"), supervisor.held(tmp_path):
        pass


def test_the_unit_runs_without_root_and_writes_to_the_folder_alone(tmp_path):
    unit = supervisor.systemd_unit("hospital elm", ["site", "start"], tmp_path)
    for line in ("User=fedhealth", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert line in unit.splitlines()
    assert f"ReadWritePaths={tmp_path}" in unit
    assert f"-m fedhealth site start {tmp_path}" in unit
