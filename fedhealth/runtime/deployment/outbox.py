"""The outbox: the last answers of a hospital, until it is certain that they were taken.

A question that comes again, since its answer was lost on the way, gets the same answer: it
is not worked out anew, and no patient pays twice. What lies here has passed the gate and
was on its way out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.core.private_file import write_private

if TYPE_CHECKING:
    from pathlib import Path

#: Answers kept: one for each run that may be under way at a time, and some to spare.
MOST_KEPT = 4


@dataclass(frozen=True, slots=True)
class Outbox:
    """A folder with one file an answer, named for the first message that asked."""

    folder: Path

    def keep(self, first: str, content: bytes) -> None:
        """Keep an answer; the oldest beyond `MOST_KEPT` go."""
        write_private(self._file(first), content)
        kept = sorted(self.folder.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in kept[MOST_KEPT:]:
            path.unlink(missing_ok=True)

    def kept(self, first: str) -> bytes | None:
        """The answer to a message; None where it is not kept."""
        path = self._file(first)
        return path.read_bytes() if path.is_file() else None

    def _file(self, first: str) -> Path:
        # A message's id is somebody else's word.
        return self.folder / (first if re.fullmatch(r"[0-9a-f]{64}", first) else "0" * 64)
