"""Signed notes and checkpoints: the text by which one party tells another how far its log has come.

    fedhealth/site/norrvik                                  the log's name
    42                                                      how many events it has
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=            their Merkle root
                                                            an empty line, then one signature each:
    — fedhealth/site/norrvik Az3grlgtzPICa5OS8npVmf1My…     by the log itself
    — fedhealth/coordinator/heart jWbPPwAAAABkGFDLEZMHw…    by who saw it grow, with the time

The formats are C2SP's (c2sp.org/signed-note, tlog-checkpoint and tlog-cosignature), so that
tools which know nothing of FedHealth can check them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.governance.merkle import HASH_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: What a signature is of: of the note itself, or of the note and the moment it was seen.
PLAIN, SEEN = 1, 4
KEY_BYTES = 32
ID_BYTES = 4
TIME_BYTES = 8
NAME = re.compile(r"[a-z0-9][a-z0-9./-]{0,120}")
#: A note longer than this is nobody's checkpoint.
MOST_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a log has come.

    Attributes:
        origin: the log's name.
        size: its number of events.
        root: their Merkle root, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whose signatures to accept; as text it is what C2SP calls a vkey: `name+id+key`."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or len(self.key) != KEY_BYTES:
            raise SettingError(
                f"a log's key must have a name of a-z, 0-9, dots, dashes and slashes, found {self.name[:80]!r}. "
                "Copy its `key` file whole."
            )

    @staticmethod
    def of(name: str, key: Ed25519PrivateKey) -> PublicKey:
        """The public half of a key."""
        return PublicKey(name, key.public_key().public_bytes_raw())

    @staticmethod
    def read(text: str) -> PublicKey:
        """The key that `str` wrote.

        Raises:
            SettingError: the text is no such key.
        """
        name, _, rest = text.strip().partition("+")
        id_, _, key = rest.partition("+")
        try:
            kind, *content = base64.b64decode(key, validate=True)
            found = PublicKey(name, bytes(content))
        except (ValueError, binascii.Error):
            raise SettingError(
                f"a log's key must read name+id+base64, found {len(text)} characters that do not. Copy its `key` file."
            ) from None
        if kind != PLAIN or id_ != found.id(PLAIN).hex():
            raise SettingError("a log's key must carry its own id, found another. Copy its `key` file whole.")
        return found

    def __str__(self) -> str:
        return f"{self.name}+{self.id(PLAIN).hex()}+{_base64(bytes([PLAIN]) + self.key)}"

    def id(self, kind: int) -> bytes:
        """The four bytes by which a signature of that kind names this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([kind]) + self.key).digest()[:ID_BYTES]

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def signed(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The note of a text: the text, and below it the signature of `name`."""
    signature = PublicKey.of(name, key).id(PLAIN) + key.sign(text.encode())
    return f"{text}\n— {name} {_base64(signature)}\n"


def countersignature(text: str, name: str, key: Ed25519PrivateKey, *, time_s: int) -> str:
    """The line by which `name` says that at that time it had seen no other history of the text's log."""
    signature = key.sign(_seen(text, time_s))
    content = PublicKey.of(name, key).id(SEEN) + time_s.to_bytes(TIME_BYTES, "big") + signature
    return f"— {name} {_base64(content)}\n"


def opened(note: str, key: PublicKey) -> Checkpoint:
    """The checkpoint in a note that `key` signed.

    Raises:
        IntegrityError: it is no such note.
    """
    text, lines = _parted(note, key.name)
    for signature in _signatures(lines, key.name, key.id(PLAIN)):
        if key.has_signed(text.encode(), signature):
            return _read(text, key.name)
    raise IntegrityError(
        f"a checkpoint of {key.name} must be signed with its key, found no such signature. Ask for it again, or compare "
        "the key."
    )


def seen_at(note: str, key: PublicKey) -> int | None:
    """When `key` countersigned the note, in seconds since 1970; None where it did not."""
    text, lines = _parted(note, key.name)
    for content in _signatures(lines, key.name, key.id(SEEN)):
        time_s, signature = int.from_bytes(content[:TIME_BYTES], "big"), content[TIME_BYTES:]
        if key.has_signed(_seen(text, time_s), signature):
            return time_s
    return None


def _seen(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _parted(note: str, origin: str) -> tuple[str, list[str]]:
    text, gap, rest = note.rpartition("\n\n")
    if not gap or len(note) > MOST_CHARACTERS or not note.endswith("\n"):
        raise _no_checkpoint(origin)
    return text + "\n", rest.splitlines()


def _signatures(lines: list[str], name: str, id_: bytes) -> list[bytes]:
    found = []
    for line in lines:
        dash, _, rest = line.partition(" ")
        who, _, content = rest.partition(" ")
        try:
            decoded = base64.b64decode(content, validate=True)
        except (ValueError, binascii.Error):
            continue
        if dash == "—" and who == name and decoded[:ID_BYTES] == id_:
            found.append(decoded[ID_BYTES:])
    return found


def _read(text: str, origin: str) -> Checkpoint:
    try:
        found_origin, size, root, end = text.split("\n")
        found = Checkpoint(found_origin, int(size), base64.b64decode(root, validate=True))
    except (ValueError, binascii.Error):
        raise _no_checkpoint(origin) from None
    if end or found.text != text or found.origin != origin or found.size < 0 or len(found.root) != HASH_BYTES:
        raise _no_checkpoint(origin)
    return found


def _no_checkpoint(origin: str) -> IntegrityError:
    return IntegrityError(
        f"a checkpoint must be a signed note of {origin}, its size and its root, found something else. Ask for it again."
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
