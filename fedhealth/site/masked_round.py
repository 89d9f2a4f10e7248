"""A masked round at a hospital: what it computed waits here, sealed, while the protocol runs.

    train, evaluate, query.*  ─begin→ advert        the words and the session go to the disk
    query.share … reveal      ─step→  its message   the session is read, moved on, written, then answered

Nothing is kept in memory between two messages, so a process that ends in between costs
nothing. One round is open at a time: a new question ends the one before. One message is
worked on at a time, whatever the processes: of two at once, both would find the round as
it was before either, and a coordinator could have two lists of survivors signed.

The file is sealed by AES-256-GCM for one study, round, stage and count. The count only
grows and lies with the keys, so a file put back from a backup does not open. Both copies
put back together can't be told from the truth (SECURITY.md).
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhealth.core.private_file import OWNER_ONLY, write_private
from fedhealth.secagg.masked import MESSAGE
from fedhealth.secagg.protocol.codec import encode, word_type
from fedhealth.secagg.protocol.messages import Cohort, Inbox, Quorum, Survivors, unpack
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.site_state import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedhealth.core.update import PrivateUpdate, SealedUpdate
    from fedhealth.runtime.codec import Request
    from fedhealth.secagg.content import Content
    from fedhealth.secagg.masked import Masked
    from fedhealth.secagg.protocol.codec import Words
    from fedhealth.secagg.protocol.messages import FromSite
    from fedhealth.secagg.protocol.terms import Terms
    from fedhealth.site.keys import Keys

#: By message type, what the coordinator sends in that step.
STEPS: dict[str, type[Cohort | Inbox | Survivors | Quorum]] = {
    "query.share": Cohort,
    "query.mask": Inbox,
    "query.confirm": Survivors,
    "query.reveal": Quorum,
}
NONCE_BYTES = 12
LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class MaskedRound:
    """The round that is open at one hospital in one study.

    Attributes:
        masked: the study's secure aggregation.
        keys: the hospital's.
        study: the digest of the study.
        file: where the round waits.
    """

    masked: Masked
    keys: Keys
    study: str
    file: Path

    def begin(self, private: PrivateUpdate, content: Content, terms: Terms, site: str, *, floor: int) -> SealedUpdate:
        """The advert for an update, which itself stays.

        Args:
            private: what was computed and may leave in a sum.
            content: how it lies in the vector.
            terms: of the question, made by this hospital.
            site: its name.
            floor: the fewest hospitals it accepts in a sum.

        Raises:
            Refused: the update does not fit the vector, or the terms not the hospital.
        """
        session = SiteSession.start(terms, site, self.keys.identity, floor=floor, seed=os.urandom(32))
        weight, values = content.values(private.update)
        words = encode(terms.layout, weight, values, session.rounding_key)
        message = session.advertise()
        with self._alone():
            self._write(session, words)
        return self.masked.seal(message)

    def step(self, request: Request) -> SealedUpdate:
        """The answer to one of `STEPS`; whatever is refused ends the round here.

        Raises:
            Refused: by the protocol, by its reason.
        """
        with self._alone():
            session, words = self._read()
            try:
                message = self._moved(session, words, request)
            finally:
                # Before anything leaves; a session that refused is dead, and that is kept as well.
                self._write(session, words if session.stage < Stage.MASKED else words[:0])
        return self.masked.seal(message)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process or thread works on this hospital's round; a lock ends with its holder."""
        place = self._counter.with_name("lock")
        place.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _moved(self, session: SiteSession, words: Words, request: Request) -> FromSite:
        received = unpack(np.asarray(request.arrays.get(MESSAGE, np.empty(0)), dtype=np.uint8).tobytes())
        if type(received) is not STEPS[request.purpose]:
            raise refused("out_of_order", f"{type(received).__name__} in {request.purpose}")
        if isinstance(received, Cohort):
            return session.share(received)
        if isinstance(received, Inbox):
            return session.mask(received, words)
        if isinstance(received, Survivors):
            confirm = session.confirm(received, answered=self._answered(session.terms))
            write_private(self._answer(session.terms), json.dumps(sorted(session.survivors)).encode())
            return confirm
        if isinstance(received, Quorum):
            return session.reveal(received)
        raise refused("out_of_order", type(received).__name__)

    def _answered(self, terms: Terms) -> frozenset[str] | None:
        """The hospitals whose sum this one confirmed for the same task before."""
        path = self._answer(terms)
        return frozenset(json.loads(path.read_bytes())) if path.is_file() else None

    def _answer(self, terms: Terms) -> Path:
        return self.keys.folder / self.study / "answered" / terms.task.hex()

    @property
    def _counter(self) -> Path:
        return self.keys.folder / self.study / "counter"

    def _count(self) -> tuple[int, int, int]:
        """How often the file was written, and at which round and stage it stands."""
        if not self._counter.is_file():
            return 0, 0, 0
        found = json.loads(self._counter.read_bytes())
        return int(found["count"]), int(found["round"]), int(found["stage"])

    def _bound(self, count: int, round_: int, stage: int) -> bytes:
        return f"{self.study}|{round_}|{stage}|{count}".encode()

    def _write(self, session: SiteSession, words: Words) -> None:
        count, round_, stage = self._count()[0] + 1, session.terms.round, int(session.stage)
        dumped, nonce = session.dump(), os.urandom(NONCE_BYTES)
        plain = len(dumped).to_bytes(LENGTH_BYTES, "big") + dumped + words.tobytes()
        write_private(
            self.file, nonce + AESGCM(self.keys.seal).encrypt(nonce, plain, self._bound(count, round_, stage))
        )
        write_private(self._counter, json.dumps({"count": count, "round": round_, "stage": stage}).encode())

    def _read(self) -> tuple[SiteSession, Words]:
        """The session and its words.

        Raises:
            Refused: `out_of_order` where none is open; `rolled_back` where the file is not the last one written.
        """
        if not self.file.is_file():
            raise refused("out_of_order", "no round open")
        count, round_, stage = self._count()
        sealed = self.file.read_bytes()
        try:
            plain = AESGCM(self.keys.seal).decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound(count, round_, stage)
            )
        except (InvalidTag, ValueError):
            raise refused("rolled_back", "another file than was written last") from None
        end = LENGTH_BYTES + int.from_bytes(plain[:LENGTH_BYTES], "big")
        session = SiteSession.load(plain[LENGTH_BYTES:end], self.keys.identity, at_least=Stage(stage))
        return session, np.frombuffer(plain[end:], dtype=word_type(session.terms.layout))
