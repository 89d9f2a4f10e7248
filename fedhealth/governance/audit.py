"""The audit log: what happened at one party, one signed line an event, in a Merkle tree that others countersign.

    <folder>/log.jsonl        the events; lines are added, and nothing else is ever done to it
    <folder>/checkpoint       how far it has come, signed after each event (`governance.note`)
    <folder>/key              the public key, for whoever verifies
    <folder>/countersigned/   by other party, the last checkpoint that it countersigned
    <folder>/seen/            by other party, the last checkpoint of theirs that was countersigned here

An edit, a deletion and a reordering break the signatures and the root, a cut tail is shorter
than the checkpoint. Whoever holds the key can make all of that anew; what they can't make is the
other party's signature of what was there before.

Processes take turns by a lock, and an event is on the disk when `append` returns. A process
killed in between leaves a whole line, which counts, or half of one, which the next event
replaces and tells of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from tempfile import mkstemp
from typing import TYPE_CHECKING, Any, TypeAlias

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.study import canonical
from fedhealth.governance import note
from fedhealth.governance.merkle import Tree, leaf_hash
from fedhealth.governance.note import Checkpoint, PublicKey
from fedhealth.governance.signing import has_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LOG, CHECKPOINT, KEY, COUNTERSIGNED, SEEN = "log.jsonl", "checkpoint", "key", "countersigned", "seen"
OWNER_ONLY = 0o600
#: What is signed of an event begins so, that a signature made for something else can't pass for one.
CONTEXT = b"fedhealth audit event v1\n"
RESTORE = "Put back the folder from the newest backup and tell the other parties; never start a log over."

Fact: TypeAlias = "str | int | float | bool | list[Any]"

#: Each kind of event and what may be said of it: codes, names, digests, counts of bytes. There is no
#: place for free text or for anything of a patient.
KINDS: dict[str, frozenset[str]] = {
    # Of a message, at the hospital and at the coordinator.
    "asked": frozenset({"study", "round", "purpose", "message", "sites"}),
    "left": frozenset({"study", "round", "purpose", "message", "bytes", "content", "parts"}),
    "refused": frozenset({"study", "round", "purpose", "message", "bytes", "code"}),
    "failed": frozenset({"study", "round", "purpose", "message", "bytes", "error", "incident"}),
    "came": frozenset({"study", "round", "purpose", "message", "site", "bytes", "content"}),
    "lost": frozenset({"study", "round", "purpose", "message", "site", "bytes", "reason"}),
    # Of a study.
    "proposed": frozenset({"study", "proposal", "proposer", "expires"}),
    "approved": frozenset({"study", "proposal", "proposer", "until", "by"}),
    "denied": frozenset({"study", "proposal", "proposer", "by"}),
    # Of the processes, and of who may do what with them.
    "started": frozenset({"process", "version"}),
    "stopped": frozenset({"process", "code"}),
    "called": frozenset({"method", "path", "role", "status"}),
    "enrolled": frozenset({"site", "key"}),
    "revoked": frozenset({"site", "key"}),
    "submitted": frozenset({"study", "by", "run"}),
    # Of the log itself.
    "torn": frozenset({"bytes", "sha256"}),
    "doubted": frozenset({"peer", "why"}),
}
#: The kinds that are receipts: something left a hospital.
RECEIPTS = ("left", "refused", "failed")
#: A fact longer than this is no name, code or digest.
MOST_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event as it was logged.

    Attributes:
        index: its number, from 0.
        event: all of it, its signature among it.
        checkpoint: the log's signed checkpoint with the event in it.
    """

    index: int
    event: Mapping[str, Any]
    checkpoint: str


@dataclass(slots=True)
class Log:
    """One party's log.

    Attributes:
        folder: where it lies; made, with all in it, by the first event.
        origin: its name, such as fedhealth/site/norrvik.
        signer: the party's identity.
        clock: the time of day, with its zone.
    """

    folder: Path
    origin: str
    signer: Ed25519PrivateKey = field(repr=False)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _tree: Tree = field(default_factory=Tree, init=False, repr=False)
    _read_bytes: int = field(default=0, init=False, repr=False)

    def append(self, event: str, **facts: Fact) -> Receipt:
        """The receipt of an event, which is on the disk by then.

        Args:
            event: one of `KINDS`.
            facts: what may be said of it.

        Raises:
            SettingError: the event has no such fact, or a fact is no short word or number.
            IntegrityError: the log is not as it was written; nothing was added.
            OSError: the disk is full, say.
        """
        _check(event, facts)
        with self._alone():
            torn = self._catch_up()
            if torn:
                self._add({"event": "torn", "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})
            added = self._add({"event": event, **facts})
            checkpoint = self._write_checkpoint()
        return Receipt(added["index"], added, checkpoint)

    def checkpoint(self) -> str:
        """The signed checkpoint of the log as it stands.

        Raises:
            IntegrityError: the log is not as it was written.
        """
        with self._alone():
            self._catch_up()
            return note.signed(self._checkpoint(self._tree.size).text, self.origin, self.signer)

    def at(self, size: int) -> Checkpoint | None:
        """The checkpoint that the log had with `size` events; None where it is shorter. Call `append` first."""
        return self._checkpoint(size) if 0 <= size <= self._tree.size else None

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the first `new` events begin with the first `old`; none is needed from 0."""
        return self._tree.consistency(old, new) if 0 < old <= new <= self._tree.size else []

    @property
    def key(self) -> PublicKey:
        """The key that verifies it."""
        return PublicKey.of(self.origin, self.signer)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process or thread writes; a lock ends with its holder."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self.folder / "lock", os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _catch_up(self) -> bytes:
        """Take in what others have added, and check it against the checkpoint; what is torn at the end comes back."""
        if not (self.folder / LOG).exists() and not (self.folder / CHECKPOINT).exists():
            self._begin()
        is_first = self._read_bytes == 0
        with (self.folder / LOG).open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._read_bytes:
                raise broken(self.folder, f"its file cut to fewer than the {self._read_bytes:,} bytes read before")
            file.seek(self._read_bytes)
            whole, newline, torn = file.read().rpartition(b"\n")
        signed, first = _checkpoint_in(self.folder, self.key), self._tree.size
        lines = (whole + newline).splitlines()
        for line in lines:
            self._tree.add(leaf_hash(line))
        self._read_bytes += len(whole) + len(newline)
        if signed.size > self._tree.size or self._tree.root(signed.size) != signed.root:
            self._tree, self._read_bytes = Tree(), 0
            # The slow way, which says where.
            read(self.folder, self.key)
            raise broken(self.folder, "another history than its checkpoint's")
        # Of what a killed process did not get into the checkpoint, its own signature says whose it is.
        for index, line in enumerate(lines, start=first):
            if index >= signed.size:
                event_in(line, index, self.key, self.folder)
        if is_first:
            _countersigned(self.folder, self.key, self._tree)
        return torn

    def _begin(self) -> None:
        """Make the files: a log has a checkpoint before it has an event, so that one without is known to be cut."""
        write_whole(self.folder / KEY, f"{self.key}\n")
        self._write_checkpoint()
        (self.folder / LOG).touch(OWNER_ONLY)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _add(self, facts: Mapping[str, Fact]) -> dict[str, Any]:
        at = self.clock().astimezone(UTC).isoformat(timespec="microseconds")
        event = {"at": at, "index": self._tree.size, **facts}
        event["signature"] = self.signer.sign(CONTEXT + canonical(event).encode()).hex()
        line = canonical(event).encode()
        with (self.folder / LOG).open("r+b", buffering=0) as file:
            # What was torn off goes; the lock is held, so nobody's line is meant.
            file.truncate(self._read_bytes)
            file.seek(self._read_bytes)
            rest = line + b"\n"
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._read_bytes)
                raise
        self._tree.add(leaf_hash(line))
        self._read_bytes += len(line) + 1
        return event

    def _checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, self._tree.root(size))

    def _write_checkpoint(self) -> str:
        text = note.signed(self._checkpoint(self._tree.size).text, self.origin, self.signer)
        write_whole(self.folder / CHECKPOINT, text)
        return text


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is as it was written.

    Attributes:
        key: whose it is.
        events: all of them, in order.
        tree: over their lines.
        signed: the size of the signed checkpoint; fewer than the events where a process was killed in between.
        torn: bytes of an event that a killed process did not finish.
        countersigned: by other party, how many of the events it has countersigned.
    """

    key: PublicKey
    events: list[dict[str, Any]]
    tree: Tree
    signed: int
    torn: int
    countersigned: dict[str, int]


def verified(folder: Path, *, key: PublicKey | None = None, against: str | None = None) -> Verified:
    """A log, once it is found to be as it was written; no secret is needed.

    Args:
        folder: the log's, or a copy of it.
        key: what to hold it to; by default the key that lies beside it.
        against: a checkpoint of this log that somebody else has kept.

    Raises:
        IntegrityError: an event was edited, deleted, moved or cut off.
        SettingError: there is no log, or a key is none.
    """
    path = folder / KEY
    if key is None:
        if not path.is_file():
            raise SettingError(f"a log must have its key beside it, found none in {folder}. Name the folder of a log.")
        key = PublicKey.read(path.read_text(encoding="ascii", errors="replace"))
    # The checkpoint first: what another process adds after is more than it says, never less.
    signed = _checkpoint_in(folder, key)
    events, tree, torn = read(folder, key)
    counts = _countersigned(folder, key, tree)
    if against is not None:
        _held(against, key, tree, folder, "the checkpoint that was kept elsewhere says")
    return Verified(key, events, tree, signed.size, torn, counts)


def read(folder: Path, key: PublicKey) -> tuple[list[dict[str, Any]], Tree, int]:
    """The events, their tree, and the bytes of a torn last one.

    Raises:
        IntegrityError: an event was edited, deleted, moved or cut off.
    """
    signed = _checkpoint_in(folder, key)
    path = folder / LOG
    whole, newline, torn = (path.read_bytes() if path.is_file() else b"").rpartition(b"\n")
    lines, tree = (whole + newline).splitlines(), Tree()
    for line in lines:
        tree.add(leaf_hash(line))
    is_whole = signed.size <= tree.size and tree.root(signed.size) == signed.root
    checked = signed.size if is_whole else 0
    # The root vouches for what the checkpoint covers; of the rest, and to find a fault, each line's own signature does.
    events = [
        json.loads(line) if index < checked else event_in(line, index, key, folder) for index, line in enumerate(lines)
    ]
    if signed.size > len(lines):
        raise broken(folder, f"{len(lines)} events where its checkpoint counts {signed.size}")
    if not is_whole:
        raise broken(folder, "another history than its checkpoint's")
    return events, tree, len(torn)


def event_in(line: bytes, index: int, key: PublicKey, folder: Path) -> dict[str, Any]:
    """The event in a line, which must be number `index` and signed.

    Raises:
        IntegrityError: it is not.
    """
    try:
        event = json.loads(line)
        signature = str(event["signature"])
        body = canonical({name: fact for name, fact in event.items() if name != "signature"})
        stands = event["index"]
        is_canonical = canonical(event).encode() == line
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise broken(folder, f"event {index} that can't be read") from None
    if not is_canonical or not has_signed(key.key.hex(), CONTEXT + body.encode(), signature):
        raise broken(folder, f"event {index} edited, or signed with another key")
    if stands != index:
        raise broken(folder, f"event {stands} where event {index} must stand")
    return dict(event)


def write_whole(path: Path, text: str) -> None:
    """Write a file for its owner alone; a crash leaves the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, draft = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # noqa: PTH105 - mkstemp gives a name and not a Path
    except OSError:
        os.unlink(draft)  # noqa: PTH108
        raise


def broken(folder: Path, found: str) -> IntegrityError:
    """The error of a log that is not as it was written."""
    return IntegrityError(f"the audit log in {folder} must be as it was written, found {found}. {RESTORE}")


def _held(kept: str, key: PublicKey, tree: Tree, folder: Path, who: str) -> int:
    """The size of a checkpoint that was kept, once the log is found to begin with it."""
    point = note.opened(kept, key)
    if point.size > tree.size:
        raise broken(folder, f"{tree.size} events where {who} {point.size}")
    if tree.root(point.size) != point.root:
        raise broken(folder, f"another history than {who}, of {point.size} events")
    return point.size


def _countersigned(folder: Path, key: PublicKey, tree: Tree) -> dict[str, int]:
    """By other party, how many events it has countersigned, once the log is found to begin with them."""
    found = {}
    for path in sorted((folder / COUNTERSIGNED).glob("[a-z0-9]*")):
        who = path.name.replace("_", "/")
        found[who] = _held(path.read_text(encoding="utf-8"), key, tree, folder, f"{who} has countersigned")
    return found


def _checkpoint_in(folder: Path, key: PublicKey) -> Checkpoint:
    path = folder / CHECKPOINT
    if not path.is_file():
        raise broken(folder, "no checkpoint")
    return note.opened(path.read_text(encoding="utf-8", errors="replace"), key)


def _check(event: str, facts: Mapping[str, Fact]) -> None:
    if event not in KINDS:
        raise SettingError(f"an event must be one of KINDS, found {event[:40]!r}. Add it there, with its facts.")
    for name, fact in facts.items():
        if name not in KINDS[event]:
            raise SettingError(f"an event {event!r} must keep to its facts, found {name!r}. Leave it out.")
        for word in _words(fact):
            if len(word) > MOST_CHARACTERS or not word.isprintable():
                raise SettingError(
                    f"{name!r} of {event!r} must be short words, found {len(word)} characters. Use a code."
                )


def _words(fact: Fact) -> Iterator[str]:
    if isinstance(fact, str):
        yield fact
    elif isinstance(fact, list):
        for part in fact:
            yield from _words(part)
