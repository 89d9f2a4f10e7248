"""Keys from files: read by their owner alone, and never from a command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes: what a key of HMAC-SHA-256 or AES-256 has.
SHORTEST = 32


def key_from(path: Path) -> bytes:
    """The key in a file, all its bytes.

    Raises:
        SettingError: there is no such file, it is another's, others may read it, or it is shorter than 32 bytes.
    """
    if not path.is_file():
        raise SettingError(f"a key must be in a file, found none at {path}. Make it: {_recipe(path)}.")
    if os.name == "posix" and path.stat().st_uid not in (os.geteuid(), 0):
        raise SettingError(
            f"a key must belong to whoever runs this or to root, found user {path.stat().st_uid}'s at {path}. "
            f"Make it anew, since others may have read it: {_recipe(path)}."
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SettingError(
            f"a key must be for its owner alone, found rights {path.stat().st_mode & 0o777:o} at {path}. "
            f"Make it anew, since others may have read it: {_recipe(path)}."
        )
    key = path.read_bytes()
    if len(key) < SHORTEST:
        raise SettingError(f"a key must have at least {SHORTEST} bytes, found {len(key)}. Make it: {_recipe(path)}.")
    return key


def _recipe(path: Path) -> str:
    return f"(umask 077; head -c {SHORTEST} /dev/urandom > {path})"
