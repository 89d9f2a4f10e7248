"""The process of one command ends at once, and as any process of Python's does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WRITES = """
import atexit, sys, threading, time
from fedhealth import __main__ as process

class Loaded:
    def __del__(self):
        sys.stderr.write("taken apart\\n")

def command():
    sys.stdout.write("said\\n")
    return 3

atexit.register(lambda: sys.stdout.write("asked to run at the end\\n"))
process.main, process.loaded = command, Loaded()
"""


def ended(code: str, **more) -> subprocess.CompletedProcess[str]:
    # Unbuffered, nothing would be left to flush at the end.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", WRITES + code]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=env, **more)


def test_a_process_ends_with_the_commands_exit_code_and_runs_what_was_to_run_and_frees_nothing():
    done = ended("process.program()", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\nasked to run at the end\n", "")


def test_a_process_waits_for_a_thread_that_is_left():
    thread = "threading.Thread(target=lambda: (time.sleep(0.2), sys.stdout.write('thread\\n'))).start()\n"
    done = ended(thread + "process.program()", stdout=subprocess.PIPE)
    assert done.returncode == 3
    assert done.stdout == "said\nthread\nasked to run at the end\n"


def test_what_could_not_be_written_is_no_success():
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = ended("process.main = lambda: sys.stdout.write('lost') and 0\nprocess.program()", stdout=full)
    assert done.returncode == 120
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(("words", "code"), [(["sites", "list"], 0), (["no-such-command"], 2)])
def test_python_m_fedhealth_is_the_command(words, code):
    command = [sys.executable, "-m", "fedhealth", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert ("Galen Heart Centre" in done.stdout) == (code == 0)
