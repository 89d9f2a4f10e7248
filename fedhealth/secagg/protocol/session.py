"""What both sides work out alike from what they have both seen.

Nothing here is secret: every site and the coordinator come to the same digests, graph and
thresholds, or their signatures don't fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.secagg.protocol.graph import Graph, graph_of
from fedhealth.secagg.protocol.keys import check_sound, digest, verify
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.wire import places

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fedhealth.secagg.protocol.messages import Advert, Cohort, Confirm
    from fedhealth.secagg.protocol.terms import Terms


@dataclass(frozen=True, slots=True)
class Round:
    """The cohort of a round, once all adverts are known.

    Attributes:
        terms: what all signed.
        names: by place.
        adverts: by place.
        key: the coordinator's public one.
        digest: over the terms, that key and all adverts; shares are sealed for it.
        graph: who works with whom.
    """

    terms: Terms
    names: tuple[str, ...]
    adverts: dict[int, Advert]
    key: bytes
    digest: bytes
    graph: Graph

    def enough(self, sites: Collection[int], code: str) -> None:
        """Refuse a set of sites that is too small for a sum.

        Raises:
            Refused: `code`, `no_majority` or `neighbours_lost`.
        """
        if len(sites) < self.terms.min_cohort:
            raise refused(code, f"{len(sites)} of {self.terms.min_cohort}")
        if len(sites) < self.terms.threshold(len(self.adverts)):
            raise refused("no_majority", f"{len(sites)} of {len(self.adverts)}")
        if not self.graph.holds(frozenset(sites)):
            raise refused("neighbours_lost", "one with fewer")

    def agreed(self, shared: Iterable[int]) -> bytes:
        """The digest of the sites that shared: masks are made under it."""
        return digest(b"agreed", self.digest, places(shared))

    def check_confirm(self, confirm: Confirm, content: tuple[bytes, bytes], survivors: Collection[int]) -> None:
        """Refuse a confirmation that is not a survivor's signature over `content`, of `confirmed`.

        Raises:
            Refused: `foreign_confirm` or `bad_signature`.
        """
        if confirm.site not in survivors:
            raise refused("foreign_confirm", f"one of place {confirm.site}")
        name = self.names[confirm.site]
        verify(self.terms.roster[name], confirm.signature, b"confirm", content, of=name)

    def quorum(self) -> int:
        """How many survivors must sign."""
        return self.terms.quorum(len(self.adverts))


def round_of(terms: Terms, cohort: Cohort) -> Round:
    """The round of a cohort, unchecked."""
    adverts = {advert.site: advert for advert in cohort.adverts}
    sites = tuple(sorted(adverts))
    parts = [adverts[site].body() + adverts[site].signature for site in sites]
    cohort_digest = digest(b"cohort", terms.digest(), cohort.key, *parts)
    graph = graph_of(sites, terms.colluders, terms.losses_percent, cohort_digest)
    return Round(terms, terms.names, adverts, cohort.key, cohort_digest, graph)


def check_cohort(terms: Terms, cohort: Cohort) -> None:
    """Refuse a cohort unless every advert is on the roster, signed and fresh, and they are neither few nor many.

    The coordinator's key needs no signature: who is told another one has another digest of the
    cohort, so the coordinator takes neither its shares nor its vector, and nobody opens the shares.

    Raises:
        Refused: with the first rule that is broken.
    """
    once(advert.site for advert in cohort.adverts)
    n = len(cohort.adverts)
    if n < terms.min_cohort:
        raise refused("too_few_adverts", f"{n} of {terms.min_cohort}")
    if n > terms.layout.cohort_max:
        raise refused("cohort_over_max", f"{n} of at most {terms.layout.cohort_max}")
    signed, names = terms.digest(), terms.names
    for advert in cohort.adverts:
        check_advert(terms, names, signed, advert)
    check_sound(cohort.key)
    keys = [cohort.key, *(key for advert in cohort.adverts for key in advert.keys)]
    if len(set(keys)) != len(keys):
        raise refused("key_reused", "one twice in a cohort")


def once(sites: Iterable[int]) -> None:
    """Refuse a site that is named twice: it would count twice.

    Raises:
        Refused: `sent_twice`.
    """
    listed = list(sites)
    if len(set(listed)) != len(listed):
        raise refused("sent_twice", "one named twice")


def check_advert(terms: Terms, names: tuple[str, ...], signed: bytes, advert: Advert) -> None:
    """Refuse an advert that its site did not sign for these terms, whose names and digest are given.

    Raises:
        Refused: `not_on_roster`, `bad_signature` or `key_unsound`.
    """
    if advert.site >= len(names):
        raise refused("not_on_roster", f"place {advert.site} of {len(names)}")
    name = names[advert.site]
    verify(terms.roster[name], advert.signature, b"advert", (signed, advert.body()), of=name)
    check_sound(advert.share_key)  # or one site ends the round for all: whoever meets such a key leaves
    check_sound(advert.mask_key)


def confirmed(agreed: bytes, survivors: Iterable[int]) -> tuple[bytes, bytes]:
    """What a site signs to confirm: who shared, and who survived."""
    return agreed, places(survivors)
