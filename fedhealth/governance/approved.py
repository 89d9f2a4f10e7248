"""Approved studies: what a hospital said yes to, by digest.

<site>/approved/<digest>.json     that the file is there is the approval
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.private_file import write_private

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "approved"


def approved_digests(site: Path) -> frozenset[str]:
    """The digests of the studies that a hospital approved, read anew at every call."""
    return frozenset(path.stem for path in (site / FOLDER).glob("*.json") if re.fullmatch("[0-9a-f]{64}", path.stem))


def approve(site: Path, digest: str) -> Path:
    """Approve a study; the file that says so.

    Raises:
        SettingError: that is no digest.
    """
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise SettingError(f"a study must be named by 64 hex digits, found {digest[:80]!r}. Copy its digest whole.")
    path = site / FOLDER / f"{digest}.json"
    row = {"study": digest, "approved": datetime.now(UTC).isoformat(timespec="seconds")}
    write_private(path, (json.dumps(row) + "\n").encode())
    return path
