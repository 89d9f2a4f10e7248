"""Work shared out among processes gives what it gives in one, in the order of the items."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from fedhealth.core.shared_out import LEAST, shared_out

ITEMS = list(range(5 * LEAST))


def test_processes_share_the_items_and_the_results_keep_their_order():
    found = shared_out(lambda item: (item * item, os.getpid()), ITEMS, processes=3)
    assert [square for square, _ in found] == [item * item for item in ITEMS]
    workers = {pid for _, pid in found}
    assert os.getpid() not in workers
    assert 1 < len(workers) <= 3


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
