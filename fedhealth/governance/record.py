"""The record of what was done: one JSON line an event, appended and never changed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedhealth.core.private_file import OWNER_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def append(path: Path, event: Mapping[str, Any]) -> None:
    """Add a line; it is in the file, whole, when this returns.

    One write of one line: lines of several processes don't mix. A value can't forge a line,
    since JSON escapes what would end one.
    """
    row = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
    line = (json.dumps(row, separators=(",", ":"), ensure_ascii=True) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OWNER_ONLY)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)
