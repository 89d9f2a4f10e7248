"""The bytes of a message: numbers of fixed width, lengths before whatever may vary, nothing left over.

There is one way to write a message, so equal bytes and equal messages are the same thing
and a digest of one is a digest of the other.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

from fedhealth.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Before every message: the protocol and its version.
MAGIC = b"fhs1"


def number(value: int, width: int) -> bytes:
    """A whole number from 0 as `width` bytes, big end first."""
    return value.to_bytes(width, "big")


def real(value: float) -> bytes:
    """A float64 as 8 bytes."""
    return struct.pack(">d", value)


def sized(data: bytes) -> bytes:
    """Bytes after their length of 4 bytes."""
    return number(len(data), 4) + data


def places(sites: Iterable[int]) -> bytes:
    """A set of places in the roster, ascending, after their number."""
    ordered = sorted(sites)
    return struct.pack(f">{1 + len(ordered)}H", len(ordered), *ordered)


class Reader:
    """What is left of a message to read. Whatever does not fit is refused as `malformed`.

    Raises:
        Refused: by every verb; also when the message begins with other bytes than `head`.
    """

    def __init__(self, data: bytes, head: bytes = b"") -> None:
        self._data = memoryview(data)
        self._at = 0
        if self.take(len(head)) != head:
            raise malformed("another kind of message")

    def view(self, size: int) -> memoryview:
        """The next `size` bytes, uncopied."""
        if size > len(self._data) - self._at:
            raise malformed("too few bytes")
        self._at += size
        return self._data[self._at - size : self._at]

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        return bytes(self.view(size))

    def number(self, width: int) -> int:
        """A whole number of `width` bytes."""
        return int.from_bytes(self.view(width), "big")

    def real(self) -> float:
        """A float64."""
        return float(struct.unpack(">d", self.view(8))[0])

    def sized(self) -> bytes:
        """Bytes after their length."""
        return self.take(self.number(4))

    def text(self) -> str:
        """Words in UTF-8 after their length."""
        try:
            return self.sized().decode()
        except UnicodeDecodeError:
            raise malformed("bytes that are not UTF-8") from None

    def places(self) -> tuple[int, ...]:
        """A set of places in the roster, ascending."""
        n = self.number(2)
        found = struct.unpack(f">{n}H", self.view(2 * n))
        ascending(found)
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise malformed("bytes after its end")


def ascending(sites: tuple[int, ...]) -> None:
    """Refuse places that are not strictly ascending: a list has one order, and names nobody twice.

    Raises:
        Refused: `malformed`.
    """
    if any(a >= b for a, b in pairwise(sites)):
        raise malformed("sites out of order or twice")


def malformed(found: str) -> Refused:
    """The refusal of bytes that are no message of this protocol."""
    return Refused(
        "malformed",
        rule="a message must be whole and in its one form",
        found=found,
        remedy="Run the same version of FedHealth on both sides.",
    )
