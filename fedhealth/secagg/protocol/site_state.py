"""What a site remembers between two steps of a round, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from fedhealth.secagg.protocol.keys import SEED_BYTES
from fedhealth.secagg.protocol.messages import Cohort
from fedhealth.secagg.protocol.shamir import SHARE_BYTES
from fedhealth.secagg.protocol.terms import KEY_BYTES, Terms, unpack_terms
from fedhealth.secagg.protocol.wire import MAGIC, Reader, malformed, number, places, sized

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = MAGIC + b"S"
NOBODY = Cohort(bytes(KEY_BYTES), ())


class Stage(IntEnum):
    """How far a session has come; never back."""

    START = 0
    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    CONFIRMED = 4
    DONE = 5
    DEAD = 6


@dataclass(frozen=True, slots=True)
class SiteState:
    """One site's state; what is not needed any more is not in it.

    Attributes:
        terms: of the round.
        place: the site's, on the roster.
        stage: what was done last.
        seed: of all this site's secrets of the round, until its vector is masked.
        cohort: all adverts, checked.
        held: by owner, its two shares: of its own mask and of its mask key.
        shared: the sites under whose masks the vector lies.
        survivors: the sites this one confirmed.
        spare: from how many survivors on, and the key of noise that is too much then.
    """

    terms: Terms
    place: int
    stage: Stage = Stage.START
    seed: bytes = field(default=b"", repr=False)
    cohort: Cohort = NOBODY
    held: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    shared: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    spare: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    def pack(self) -> bytes:
        """The state as bytes, secrets among them."""
        parts = (
            number(self.stage, 1),
            sized(self.terms.pack()),
            number(self.place, 2),
            sized(self.seed),
            sized(self.cohort.pack()),
            number(len(self.held), 2),
            *(number(owner, 2) + self.held[owner] for owner in sorted(self.held)),
            places(self.shared),
            places(self.survivors),
            number(len(self.spare), 1),
            *(number(least, 2) + key for least, key in self.spare),
        )
        return HEAD + b"".join(parts)


def unpack_state(data: bytes) -> SiteState:
    """The state in these bytes.

    Raises:
        Refused: `malformed`.
    """
    reader = Reader(data, HEAD)
    stage = reader.number(1)
    terms = unpack_terms(reader.sized())
    place = reader.number(2)
    seed = reader.sized()
    cohort = Cohort.unpack(reader.sized())
    held = {reader.number(2): reader.take(2 * SHARE_BYTES) for _ in range(reader.number(2))}
    shared, survivors = reader.places(), reader.places()
    spare = tuple((reader.number(2), reader.take(SEED_BYTES)) for _ in range(reader.number(1)))
    reader.end()
    if stage > Stage.DEAD or place >= len(terms.roster) or len(seed) not in (0, SEED_BYTES):
        raise malformed("a state that no site is in")
    return SiteState(terms, place, Stage(stage), seed, cohort, held, shared, survivors, spare)
