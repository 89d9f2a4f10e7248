"""Keys: a hospital's long-lived identity and the key that seals its own files, in a folder of its own.

    <keys>/identity     Ed25519, 32 bytes in hex: signs for this hospital
    <keys>/seal         32 bytes in hex: opens what this hospital keeps of a round
    <keys>/<study>/     how far a study's rounds have come
    <keys>/answered/    by question, over all studies, for which hospitals it was answered

Each file is for its owner alone (0600). What lies here is kept apart from what it seals, so
that a copy of the one put back from a backup is noticed by the other.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.private_file import write_private

if TYPE_CHECKING:
    from pathlib import Path

#: Within a hospital's own folder, where its keys are unless it says otherwise.
FOLDER = "keys"
IDENTITY, SEAL = "identity", "seal"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The folder of a hospital's keys."""

    folder: Path

    def init(self) -> str:
        """The public key in hex, of keys made now where there are none; keys that are there stay."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (IDENTITY, SEAL):
            if not (self.folder / name).exists():
                write_private(self.folder / name, secrets.token_hex(KEY_BYTES).encode())
        return self.identity.public_key().public_bytes_raw().hex()

    @property
    def identity(self) -> Ed25519PrivateKey:
        """The key that signs for this hospital.

        Raises:
            SettingError: there is none, or others may read it.
            IntegrityError: it is not a key.
        """
        return Ed25519PrivateKey.from_private_bytes(self._read(IDENTITY))

    @property
    def seal(self) -> bytes:
        """The 32 bytes that open this hospital's sealed files; errors as of `identity`."""
        return self._read(SEAL)

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        if not path.is_file():
            raise SettingError(f"a hospital must have its keys, found no {path}. Run fedhealth site keys init.")
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise SettingError(f"{path} must be its owner's alone (0600), found {mode:04o}. Run chmod 600 on it.")
        try:
            found = bytes.fromhex(path.read_text(encoding="ascii"))
        except ValueError:
            found = b""
        if len(found) != KEY_BYTES:
            raise IntegrityError(f"{path} must be a key of 64 hex digits, found something else. Put it back.")
        return found
