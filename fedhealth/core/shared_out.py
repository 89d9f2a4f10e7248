"""Work on many items shared out among processes of this machine."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.aside import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")

#: Fewer items of a few milliseconds for each are done before a process has started.
LEAST = 32


def shared_out(work: Callable[[T], R], items: Sequence[T], *, processes: int, least: int = LEAST) -> list[R]:
    """`work` of each item, in the order of the items: every so many-th by this process, the others by those beside it.

    With fewer items than `least` for each, or where no process can be forked, all is done here; so is, once more, what a
    process died or failed of, which raises it.
    """
    processes = max(min(processes, len(items) // least), 1)
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(Aside(partial(_each, work, items[first::processes]))) for first in range(1, processes)
        ]
        shares = [_each(work, items[::processes]), *(other.result() for other in others)]
    return [shares[place % processes][place // processes] for place in range(len(items))]


def _each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]
