"""Work that a forked process of this machine does beside this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from types import TracebackType

R = TypeVar("R")


class Aside(Generic[R]):
    """What `work` gives, which another process finds out while this one does something else.

    Wherever the other process can't be forked, dies or fails, `result` does the work here: what befell the other is then
    told as if there had been none. It knows all that `work` refers to; what that gives is copied. None is forked beside
    threads, which a fork would cut off, nor on macOS, whose own libraries may hang after one.
    """

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._answer: Connection | None = None
        self._process: BaseProcess | None = None

    def __enter__(self) -> Aside[R]:
        """Begin the work, where that can be done aside."""
        if threading.active_count() > 1 or not sys.platform.startswith("linux"):
            return self
        context = multiprocessing.get_context("fork")
        # Too many processes or open files are no reason to end.
        with contextlib.suppress(OSError):
            self._answer, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
            # An interrupt as it begins would have the other process tell of it too.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
                self._process = process
            finally:
                theirs.close()
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the other process, whatever it does."""
        if self._answer is not None:
            self._answer.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def is_ready(self) -> bool:
        """Whether `result` waits for no other process."""
        return self._process is None or self._answer is None or self._answer.poll()

    def result(self) -> R:
        """What the work gives.

        Raises:
            Exception: what the work raises.
        """
        if self._process is not None and self._answer is not None:
            with contextlib.suppress(EOFError, OSError):
                found: R = self._answer.recv()
                return found
        return self._work()


def _serve(theirs: Connection, work: Callable[[], object]) -> None:
    """In the other process: send what the work gives, or nothing, and end."""
    try:
        # Whoever interrupts ends it without a word.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.send(work())
    finally:
        # Not the interpreter's own end: what the parent registered for that is the parent's.
        os._exit(0)
