"""The stopwatch: what a run took, over all the processes that worked on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Stopwatch:
    """Seconds of wall time and of processor time, from when the study starts in each process.

    A checkpoint carries what was spent until it was written, and whoever goes on from there
    adds to that. So the sum is what the results cost: it holds each round once. It does NOT
    hold the start of Python and the loading of hospitals before the study starts, the pauses
    between processes, or what a process did after its last checkpoint before it was stopped,
    which nobody can know after kill -9 and which the next one does again.

    Attributes:
        started: when the first process started the study, in UTC.
    """

    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _wall_at: float = field(default_factory=time.perf_counter)
    _cpu_at: float = field(default_factory=time.process_time)

    def read(self) -> dict[str, Any]:
        """What was spent until now: started, wall_s, cpu_s (user and system, all threads)."""
        return {
            "started": self.started,
            "wall_s": time.perf_counter() - self._wall_at,
            "cpu_s": time.process_time() - self._cpu_at,
        }

    def go_on(self, before: Mapping[str, Any]) -> None:
        """Count on from what another process had spent by its last checkpoint."""
        self.started = before["started"]
        self._wall_at -= before["wall_s"]
        self._cpu_at -= before["cpu_s"]
