"""Work shared out among processes gives what it gives in one, in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fedhealth.core.errors import Refused
from fedhealth.core.shared_out import LEAST, shared_out

ITEMS = list(range(5 * LEAST))


def test_processes_share_the_items_and_the_results_keep_their_order():
    found = shared_out(lambda item: (item * item, os.getpid()), ITEMS, processes=3)
    assert [square for square, _ in found] == [item * item for item in ITEMS]
    workers = {pid for _, pid in found}
    assert os.getpid() in workers
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


@pytest.mark.parametrize("ends", [lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)])
def test_what_a_process_died_of_its_work_is_done_here(ends):
    me = os.getpid()
    assert shared_out(lambda item: item if os.getpid() == me else ends(), ITEMS, processes=3) == ITEMS


def test_an_error_that_can_not_be_copied_between_processes_is_raised_as_it_is():
    def work(item):
        if item == ITEMS[-1]:
            raise Refused("few", rule="there must be more", found="few", remedy="Ask for more.")

    with pytest.raises(Refused, match="there must be more"):
        shared_out(work, ITEMS, processes=2)


def test_where_no_process_can_be_forked_all_is_done_here(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    assert set(shared_out(lambda _: os.getpid(), ITEMS, processes=3)) == {os.getpid()}


def test_where_a_process_is_not_told_of_the_ends_of_others_the_results_are_the_same():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert shared_out(lambda item: -item, ITEMS, processes=2) == [-item for item in ITEMS]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_process_is_left_once_this_one_fails():
    def work(item):
        if item == 0:
            raise ValueError("the first")
        time.sleep(60)

    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="the first"):
        shared_out(work, ITEMS, processes=3)
    assert set(multiprocessing.active_children()) <= before


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
