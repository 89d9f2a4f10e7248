"""A masked round at a hospital: what it computed waits here, sealed, while the protocol runs.

    train, evaluate, query.*  ─begin→ advert        the words and the session go to the disk
    query.share … reveal      ─step→  its message   the session is read, moved on, written, then answered

Nothing is kept in memory between two messages, so a process that ends in between, also
between confirming and revealing, costs nothing. One that ends while it works on a message
has not answered it; whether it can still, nobody asks, so it is lost to the round there.
One round is open at a time: a new question ends the one before. One message is worked on
at a time, whatever the processes: of two at once, both would find the round as it was
before either, and a coordinator could have two lists of survivors signed.

The file is sealed by AES-256-GCM for one study, round, stage and count. The count only
grows and lies with the keys, so a file put back from a backup does not open. Both copies
put back together can't be told from the truth (SECURITY.md).

What a loss of power must not take back, before a message leaves: the count of each of the
four steps, or the step could be taken again and otherwise; and for whom a question was
answered. The sealed file may be lost, since without the one that fits its count the round
is over for this hospital. So may a round that has only begun: nobody has acted on its keys,
and whatever round was open before is no further than it was.
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

from fedhealth.core.errors import Refused
from fedhealth.core.private_file import OWNER_ONLY, write_private
from fedhealth.secagg.masked import MESSAGE
from fedhealth.secagg.protocol.codec import encode, word_type
from fedhealth.secagg.protocol.keys import SEED_BYTES
from fedhealth.secagg.protocol.messages import Cohort, Inbox, Quorum, Survivors, unpack
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.site_state import Stage
from fedhealth.site.step_count import StepCount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedhealth.core.update import PrivateUpdate, SealedUpdate
    from fedhealth.privacy.noise_share import NoiseShare
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
        may_regroup: answer a question again for other hospitals than before.
    """

    masked: Masked
    keys: Keys
    study: str
    file: Path
    may_regroup: bool = False

    def begin(
        self,
        private: PrivateUpdate,
        content: Content,
        terms: Terms,
        site: str,
        *,
        floor: int,
        noise: NoiseShare | None = None,
    ) -> SealedUpdate:
        """The advert for an update, which itself stays.

        Args:
            private: what was computed and may leave in a sum.
            content: how it lies in the vector.
            terms: of the question, made by this hospital.
            site: its name.
            floor: the fewest hospitals it accepts in a sum.
            noise: this hospital's share, where the update needs one.

        Raises:
            Refused: its noise is not what the vector has room for, the update does not fit the vector, or the terms not the hospital.
        """
        spare = noise.spare if noise is not None else ()
        session = SiteSession.start(
            terms, site, self.keys.identity, floor=floor, seed=os.urandom(SEED_BYTES), spare=spare
        )
        weight, values = content.values(private.update)
        words = encode(terms.layout, weight, values, session.rounding_key)
        if not private.shares_noise == bool(terms.layout.noise_margin) == (noise is not None):
            raise Refused(
                "not_private",
                rule="what shares its noise must have it, and room for it, in a masked sum",
                found="one of them missing",
                remedy="Use privacy=distributed with secagg=masked.",
            )
        if noise is not None:
            words = with_noise(words, noise)
        message = session.advertise()
        with self._alone():
            self._write(session, words, durably=False)
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
                self._write(session, words if session.stage < Stage.MASKED else words[:0], durably=True)
        return self.masked.seal(message)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process or thread works on this hospital's round; a lock ends with its holder."""
        place = self._count.path.with_name("lock")
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
            answered = self._answered(session.terms)
            confirm = session.confirm(received, answered=None if self.may_regroup else answered)
            if answered is None:
                write_private(self._answer(session.terms), json.dumps(sorted(session.survivors)).encode())
            return confirm
        if isinstance(received, Quorum):
            return session.reveal(received)
        raise refused("out_of_order", type(received).__name__)

    def _answered(self, terms: Terms) -> frozenset[str] | None:
        """The hospitals whose sum this one confirmed when it first answered the same task, in any study."""
        path = self._answer(terms)
        return frozenset(json.loads(path.read_bytes())) if path.is_file() else None

    def _answer(self, terms: Terms) -> Path:
        return self.keys.folder / "answered" / terms.task.hex()

    @property
    def _count(self) -> StepCount:
        return StepCount(self.keys.folder / self.study / "counter")

    def _bound(self, count: int, round_: int, stage: int) -> bytes:
        return f"{self.study}|{round_}|{stage}|{count}".encode()

    def _write(self, session: SiteSession, words: Words, *, durably: bool) -> None:
        count, round_, stage = self._count.read()[0] + 1, session.terms.round, int(session.stage)
        dumped, nonce = session.dump(), os.urandom(NONCE_BYTES)
        plain = len(dumped).to_bytes(LENGTH_BYTES, "big") + dumped + words.tobytes()
        sealed = AESGCM(self.keys.seal).encrypt(nonce, plain, self._bound(count, round_, stage))
        write_private(self.file, nonce + sealed, durably=False)
        self._count.write(count, round_, stage, durably=durably)

    def _read(self) -> tuple[SiteSession, Words]:
        """The session and its words.

        Raises:
            Refused: `out_of_order` where none is open; `rolled_back` where the file is not the last one written.
        """
        if not self.file.is_file():
            raise refused("out_of_order", "no round open")
        count, round_, stage = self._count.read()
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


def with_noise(words: Words, noise: NoiseShare) -> Words:
    """The words with a hospital's share of the noise on each but the first, which says that it is there and no more."""
    found = words.copy()
    found[1:] += noise.draw(len(words) - 1).astype("<i8").view(words.dtype)
    return found
