"""Countersigning: each party signs that the other's log has only grown since it last looked.

With every message a party says how far its own log has come, and of the other's what it has
seen. What is said, by key:

    key, checkpoint     of the own log (`governance.note`)
    from, proof         the checkpoint begins with as many events as the other has seen before
    seen, signature     how many of the other's events were seen, and the countersignature of just that

A log that was cut or rewritten has no such proof, so it gets no signature, and the doubt is an
event in the log of whoever noticed; so is a party that time and again proves nothing. The first key heard of a party is kept; another one later is
doubted. Nothing of this stops a round: it makes sure that what was done is found out.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.governance import note
from fedhealth.governance.audit import COUNTERSIGNED, OWNER_ONLY, SEEN, write_whole
from fedhealth.governance.merkle import HASH_BYTES, is_consistent
from fedhealth.governance.note import NAME, PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fedhealth.governance.audit import Log

log = logging.getLogger(__name__)

#: Messages in a row without a proof from where the other was seen last; so many can hardly have been lost.
PATIENCE = 3
#: Hashes in a proof about fewer than 2^64 events.
LONGEST_PROOF = 128


@dataclass(frozen=True, slots=True)
class Countersigner:
    """One party's half, for all other parties.

    Attributes:
        log: its own.
    """

    log: Log

    def says(self, peer: str, checkpoint: str) -> dict[str, str | int]:
        """What goes along to the party whose log is named `peer`; the empty name stands for one never heard of.

        Args:
            peer: the name of its log.
            checkpoint: of the own log, as `Receipt.checkpoint`.
        """
        known = self._known(peer) if peer else {}
        size = note.opened(checkpoint, self.log.key).size
        since = min(int(known.get("they_saw", 0)), size)
        proof = "".join(base64.b64encode(part).decode() for part in self.log.consistency(since, size))
        said: dict[str, str | int] = {
            "key": str(self.log.key),
            "checkpoint": checkpoint,
            "from": since,
            "proof": proof,
            "seen": int(known.get("size", 0)),
        }
        return said | ({"signature": known["signature"]} if "signature" in known else {})

    def hears(self, said: Mapping[str, Any], *, peer: str | None = None, key: bytes | None = None) -> str:
        """The name of the party that said it, after its checkpoint was countersigned or doubted.

        Args:
            said: what came along.
            peer: whom it must be from, where that is known.
            key: the party's public key, where that is known.
        """
        try:
            theirs = PublicKey.read(str(said.get("key", "")))
        except SettingError:
            return self._doubts(peer or "somebody", "no_key")
        if theirs.name == self.log.origin or (peer is not None and theirs.name != peer):
            return self._doubts(theirs.name, "another_name")
        if key is not None and theirs.key != key:
            return self._doubts(theirs.name, "another_key")
        with self._alone(theirs.name):
            return self._take(said, theirs)

    def _take(self, said: Mapping[str, Any], theirs: PublicKey) -> str:
        known = self._known(theirs.name)
        if known and known["key"] != str(theirs):
            return self._doubts(theirs.name, "another_key")
        try:
            found = note.opened(str(said.get("checkpoint", "")), theirs)
            proof = _hashes(str(said.get("proof", "")))
            since, they_saw = int(said.get("from", 0)), int(said.get("seen", 0))
        except (IntegrityError, ValueError, TypeError, OverflowError, binascii.Error):
            return self._doubts(theirs.name, "unreadable")
        size, root = int(known.get("size", 0)), bytes.fromhex(known.get("root", ""))
        self._keep_theirs(theirs, said, they_saw)
        if found.size < size:
            # Cut, or but a message that was overtaken by a later one.
            return self._doubts(theirs.name, "older")
        if size and since == size and not is_consistent(size, found.size, root, found.root, proof):
            return self._doubts(theirs.name, "rewritten")
        if size and since != size:
            # It did not hear what was seen last. Say so once more, and it proves from there.
            unproved = int(known.get("unproved", 0)) + 1
            write = {**known, "they_saw": they_saw, "unproved": unproved}
            if unproved >= PATIENCE:
                self._doubts(theirs.name, "no_proof")
        else:
            time_s = int(self.log.clock().timestamp())
            signature = note.countersignature(found.text, self.log.origin, self.log.signer, time_s=time_s)
            write = {
                "key": str(theirs),
                "size": found.size,
                "root": found.root.hex(),
                "checkpoint": said["checkpoint"],
                "signature": signature,
                "they_saw": they_saw,
            }
        write_whole(self._path(theirs.name), json.dumps(write))
        return theirs.name

    def _keep_theirs(self, theirs: PublicKey, said: Mapping[str, Any], they_saw: int) -> None:
        """Keep their countersignature beside the own log, where it is one of what the own log was."""
        was, line = self.log.at(they_saw), str(said.get("signature", ""))
        if was is None or not they_saw or not line:
            return
        whole = note.signed(was.text, self.log.origin, self.log.signer) + line
        try:
            if note.seen_at(whole, theirs) is None:
                return
        except IntegrityError:
            return
        path = self.log.folder / COUNTERSIGNED / _file(theirs.name)
        if not path.is_file() or note.opened(path.read_text(encoding="utf-8"), self.log.key).size <= they_saw:
            write_whole(path, whole)

    def _doubts(self, peer: str, why: str) -> str:
        log.warning("not countersigned peer=%s why=%s", peer, why)
        self.log.append("doubted", peer=peer, why=why)
        return peer

    def _known(self, peer: str) -> dict[str, Any]:
        path = self._path(peer)
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _path(self, peer: str) -> Path:
        return self.log.folder / SEEN / _file(peer)

    @contextmanager
    def _alone(self, peer: str) -> Iterator[None]:
        place = self.log.folder / SEEN / f".{_file(peer)}.lock"
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def held_of(folder: Path, origin: str) -> str | None:
    """The checkpoint of the log named `origin` that the log in `folder` has countersigned last; None where it has none."""
    path = folder / SEEN / _file(origin)
    return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"]) if path.is_file() else None


def countersigned_at(folder: Path, peer: str) -> int | None:
    """When `peer` countersigned the log in `folder` last, in seconds since 1970, by the key first heard of it.

    None where that key has not signed what lies there.
    """
    path, text = folder / SEEN / _file(peer), (folder / COUNTERSIGNED / _file(peer)).read_text(encoding="utf-8")
    if not path.is_file():
        return None
    return note.seen_at(text, PublicKey.read(json.loads(path.read_text(encoding="utf-8"))["key"]))


def _file(peer: str) -> str:
    """A party's name as a file's; `_` is in no name."""
    if not NAME.fullmatch(peer):
        raise SettingError(
            f"a log's name must be of a-z, 0-9, dots, dashes and slashes, found {peer[:40]!r}. Rename it."
        )
    return peer.replace("/", "_")


def _hashes(text: str) -> list[bytes]:
    width = len(base64.b64encode(bytes(HASH_BYTES)))
    if len(text) % width or len(text) > width * LONGEST_PROOF:
        raise ValueError(f"{len(text)} characters")
    return [base64.b64decode(text[at : at + width], validate=True) for at in range(0, len(text), width)]
