"""A site's half of a round: five steps, each once.

    START ─advertise→ ADVERTISED ─share→ SHARED ─mask→ MASKED ─confirm→ CONFIRMED ─reveal→ DONE

A step begins by making the session DEAD, and only its success makes it anything else:
whatever is refused, and whatever else goes wrong, ends the round for this site, and its
secrets are dropped. Stages only grow, so whoever stores a session can tell an old one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedhealth.secagg.protocol.codec import word_type, wrong_shape
from fedhealth.secagg.protocol.keys import (
    SEED_BYTES,
    commitment,
    derive,
    open_share,
    own_mask_key,
    pair_mask,
    public_bytes,
    round_keys,
    seal_share,
    sign,
    vector_tag,
)
from fedhealth.secagg.protocol.messages import Advert, Cohort, Confirm, Inbox, Masked, Quorum, Reveal, Shares, Survivors
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.session import (
    Round,
    check_cohort,
    confirmed,
    once,
    round_of,
)
from fedhealth.secagg.protocol.shamir import COEFFICIENT_BYTES, SHARE_BYTES, split
from fedhealth.secagg.protocol.site_state import SiteState, Stage, unpack_state
from fedhealth.secagg.protocol.streams import add_streams, keystream
from fedhealth.secagg.protocol.terms import Terms, check_floor

if TYPE_CHECKING:
    from collections.abc import Collection

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fedhealth.secagg.protocol.codec import Words


class SiteSession:
    """One site in one round; made by `start` or `load`.

    Store `dump()`, sealed, before a step's message leaves.
    """

    def __init__(self, state: SiteState, identity: Ed25519PrivateKey) -> None:
        terms = state.terms
        if terms.roster[terms.names[state.place]] != identity.public_key().public_bytes_raw():
            raise refused("not_on_roster", "another key")
        self._state = state
        self._identity = identity
        self._round: Round | None = None

    @classmethod
    def start(
        cls,
        terms: Terms,
        site: str,
        identity: Ed25519PrivateKey,
        *,
        floor: int,
        seed: bytes,
        spare: tuple[tuple[int, bytes], ...] = (),
    ) -> SiteSession:
        """A site that has done nothing yet.

        Args:
            terms: made by the site from what it approved (see `terms.agree`).
            site: its name on the roster.
            identity: its long-lived key.
            floor: the least cohort that the site accepts.
            seed: 32 secret random bytes, as of `os.urandom`, for this session alone.
            spare: of noise in this site's words that is more than a larger sum needs: from how many
                survivors on, and the key it was drawn from, which is told with the reveal then and never before.

        Raises:
            Refused: `not_on_roster`, `min_cohort_unsafe` or `min_cohort_below_floor`.
        """
        if len(seed) != SEED_BYTES or any(len(key) != SEED_BYTES for _, key in spare):
            raise ValueError("a seed and a key of noise are 32 bytes")
        check_floor(terms, floor)
        if site not in terms.roster:
            raise refused("not_on_roster", "no such name")
        return cls(SiteState(terms, terms.names.index(site), seed=seed, spare=spare), identity)

    @classmethod
    def load(cls, dumped: bytes, identity: Ed25519PrivateKey, *, at_least: Stage) -> SiteSession:
        """The session that was dumped; it goes on as if it had never stopped.

        Args:
            dumped: by `dump`, opened from its seal.
            identity: the site's long-lived key.
            at_least: how far the site knows this round to have come, from a counter that
                is kept apart from the dump.

        Raises:
            Refused: `rolled_back` where the dump is older than that; `malformed`; `not_on_roster`.
        """
        state = unpack_state(dumped)
        if state.stage < at_least:
            raise refused("rolled_back", f"{state.stage.name} where {at_least.name} was reached")
        return cls(state, identity)

    def dump(self) -> bytes:
        """The session as bytes, secrets of the round among them; to be sealed."""
        return self._state.pack()

    @property
    def stage(self) -> Stage:
        """What was done last."""
        return self._state.stage

    @property
    def terms(self) -> Terms:
        """The round's terms."""
        return self._state.terms

    @property
    def survivors(self) -> frozenset[str]:
        """The names of the sites in the sum, once this site has confirmed them."""
        return frozenset(self.terms.names[site] for site in self._state.survivors)

    @property
    def rounding_key(self) -> bytes:
        """The secret with which this site rounds its values (`codec.encode`); gone once they are masked."""
        if not self._state.seed:
            raise refused("out_of_order", self.stage.name)
        return derive(self._state.seed, b"rounding")

    def advertise(self) -> Advert:
        """Take part: the keys of this round, signed with its terms."""
        state = self._begin(Stage.ADVERTISED)
        advert = self._advert(state)
        self._state = replace(state, stage=Stage.ADVERTISED)
        return advert

    def share(self, cohort: Cohort) -> Shares:
        """Check who takes part, and share both secrets among this site's neighbours.

        Raises:
            Refused: an advert is not on the roster, not signed for these terms or not fresh,
                this site's own was changed, or they are too few or too many.
        """
        state = self._begin(Stage.SHARED)
        own = [advert for advert in cohort.adverts if advert.site == state.place]
        if not own:
            raise refused("left_out", "a cohort without it")
        if own[0] != self._advert(state):
            raise refused("own_advert_changed", "another one")
        check_cohort(state.terms, cohort)
        now = self._now(replace(state, cohort=cohort))
        keys = round_keys(state.seed)
        holders = sorted(now.graph.holders(state.place))
        points = [holder + 1 for holder in holders]
        threshold = now.graph.threshold
        size = COEFFICIENT_BYTES * (threshold - 1)
        randomness = keystream(keys.polynomials, 2 * size)
        own_masks = split(keys.own_mask, threshold, points, randomness[:size])
        mask_keys = split(keys.mask_key.private_bytes_raw(), threshold, points, randomness[size:])
        both = {site: a + b for site, a, b in zip(holders, own_masks, mask_keys, strict=True)}
        kept = both.pop(state.place)
        sealed = {
            to: seal_share(keys.share_key, now.adverts[to].share_key, now.digest, (state.place, to), share)
            for to, share in both.items()
        }
        self._state = replace(state, stage=Stage.SHARED, cohort=cohort, held={state.place: kept})
        return Shares(state.place, now.digest, sealed)

    def mask(self, inbox: Inbox, words: Words, *, threads: int = 1) -> Masked:
        """The site's vector under its masks.

        Args:
            inbox: who shared, and the shares for this site.
            words: [dimension] of the layout, as `codec.encode` gives them, with any noise; left as they are.
            threads: pieces of the vector worked on at once.

        Raises:
            Refused: the sites are too few or not of the cohort, a share is missing or not
                authentic, or the words are not of the layout.
        """
        state = self._begin(Stage.MASKED)
        now = self._now(state)
        self._among(inbox.sites, now.adverts)
        now.enough(inbox.sites, "too_few_shares")
        neighbours = sorted(now.graph.neighbours[state.place] & set(inbox.sites))
        if sorted(inbox.sealed) != neighbours:
            raise refused("shares_missing", "others")
        layout = state.terms.layout
        if words.dtype != word_type(layout) or words.shape != (layout.dimension,):
            raise wrong_shape(f"words must be {layout.dimension} of {layout.bits} bits", f"{words.shape} {words.dtype}")
        keys = round_keys(state.seed)
        agreed = now.agreed(inbox.sites)
        held = dict(state.held)
        plus: list[bytes] = [own_mask_key(keys.own_mask, agreed)]
        minus: list[bytes] = []
        for site in neighbours:
            advert, sealed = now.adverts[site], inbox.sealed[site]
            held[site] = open_share(keys.share_key, advert.share_key, now.digest, (site, state.place), sealed)
            key = pair_mask(keys.mask_key, advert.mask_key, agreed, (state.place, site))
            (plus if state.place < site else minus).append(key)
        masked = words.copy()
        add_streams(masked, plus, minus, threads=threads)
        tag = vector_tag(keys.share_key, now.key, agreed, state.place, masked)
        self._state = replace(state, stage=Stage.MASKED, seed=b"", held=held, shared=inbox.sites)
        return Masked(state.place, agreed, masked, tag)

    def confirm(self, survivors: Survivors, *, answered: Collection[str] | None = None) -> Confirm:
        """Sign the set of sites whose vectors are in the sum.

        Args:
            survivors: what the coordinator says.
            answered: the names this site confirmed when it answered the same task before,
                in any round; None where it never did. Store `survivors` by `terms.task`
                before the message leaves.

        Raises:
            Refused: they are too few, not of those that shared, without this site, or
                others than those of the same query before.
        """
        state = self._begin(Stage.CONFIRMED)
        now = self._now(state)
        self._among(survivors.sites, state.shared)
        now.enough(survivors.sites, "too_few_survivors")
        if answered is not None and {state.terms.names[site] for site in survivors.sites} != set(answered):
            raise refused("query_repeated", "other sites")
        signed = confirmed(now.agreed(state.shared), survivors.sites)
        self._state = replace(state, stage=Stage.CONFIRMED, survivors=survivors.sites)
        return Confirm(state.place, sign(self._identity, b"confirm", signed))

    def reveal(self, quorum: Quorum) -> Reveal:
        """Hand out shares of survivors' own masks, of lost sites' keys, and what keys of noise are spare; forget them all.

        Raises:
            Refused: too few survivors signed the set this site signed, or one of the
                signatures is not a survivor's.
        """
        state = self._begin(Stage.DONE)
        now = self._now(state)
        once(confirm.site for confirm in quorum.confirms)
        content, survivors = confirmed(now.agreed(state.shared), state.survivors), set(state.survivors)
        for confirm in quorum.confirms:
            now.check_confirm(confirm, content, survivors)
        if len(quorum.confirms) < now.quorum():
            raise refused("too_few_confirms", f"{len(quorum.confirms)} of {now.quorum()}")
        own_masks = {site: both[:SHARE_BYTES] for site, both in state.held.items() if site in state.survivors}
        mask_keys = {site: both[SHARE_BYTES:] for site, both in state.held.items() if site not in state.survivors}
        # By the survivors that a quorum signed: nobody can be told of more, and so tell of more noise.
        spare = tuple(key for least, key in state.spare if len(survivors) >= least)
        self._state = SiteState(state.terms, state.place, Stage.DONE, survivors=state.survivors)
        return Reveal(state.place, own_masks, mask_keys, spare)

    def _begin(self, target: Stage) -> SiteState:
        """The state before a step; until the step succeeds, the session is dead and knows nothing."""
        state = self._state
        self._state = SiteState(state.terms, state.place, Stage.DEAD)
        if state.stage != target - 1:
            raise refused("out_of_order", f"{target.name} after {state.stage.name}")
        return state

    def _now(self, state: SiteState) -> Round:
        """The round of the cohort; a hospital's session may come from a dump, so it is worked out where needed."""
        if self._round is None:
            self._round = round_of(state.terms, state.cohort)
        return self._round

    def _among(self, sites: Collection[int], before: Collection[int]) -> None:
        once(sites)
        if not set(sites) <= set(before):
            raise refused("not_in_cohort", "a site that is not of it")
        if self._state.place not in sites:
            raise refused("left_out", "sites without it")

    def _advert(self, state: SiteState) -> Advert:
        keys = round_keys(state.seed)
        unsigned = Advert(
            state.place, public_bytes(keys.share_key), public_bytes(keys.mask_key), commitment(keys.own_mask), b""
        )
        return replace(unsigned, signature=sign(self._identity, b"advert", (state.terms.digest(), unsigned.body())))
