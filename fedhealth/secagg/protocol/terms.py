"""What every site signs before it sends anything: the same terms, or nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.signing_key import fault_of_key
from fedhealth.secagg.protocol.layout import Layout, layout_from
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.wire import MAGIC, Reader, malformed, number, sized

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = MAGIC + b"T"
DIGEST_BYTES = 32
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Terms:
    """One round's terms. A site makes its own from the study it approved and the task it was given.

    Attributes:
        study: the study's name or digest.
        round: from 1.
        roster: each site's long-lived Ed25519 public key, 32 bytes, by name. A site's place
            in the sorted names stands for it in messages.
        min_cohort: the fewest sites in a sum.
        colluders: how many sites may side with the coordinator, T.
        layout: what is summed.
        task: SHA-256 over the model's bytes and the instruction. A query that is asked
            again has the same task again.
        losses_percent: the share of a cohort of more than 100 that a round outlives; such a
            cohort is masked on a sparse graph (see graph.py). No matter in smaller ones.
    """

    study: str
    round: int
    roster: Mapping[str, bytes]
    min_cohort: int
    colluders: int
    layout: Layout
    task: bytes
    losses_percent: int = 30

    def __post_init__(self) -> None:
        keys = list(self.roster.values())
        _must(1 <= self.round < 2**32, f"round must be from 1 to 2^32 - 1, found {self.round}. Count from 1.")
        _must(len(keys) < 2**16, f"a roster must have fewer than 65536 sites, found {len(keys)}. Split the study.")
        _must(len(self.task) == DIGEST_BYTES, f"task must be a digest of 32 bytes, found {len(self.task)}. Hash it.")
        fault = next(filter(None, map(fault_of_key, keys)), None)
        _must(fault is None, f"a site's key must be Ed25519, found {fault}. Use what fedhealth site keys init printed.")
        _must(len(set(keys)) == len(keys), "sites must have keys of their own, found one twice. Make new keys.")
        _must(0 <= self.colluders < 2**16, f"colluders must be 0 or more, found {self.colluders}. Correct it.")
        _must(
            0 <= self.losses_percent <= 45,
            f"losses_percent must be from 0 to 45, found {self.losses_percent}. Lower it.",
        )
        _must(
            1 <= self.min_cohort <= min(len(keys), self.layout.cohort_max),
            f"min_cohort must be from 1 to the roster and cohort_max, found {self.min_cohort}. Lower it.",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The roster's names in order."""
        return tuple(sorted(self.roster))

    def threshold(self, sites: int) -> int:
        """How many of `sites` sites make a quorum: any two quorums share an honest site, 2t > sites + T."""
        return (sites + self.colluders) // 2 + 1

    def quorum(self, sites: int) -> int:
        """How many must confirm before anything is revealed."""
        return max(self.min_cohort, self.threshold(sites))

    def pack(self) -> bytes:
        """The terms as bytes, the same for equal terms only."""
        roster = b"".join(sized(name.encode()) + self.roster[name] for name in self.names)
        numbers = number(self.round, 4) + number(self.min_cohort, 2) + number(self.colluders, 2)
        return b"".join(
            (
                HEAD,
                sized(self.study.encode()),
                numbers,
                number(self.losses_percent, 1),
                number(len(self.roster), 2),
                roster,
                self.task,
                self.layout.pack(),
            )
        )

    def digest(self) -> bytes:
        """SHA-256 over the bytes: what a site signs."""
        return hashlib.sha256(self.pack()).digest()


def unpack_terms(data: bytes) -> Terms:
    """The terms in a message.

    Raises:
        Refused: `malformed`.
    """
    reader = Reader(data, HEAD)
    study = reader.text()
    round_, min_cohort, colluders = reader.number(4), reader.number(2), reader.number(2)
    losses_percent = reader.number(1)
    roster = [(reader.text(), reader.take(KEY_BYTES)) for _ in range(reader.number(2))]
    task = reader.take(DIGEST_BYTES)
    layout = layout_from(reader)
    reader.end()
    if [name for name, _ in roster] != sorted({name for name, _ in roster}):
        raise malformed("sites out of order or twice")
    try:
        return Terms(study, round_, dict(roster), min_cohort, colluders, layout, task, losses_percent)
    except SettingError:
        raise malformed("terms that break a rule") from None


def agree(own: Terms, offered: Terms) -> None:
    """Refuse what the coordinator offers unless it is what this site made itself.

    Raises:
        Refused: naming the first thing that differs.
    """
    pairs = (
        ("another_study", own.study, offered.study),
        ("another_round", own.round, offered.round),
        ("roster_changed", dict(own.roster), dict(offered.roster)),
        ("another_threshold", _thresholds(own), _thresholds(offered)),
        ("another_layout", own.layout, offered.layout),
        ("another_task", own.task, offered.task),
    )
    for code, mine, theirs in pairs:
        if mine != theirs:
            raise refused(code, "another one")


def check_floor(terms: Terms, floor: int) -> None:
    """Refuse terms under which a site could be told apart.

    Args:
        terms: of the round.
        floor: the site's own least cohort.

    Raises:
        Refused: `min_cohort_unsafe` or `min_cohort_below_floor`.
    """
    if terms.min_cohort < max(3, terms.colluders + 2):
        raise refused("min_cohort_unsafe", f"{terms.min_cohort} with {terms.colluders} colluders")
    if terms.min_cohort < floor:
        raise refused("min_cohort_below_floor", f"{terms.min_cohort} with a floor of {floor}")


def _thresholds(terms: Terms) -> tuple[int, int, int]:
    return terms.min_cohort, terms.colluders, terms.losses_percent


def _must(holds: bool, message: str) -> None:
    if not holds:
        raise SettingError(message)
