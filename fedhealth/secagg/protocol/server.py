"""The coordinator's half of a round: take each site's message, then close the step.

    adverts → cohort()   shares → inboxes()   vectors → survivors()   confirmations → quorum()   reveals → total()

A message that is refused is not counted and changes nothing; the round goes on without it.
Closing a step fixes who is in the next; whoever comes later is out of order. Vectors are
added as they come, so the coordinator holds one sum and one vector, however many sites.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedhealth.secagg.protocol.codec import word_type, wrong_shape
from fedhealth.secagg.protocol.keys import (
    SEED_BYTES,
    check_tag,
    commitment,
    derive,
    own_mask_key,
    pair_mask,
    public_bytes,
    vector_tag,
)
from fedhealth.secagg.protocol.messages import (
    Advert,
    Cohort,
    Confirm,
    FromSite,
    Inbox,
    Masked,
    Quorum,
    Reveal,
    Shares,
    Survivors,
)
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.session import Round, check_advert, confirmed, round_of
from fedhealth.secagg.protocol.shamir import combine, weights_at_zero
from fedhealth.secagg.protocol.streams import add_streams
from fedhealth.secagg.protocol.terms import Terms, check_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from fedhealth.secagg.protocol.codec import Words


class Phase(IntEnum):
    """What the coordinator waits for."""

    ADVERTS = 0
    SHARES = 1
    VECTORS = 2
    CONFIRMS = 3
    REVEALS = 4
    DONE = 5
    DEAD = 6


EXPECTED: dict[Phase, type[FromSite]] = {
    Phase.ADVERTS: Advert,
    Phase.SHARES: Shares,
    Phase.VECTORS: Masked,
    Phase.CONFIRMS: Confirm,
    Phase.REVEALS: Reveal,
}


class ServerSession:
    """One round at the coordinator.

    Args:
        terms: of the round.
        seed: 32 secret random bytes, as of `os.urandom`, for this session alone.
        threads: pieces of the sum unmasked at once.
        spare_from: of each part of the noise that may be taken off, from how many survivors on.

    Raises:
        Refused: `min_cohort_unsafe`; no site would take part.
    """

    def __init__(self, terms: Terms, *, seed: bytes, threads: int = 1, spare_from: tuple[int, ...] = ()) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError("a seed is 32 bytes")
        check_floor(terms, 0)
        self.phase = Phase.ADVERTS
        self._terms = terms
        self._key = X25519PrivateKey.from_private_bytes(derive(seed, b"coordinator"))
        self._threads = threads
        self._spare_from = spare_from
        self._names = terms.names
        self._signed = terms.digest()
        self._awaited: set[int] = set(range(len(terms.roster)))
        self._taken: dict[int, FromSite] = {}
        self._round: Round | None = None
        self._agreed = b""
        self._shared: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._content = (b"", b"")
        self._sum: Words = np.zeros(0, dtype=word_type(terms.layout))
        self._spare: tuple[tuple[bytes, ...], ...] = ()

    @property
    def awaited(self) -> frozenset[str]:
        """The names of the sites whose message would be taken now."""
        return frozenset(self._names[site] for site in self._awaited - set(self._taken))

    def take(self, sender: str, message: FromSite) -> None:
        """Count a site's message of this phase.

        Args:
            sender: the name of the site that sent it, as the transport knows it.
            message: what it sent.

        Raises:
            Refused: the message is not counted.
        """
        if EXPECTED.get(self.phase) is not type(message):
            raise refused("out_of_order", f"{type(message).__name__} among {self.phase.name}")
        site = message.site
        if site >= len(self._names) or self._names[site] != sender:
            raise refused("sender_differs", f"place {site}")
        if site in self._taken:
            raise refused("sent_twice", f"another of {sender}")
        if site not in self._awaited:
            raise refused("not_in_cohort", sender)
        if isinstance(message, Advert):
            self._check_advert(message)
        elif isinstance(message, Shares):
            if message.cohort != self._now().digest:
                raise refused("another_view", f"{sender} with another cohort")
            if set(message.sealed) != self._now().graph.neighbours[site]:
                raise refused("shares_missing", "shares for others")
        elif isinstance(message, Masked):
            self._add(message, sender)
            message = replace(message, words=self._sum[:0])  # added; not to be kept
        elif isinstance(message, Confirm):
            self._now().check_confirm(message, self._content, self._survivors)
        else:
            self._check_reveal(message)
        self._taken[site] = message

    def cohort(self) -> Cohort:
        """Close the adverts: who takes part, for each of them.

        Raises:
            Refused: `too_few_adverts` or `cohort_over_max`; the round is over.
        """
        taken = self._close(Phase.ADVERTS)
        if len(taken) > self._terms.layout.cohort_max:
            raise refused("cohort_over_max", f"{len(taken)} of at most {self._terms.layout.cohort_max}")
        if len(taken) < self._terms.min_cohort:
            raise refused("too_few_adverts", f"{len(taken)} of {self._terms.min_cohort}")
        adverts = tuple(advert for advert in taken.values() if isinstance(advert, Advert))
        cohort = Cohort(public_bytes(self._key), adverts)
        self._round = round_of(self._terms, cohort)
        self._open(Phase.SHARES, taken)
        return cohort

    def inboxes(self) -> dict[str, Inbox]:
        """Close the shares: what each site that shared gets, by name.

        Raises:
            Refused: too few shared; the round is over.
        """
        taken, now = self._close(Phase.SHARES), self._now()
        now.enough(taken, "too_few_shares")
        self._shared = tuple(taken)
        self._agreed = now.agreed(self._shared)
        sealed = {site: shares.sealed for site, shares in taken.items() if isinstance(shares, Shares)}
        self._sum = np.zeros(self._terms.layout.dimension, dtype=word_type(self._terms.layout))
        self._open(Phase.VECTORS, taken)
        return {
            self._names[to]: Inbox(
                self._shared, {site: sealed[site][to] for site in sorted(now.graph.neighbours[to] & set(sealed))}
            )
            for to in self._shared
        }

    def survivors(self) -> Survivors:
        """Close the vectors: whose are in the sum, for each of them.

        Raises:
            Refused: too few came; the round is over.
        """
        taken = self._close(Phase.VECTORS)
        self._now().enough(taken, "too_few_survivors")
        self._survivors = tuple(taken)
        self._content = confirmed(self._agreed, self._survivors)
        self._open(Phase.CONFIRMS, taken)
        return Survivors(self._survivors)

    def quorum(self) -> Quorum:
        """Close the confirmations: as many as are enough, for each site that sent one.

        Raises:
            Refused: `too_few_confirms`; the round is over.
        """
        taken = self._close(Phase.CONFIRMS)
        least = self._now().quorum()
        if len(taken) < least:
            raise refused("too_few_confirms", f"{len(taken)} of {least}")
        self._open(Phase.REVEALS, taken)
        confirms = [confirm for confirm in taken.values() if isinstance(confirm, Confirm)]
        return Quorum(tuple(confirms[:least]))  # a site checks each, and more would not say more

    def total(self) -> Words:
        """Close the reveals: the sum of the survivors' words, [dimension].

        Raises:
            Refused: `too_few_reveals`; `bad_share`, naming the owner, where its revealed shares
                are false, by its own doing or that of sites that revealed them. The round is over.
        """
        taken, now = self._close(Phase.REVEALS), self._now()
        reveals = {site: reveal for site, reveal in taken.items() if isinstance(reveal, Reveal)}
        secrets = _Secrets(now, reveals)
        minus = [own_mask_key(secrets.own_mask(site), self._agreed) for site in self._survivors]
        plus: list[bytes] = []
        alive = set(self._survivors)
        for lost in sorted(set(self._shared) - alive):
            key = secrets.mask_key(lost)
            for site in sorted(now.graph.neighbours[lost] & alive):
                pair = pair_mask(key, now.adverts[site].mask_key, self._agreed, (site, lost))
                (minus if site < lost else plus).append(pair)
        add_streams(self._sum, plus, minus, threads=self._threads)
        self._spare = tuple(reveal.spare for reveal in reveals.values())
        self.phase = Phase.DONE
        return self._sum

    @property
    def spare(self) -> tuple[tuple[bytes, ...], ...]:
        """Of each survivor that revealed, the keys of the noise to take off the total; of each as many."""
        return self._spare

    def _check_advert(self, advert: Advert) -> None:
        check_advert(self._terms, self._names, self._signed, advert)
        known = {key for other in self._taken.values() if isinstance(other, Advert) for key in other.keys}
        if len(known | set(advert.keys)) != len(known) + len(advert.keys):
            raise refused("key_reused", "one of another advert")

    def _add(self, masked: Masked, sender: str) -> None:
        layout = self._terms.layout
        if masked.agreed != self._agreed:
            raise refused("another_view", f"{sender} with other sites")
        if masked.words.dtype != word_type(layout) or masked.words.shape != (layout.dimension,):
            raise wrong_shape(
                f"words must be {layout.dimension} of {layout.bits} bits", f"{masked.words.shape} {masked.words.dtype}"
            )
        share_key = self._now().adverts[masked.site].share_key
        check_tag(vector_tag(self._key, share_key, self._agreed, masked.site, masked.words), masked.tag, of=sender)
        np.add(self._sum, masked.words, out=self._sum)

    def _check_reveal(self, reveal: Reveal) -> None:
        held = self._now().graph.holders(reveal.site) & set(self._shared)
        alive = held & set(self._survivors)
        spare = sum(least <= len(self._survivors) for least in self._spare_from)
        if set(reveal.own_masks) != alive or set(reveal.mask_keys) != held - alive or len(reveal.spare) != spare:
            raise refused("reveal_mismatch", f"others from place {reveal.site}")

    def _now(self) -> Round:
        if self._round is None:
            raise refused("out_of_order", self.phase.name)
        return self._round

    def _close(self, phase: Phase) -> dict[int, FromSite]:
        """What came in this phase, by place in order; the round is over unless the next one opens."""
        found, self.phase = self.phase, Phase.DEAD
        if found is not phase:
            raise refused("out_of_order", f"closing {phase.name} while {found.name}")
        return dict(sorted(self._taken.items()))

    def _open(self, phase: Phase, awaited: Collection[int]) -> None:
        self.phase, self._awaited, self._taken = phase, set(awaited), {}


class _Secrets:
    """Secrets opened from revealed shares, each checked against what its owner published.

    One revealed share of a secret may be false where one more than the threshold were revealed.
    """

    def __init__(self, now: Round, reveals: dict[int, Reveal]) -> None:
        self._now = now
        self._reveals = reveals
        self._weights: dict[tuple[int, ...], dict[int, int]] = {}

    def own_mask(self, owner: int) -> bytes:
        """The secret of a survivor's own mask."""
        published = self._now.adverts[owner].commitment
        shares = {site: reveal.own_masks for site, reveal in self._reveals.items()}
        return self._open(owner, shares, lambda secret: commitment(secret) == published)

    def mask_key(self, owner: int) -> X25519PrivateKey:
        """The mask key of a lost site."""
        published = self._now.adverts[owner].mask_key
        shares = {site: reveal.mask_keys for site, reveal in self._reveals.items()}
        private = X25519PrivateKey.from_private_bytes
        return private(self._open(owner, shares, lambda secret: public_bytes(private(secret)) == published))

    def _open(self, owner: int, shares: dict[int, Mapping[int, bytes]], fits: Callable[[bytes], bool]) -> bytes:
        graph = self._now.graph
        revealed = sorted(graph.holders(owner) & set(shares))
        if len(revealed) < graph.threshold:
            raise refused("too_few_reveals", f"{len(revealed)} of {graph.threshold}")
        first, spare = revealed[: graph.threshold], revealed[graph.threshold : graph.threshold + 1]
        without = [[site for site in first + spare if site != false] for false in first] if spare else []
        for sites in (first, *without):
            secret = self._combined({site + 1: shares[site][owner] for site in sites})
            if secret is not None and fits(secret):
                return secret
        raise refused("bad_share", f"others of {self._now.terms.names[owner]}")

    def _combined(self, shares: dict[int, bytes]) -> bytes | None:
        points = tuple(shares)
        if points not in self._weights:
            self._weights[points] = weights_at_zero(points)
        return combine(shares, self._weights[points])
