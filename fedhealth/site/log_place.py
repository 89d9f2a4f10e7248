"""Where a hospital's audit log lies, and what it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.governance.audit import Log
from fedhealth.site.keys import FOLDER, Keys

if TYPE_CHECKING:
    from pathlib import Path

#: Within a hospital's own folder, where its audit log is unless it says otherwise.
AUDIT = "audit"


def log_of(name: str, folder: Path, *, place: Path | None = None, keys: Path | None = None) -> Log:
    """A hospital's audit log; nothing is made or read but its key.

    Args:
        name: the hospital's.
        folder: its own.
        place: where the log is, if not in the hospital's folder.
        keys: where its keys are, if not in the hospital's folder.

    Raises:
        SettingError: it has no keys, or others may read them.
    """
    return Log(place or folder / AUDIT, origin_of(name), Keys(keys or folder / FOLDER).identity)


def origin_of(name: str) -> str:
    """What a hospital's log is called."""
    return f"fedhealth/site/{name}"
