"""The head of a ledger: a small file beside it that says how far it goes, so that a cut is seen."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.study import canonical

if TYPE_CHECKING:
    from pathlib import Path

#: What the first row has for the hash of the row before.
GENESIS = "0" * 64
RESTORE = (
    "This hospital joins no round until it is mended: put back the ledger, its -wal file and its head together from "
    "the newest backup. Never start a new one over it: what patients have spent would be forgotten."
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row's number and hash: what a head holds, and what may be noted where nobody can change it."""

    number: int
    hash: str

    def __post_init__(self) -> None:
        if self.number < 0:
            raise SettingError(f"an anchor's row must be 0 or more, found {self.number}. Copy it from `verify`.")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of the ledger at `ledger`, made with its key where it has one."""

    ledger: Path
    key: bytes | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.ledger.with_name(self.ledger.name + ".head")

    def sealed(self, text: str) -> str:
        """A text's hash, in hex: SHA-256, or HMAC-SHA-256 under the key."""
        if self.key is None:
            return hashlib.sha256(text.encode()).hexdigest()
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def read(self) -> Anchor:
        """The last row that the head knows of.

        Raises:
            IntegrityError: it is missing, or not as it was written.
            SettingError: it was made with a key, and none is given.
        """
        try:
            text = self.path.read_bytes()
            found = json.loads(text)
            anchor = Anchor(int(found["rows"]), str(found["hash"]))
            has_key = bool(found["has_key"])
        except FileNotFoundError:
            raise broken(self.ledger, "no head beside it") from None
        except (ValueError, KeyError, TypeError, SettingError):
            raise broken(self.ledger, "a head that can't be read") from None
        if has_key and self.key is None:
            raise SettingError(
                f"a ledger made with a key must be read with it, found none for {self.ledger}. Name its file in "
                "policy.ledger_key in site.yaml."
            )
        if text != self._text(anchor):
            raise broken(self.ledger, "a head that was edited, or made with another key")
        return anchor

    def write(self, anchor: Anchor) -> None:
        """Let the head say `anchor`; the caller holds the ledger's lock, so that it never goes back."""
        self._draft(self._text(anchor)).replace(self.path)

    def begin(self) -> None:
        """A head that knows of no row, unless there is one already."""
        place(self._draft(self._text(Anchor(0, GENESIS))), self.path)

    def _text(self, anchor: Anchor) -> bytes:
        head = {"rows": anchor.number, "hash": anchor.hash, "has_key": self.key is not None}
        return canonical({**head, "seal": self.sealed(canonical({"head": head}))}).encode()

    def _draft(self, text: bytes) -> Path:
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.draft")
        with draft.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return draft


def place(draft: Path, path: Path) -> None:
    """Give the draft its name unless another process was first; it appears whole or not at all."""
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def broken(ledger: Path, found: str) -> IntegrityError:
    """The error of a ledger that is not as it was written."""
    return IntegrityError(f"the ledger {ledger} must be as it was written, found {found}. {RESTORE}")
