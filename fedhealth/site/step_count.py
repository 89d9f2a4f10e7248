"""The count of a study's masked steps: once it is written, it is there whatever becomes of the machine.

One line of one length, written over in place and flushed to the disk: a single flush, where a
new file that takes the old one's place needs two. The line lies in one sector, so a loss of
power leaves the old one or the new.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.core.errors import IntegrityError
from fedhealth.core.private_file import OWNER_ONLY, flush_folder

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(rb"(\d{20}) (\d{10}) (\d{2})\n")
#: Not every system flushes a file's content alone.
_flush = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class StepCount:
    """The file of the count."""

    path: Path

    def read(self) -> tuple[int, int, int]:
        """How many steps were written, and the round and stage of the last; zeros before the first.

        Raises:
            IntegrityError: it is not as it was written.
        """
        if not self.path.exists():
            return 0, 0, 0
        found = LINE.fullmatch(self.path.read_bytes())
        if found is None:
            raise IntegrityError(
                f"{self.path} must be a count of steps, found something else. Put it back; without it, start the study "
                "anew."
            )
        count, round_, stage = map(int, found.groups())
        return count, round_, stage

    def write(self, count: int, round_: int, stage: int, *, durably: bool) -> None:
        """Write it over; durably, it survives a loss of power from here on, and else a killed process."""
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, OWNER_ONLY)
        try:
            os.pwrite(file, b"%020d %010d %02d\n" % (count, round_, stage), 0)
            if durably or is_new:
                _flush(file)
        finally:
            os.close(file)
        if is_new:
            flush_folder(self.path.parent)
