"""Files for their owner alone: written whole or not at all, and read only where nobody else may."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

OWNER_ONLY = 0o600
FOLDER_OWNER_ONLY = 0o700


def write_private(path: Path, content: bytes, *, durably: bool = True) -> None:
    """Write a file for its owner alone; a killed process leaves the old one or the new one, never half of it.

    Durably, so does a loss of power, and from here on the new one; else that may leave none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "wb") as handle:
        handle.write(content)
        handle.flush()
        if durably:
            os.fsync(handle.fileno())
    draft.replace(path)
    if durably:
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Have the disk know of the files that were made in a folder."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path, *, remedy: str) -> bytes:
    """The content of a file that is its owner's alone.

    Args:
        path: the file.
        remedy: how to make it, where there is none.

    Raises:
        SettingError: there is none, or others may read it.
    """
    if not path.is_file():
        raise SettingError(f"a secret must be in its file, found no {path}. {remedy}")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise SettingError(f"{path} must be its owner's alone (0600), found {mode:04o}. Run chmod 600 on it.")
    return path.read_bytes()
