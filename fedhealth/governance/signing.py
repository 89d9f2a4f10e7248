"""Keys that sign: a person's or a party's Ed25519 key in a file of its own, and signatures checked by its public half."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.governance.key_file import key_from

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
OWNER_ONLY = 0o600


def new_key(path: Path) -> str:
    """The public half, in hex, of a key that is made now and kept at `path`.

    Raises:
        SettingError: there is a file already; a key that is gone can't be made again.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        raise SettingError(
            f"a new key must have a file of its own, found {path} there. Keep that one, or name another."
        ) from None
    with os.fdopen(number, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(KEY_BYTES))
    return public(signing_key(path))


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key that `new_key` kept.

    Raises:
        SettingError: there is none, or others may read it.
        IntegrityError: it is not a key.
    """
    try:
        found = bytes.fromhex(key_from(path).decode("ascii"))
    except ValueError:
        found = b""
    if len(found) != KEY_BYTES:
        raise IntegrityError(f"{path} must be a key of 64 hex digits, found something else. Put it back.")
    return Ed25519PrivateKey.from_private_bytes(found)


def public(key: Ed25519PrivateKey) -> str:
    """A key's public half, in hex."""
    return key.public_key().public_bytes_raw().hex()


def has_signed(key: str, message: bytes, signature: str) -> bool:
    """Whether the signature is of that public key, both in lower-case hex and nothing else."""
    # Python's own reader of hex skips spaces, and a signature would have more than one text.
    if not re.fullmatch("[0-9a-f]{64}", key) or not re.fullmatch("[0-9a-f]{128}", signature):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True
