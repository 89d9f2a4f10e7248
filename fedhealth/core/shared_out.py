"""Work on many items shared out among processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")

#: Fewer items of a few milliseconds for each are done before a process has started.
LEAST = 32

#: What a process does with each item; set as it starts.
_work: Callable[[Any], Any]


def shared_out(work: Callable[[T], R], items: Sequence[T], *, processes: int, least: int = LEAST) -> list[R]:
    """`work` of each item, in the order of the items.

    Processes are forked, so they know all that `work` refers to; items and results are copied between them. With fewer
    items than `least` for each, or beside threads, which a fork would cut off, all is done here.
    """
    processes = min(processes, len(items) // least)
    if processes < 2 or threading.active_count() > 1 or "fork" not in multiprocessing.get_all_start_methods():
        return [work(item) for item in items]
    with multiprocessing.get_context("fork").Pool(processes, _begin, (work,)) as pool:
        return pool.map(_done, items, chunksize=max(least // 4, 1))


def _begin(work: Callable[[Any], Any]) -> None:
    global _work  # noqa: PLW0603 - a forked process has one work
    _work = work
    # Whoever interrupts interrupts the process that waits, which ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _done(item: Any) -> Any:  # noqa: ANN401 - as the work
    return _work(item)
