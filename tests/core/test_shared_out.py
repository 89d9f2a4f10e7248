"""Work shared out among processes gives what it gives in one, in the order of the items."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from fedhealth.core.shared_out import LEAST, shared_out

ITEMS = list(range(5 * LEAST))

BEGINS = """
import json, os, signal, sys
from fedhealth.core.errors import Refused
from fedhealth.core.shared_out import LEAST, shared_out

ITEMS, me = list(range(5 * LEAST)), os.getpid()
"""


def in_a_process_of_its_own(code: str) -> object:
    """What `said` is in the end, where no thread is alive that a test before has left: beside one nothing is forked."""
    words = [sys.executable, "-c", f"{BEGINS}{code}\njson.dump(said, sys.stdout)"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_processes_share_the_items_and_the_results_keep_their_order():
    me, found = in_a_process_of_its_own(
        "said = me, shared_out(lambda item: (item * item, os.getpid()), ITEMS, processes=3)"
    )
    assert [square for square, _ in found] == [item * item for item in ITEMS]
    workers = {pid for _, pid in found}
    assert me in workers
    assert len(workers) == 3


@pytest.mark.parametrize(("items", "processes"), [(ITEMS[: 2 * LEAST - 1], 4), (ITEMS, 1), ([], 4)])
def test_few_items_or_one_process_are_done_here(items, processes):
    assert shared_out(lambda _: os.getpid(), items, processes=processes) == [os.getpid()] * len(items)


def test_beside_a_thread_nothing_is_forked():
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    try:
        assert set(shared_out(lambda _: os.getpid(), ITEMS, processes=3)) == {os.getpid()}
    finally:
        ends.set()
        thread.join()


def test_what_one_item_fails_of_is_raised():
    def work(item):
        if item == ITEMS[-1]:
            raise ValueError("the last")

    with pytest.raises(ValueError, match="the last"):
        shared_out(work, ITEMS, processes=2)


@pytest.mark.parametrize("ends", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_a_process_died_of_its_work_is_done_here(ends):
    assert in_a_process_of_its_own(f"""
died, theirs = os.pipe()
def work(item):
    if os.getpid() != me:
        os.write(theirs, b"x")
        {ends}
    return item

said = shared_out(work, ITEMS, processes=3), os.read(died, 9).decode()
""") == [ITEMS, "xx"]


def test_an_error_that_can_not_be_copied_between_processes_is_raised_as_it_is():
    assert in_a_process_of_its_own("""
def work(item):
    if item == ITEMS[-1]:
        raise Refused("few", rule="there must be more", found="few", remedy="Ask for more.")

try:
    shared_out(work, ITEMS, processes=2)
except Refused as refused:
    said = str(refused)
""").startswith("there must be more")


def test_where_no_process_can_be_forked_all_is_done_here(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    assert set(shared_out(lambda _: os.getpid(), ITEMS, processes=3)) == {os.getpid()}


def test_where_a_process_is_not_told_of_the_ends_of_others_the_results_are_the_same():
    found = in_a_process_of_its_own("""
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
said = shared_out(lambda item: (-item, os.getpid()), ITEMS, processes=2)
""")
    assert [number for number, _ in found] == [-item for item in ITEMS]
    assert len({pid for _, pid in found}) == 2


def test_no_process_is_left_once_this_one_fails():
    assert in_a_process_of_its_own("""
import multiprocessing, time
begun, theirs = os.pipe()
def work(item):
    if os.getpid() == me:
        os.read(begun, 1)
        raise ValueError("the first")
    os.write(theirs, b"x")
    time.sleep(60)

try:
    shared_out(work, ITEMS, processes=2)
except ValueError as error:
    said = str(error), len(multiprocessing.active_children())
""") == ["the first", 0]


def test_an_interrupt_ends_all_of_them_without_a_word():
    code = (
        "import sys, time\nfrom fedhealth.core.shared_out import shared_out\n"
        "sys.stdout.write('begun\\n'); sys.stdout.flush()\n"
        "try:\n    shared_out(lambda item: time.sleep(0.2), range(500), processes=2)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    assert running.stdout.readline() == "begun\n"
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(timeout=20)[1] == ""
    assert running.returncode == 130
