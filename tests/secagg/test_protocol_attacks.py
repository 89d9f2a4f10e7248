"""What a lying coordinator, a lying site or a thief of old state may try, each refused for its own reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from masked_round import (
    STEPS,
    MaskedRound,
    identity_of,
    plain_sum,
    refusal,
    roster_of,
    round_at,
    seed_of,
    session,
    terms_of,
    words_of,
)

from fedhealth.core.errors import Refused
from fedhealth.secagg.protocol.graph import plan
from fedhealth.secagg.protocol.keys import (
    derive,
    open_share,
    own_mask_key,
    pair_mask,
    public_bytes,
    round_keys,
    sign,
    vector_tag,
)
from fedhealth.secagg.protocol.layout import Layout, Reals
from fedhealth.secagg.protocol.messages import Advert, Cohort, Confirm, Inbox, Quorum, Survivors
from fedhealth.secagg.protocol.session import round_of
from fedhealth.secagg.protocol.shamir import combine, weights_at_zero
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.site_state import Stage
from fedhealth.secagg.protocol.streams import add_streams
from fedhealth.secagg.protocol.terms import agree

A, B, C, D, E = (f"site-{i:03d}" for i in range(5))
#: The coordinator's key for the round.
KEY = public_bytes(X25519PrivateKey.from_private_bytes(derive(seed_of("coordinator"), b"coordinator")))


def with_advert(cohort: Cohort, place: int, **change) -> Cohort:
    adverts = list(cohort.adverts)
    adverts[place] = dataclasses.replace(adverts[place], **change)
    return Cohort(KEY, tuple(adverts))


def resigned(masked: MaskedRound, name: str, advert: Advert, **change) -> Advert:
    """The advert as a site that lies would send it."""
    other = dataclasses.replace(advert, **change)
    return dataclasses.replace(
        other, signature=sign(identity_of(name), b"advert", (masked.terms.digest(), other.body()))
    )


# Keys and identities


@pytest.mark.parametrize("key", ["share_key", "mask_key", "commitment"])
def test_a_coordinator_can_not_put_its_own_key_in_another_sites_place(key):
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    assert refusal(masked.sites[A].share, with_advert(cohort, 1, **{key: bytes([7]) * 32})) == "bad_signature"


@pytest.mark.parametrize("key", ["share_key", "mask_key", "commitment", "signature"])
def test_a_coordinator_can_not_change_a_sites_own_advert(key):
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    assert refusal(masked.sites[A].share, with_advert(cohort, 0, **{key: bytes(32)})) == "own_advert_changed"


def test_an_advert_of_a_sites_own_session_before_a_restart_is_not_taken_for_this_ones():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    before = session(masked.terms, A, seed=9).advertise()  # of the same terms, so well signed
    assert refusal(masked.sites[A].share, Cohort(KEY, (before, *cohort.adverts[1:]))) == "own_advert_changed"


OTHER_TERMS = {
    "round": {"round": 2},
    "study": {"study": "another"},
    "task": {"task": bytes([1]) * 32},
    "min_cohort": {"min_cohort": 4},
    "colluders": {"colluders": 1},
    "layout": {"layout": Layout((Reals("model", 4, 2.0),), 1000, 5)},
    "roster": {"roster": roster_of([A, B, C, D, E, "site-newcomer"])},
}


@pytest.mark.parametrize("change", OTHER_TERMS.values(), ids=OTHER_TERMS)
def test_an_advert_for_other_terms_is_taken_by_nobody(change):
    # Also when one site was given another model or config: its task, and so its signature, is another.
    masked = round_at("share")
    elsewhere = session(dataclasses.replace(masked.terms, **change), B, seed=3).advertise()
    (cohort,) = masked.asked[A]
    adverts = (cohort.adverts[0], elsewhere, *cohort.adverts[2:])
    assert refusal(masked.sites[A].share, Cohort(KEY, adverts)) == "bad_signature"
    assert refusal(MaskedRound(masked.terms).server.take, B, elsewhere) == "bad_signature"


@pytest.mark.parametrize(
    ("field", "code"), [("roster", "roster_changed"), ("task", "another_task"), ("layout", "another_layout")]
)
def test_terms_that_differ_from_what_the_site_knows_are_refused_before_anything_is_sent(field, code):
    own = terms_of(5)
    assert refusal(agree, own, dataclasses.replace(own, **OTHER_TERMS[field])) == code


@pytest.mark.parametrize(
    ("place", "of", "key"),
    [
        (1, "share_key", "share_key"),
        (1, "mask_key", "mask_key"),
        (1, "commitment", "commitment"),
        (1, "mask_key", "share_key"),
        (1, "share_key", "mask_key"),
        (2, "mask_key", "share_key"),
    ],
)
def test_a_key_of_another_site_or_purpose_can_not_be_used_again(place, of, key):
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    copied = resigned(masked, C, cohort.adverts[2], **{key: getattr(cohort.adverts[place], of)})
    adverts = (*cohort.adverts[:2], copied, *cohort.adverts[3:])
    assert refusal(masked.sites[A].share, Cohort(KEY, adverts)) == "key_reused"
    server = MaskedRound(masked.terms).server
    server.take(B, cohort.adverts[1])
    assert refusal(server.take, C, copied) == "key_reused"


def test_a_public_key_of_small_order_is_refused():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    weak = resigned(masked, B, cohort.adverts[1], share_key=bytes(32))
    assert refusal(masked.sites[A].share, Cohort(KEY, (cohort.adverts[0], weak, *cohort.adverts[2:]))) == "key_unsound"


# The points of order 1, 2, 4 and 8 of the curve and its twist, below 2^255 - 19 (https://cr.yp.to/ecdh.html#validate).
SMALL = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
]


@pytest.mark.parametrize("key", ["share_key", "mask_key"])
@pytest.mark.parametrize("point", SMALL)
def test_a_site_with_a_key_of_small_order_is_left_out_and_the_others_sum(key, point):
    masked = MaskedRound(terms_of(5))
    messages = masked.messages("advertise")
    weak = resigned(masked, B, messages.pop(B), **{key: point.to_bytes(32, "little")})
    assert refusal(masked.server.take, B, weak) == "key_unsound"
    for name, message in messages.items():
        masked.server.take(name, message)
    masked.close()
    assert masked.run() == plain_sum(masked.terms, {A, C, D, E})


def test_a_key_of_another_site_written_otherwise_is_not_taken_for_a_fresh_one():
    # X25519 ignores the top bit (RFC 7748, section 5), so this is the same key in other bytes.
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    key = cohort.adverts[1].mask_key
    twin = resigned(masked, C, cohort.adverts[2], mask_key=key[:31] + bytes([key[31] | 128]))
    assert (
        refusal(masked.sites[A].share, Cohort(KEY, (*cohort.adverts[:2], twin, *cohort.adverts[3:]))) == "key_unsound"
    )
    assert refusal(MaskedRound(masked.terms).server.take, C, twin) == "key_unsound"


def test_made_up_sites_are_not_on_the_roster():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    made_up = [dataclasses.replace(cohort.adverts[1], site=place) for place in (5, 6, 7)]
    assert refusal(masked.sites[A].share, Cohort(KEY, (*cohort.adverts[:2], *made_up))) == "not_on_roster"
    assert refusal(MaskedRound(masked.terms).server.take, "made-up", made_up[0]) == "sender_differs"


def test_one_sites_signature_is_no_other_sites():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    named = [dataclasses.replace(cohort.adverts[1], site=place) for place in (1, 2, 3, 4)]
    assert refusal(masked.sites[A].share, Cohort(KEY, (cohort.adverts[0], *named))) == "bad_signature"
    assert refusal(MaskedRound(masked.terms).server.take, C, named[1]) == "bad_signature"


@pytest.mark.parametrize("identity", [B, "stranger"])
def test_a_site_works_under_its_own_key_only(identity):
    start = SiteSession.start
    for name in (A, "stranger"):
        code = refusal(start, terms_of(5), name, identity_of(identity), floor=3, seed=bytes(32))
        assert code == "not_on_roster"


def test_a_site_named_twice_counts_once():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    assert refusal(masked.sites[A].share, Cohort(KEY, (*cohort.adverts, cohort.adverts[1]))) == "sent_twice"


# Who is in the sum


@pytest.mark.parametrize(
    ("min_cohort", "colluders", "floor", "code"),
    [(2, 0, 2, "min_cohort_unsafe"), (3, 2, 3, "min_cohort_unsafe"), (3, 1, 4, "min_cohort_below_floor")],
)
def test_a_site_signs_no_terms_under_its_floor(min_cohort, colluders, floor, code):
    terms = terms_of(5, min_cohort=min_cohort, colluders=colluders)
    assert refusal(session, terms, A, floor=floor) == code


def test_a_cohort_below_min_cohort_is_refused():
    masked = MaskedRound(terms_of(5, min_cohort=4))
    adverts = masked.messages("advertise")
    assert refusal(masked.sites[A].share, Cohort(KEY, (adverts[A], adverts[B], adverts[C]))) == "too_few_adverts"


def test_a_cohort_above_cohort_max_is_refused_because_its_sum_could_wrap():
    masked = MaskedRound(terms_of(6, cohort_max=5))
    adverts = masked.messages("advertise")
    assert refusal(masked.sites[A].share, Cohort(KEY, tuple(adverts.values()))) == "cohort_over_max"
    for name, advert in adverts.items():
        masked.server.take(name, advert)
    assert refusal(masked.server.cohort) == "cohort_over_max"


def told(masked: MaskedRound, name: str, sites) -> Inbox:
    """An inbox that says only these sites shared."""
    (inbox,) = masked.asked[name]
    return Inbox(tuple(sites), {site: sealed for site, sealed in inbox.sealed.items() if site in sites})


@pytest.mark.parametrize(
    ("change", "sites", "code"),
    [
        ({}, (0, 1), "too_few_shares"),
        ({"min_cohort": 4}, (0, 1, 2), "too_few_shares"),
        ({"colluders": 1}, (0, 1, 2), "no_majority"),
        ({}, (0, 1, 2, 7), "not_in_cohort"),
        ({}, (1, 2, 3), "left_out"),
        ({}, (0, 1, 1, 2), "sent_twice"),
    ],
    ids=["below 3", "below min_cohort", "no majority", "a stranger", "without me", "one twice"],
)
def test_a_set_of_sharers_that_could_not_hide_this_site_is_refused(change, sites, code):
    masked = MaskedRound(terms_of(5, **change))
    masked.until("mask")
    site = masked.sites[A]
    assert refusal(site.mask, told(masked, A, sites), words_of(masked.terms, A)) == code
    assert site.stage is Stage.DEAD


@pytest.mark.parametrize(
    ("change", "sites", "code"),
    [
        ({}, (0, 1), "too_few_survivors"),
        ({"min_cohort": 4}, (0, 1, 2), "too_few_survivors"),
        ({"colluders": 1}, (0, 1, 2), "no_majority"),
        ({}, (0, 1, 2, 4), "not_in_cohort"),
        ({}, (1, 2, 3), "left_out"),
        ({}, (0, 1, 1), "sent_twice"),
    ],
    ids=["below 3", "below min_cohort", "no majority", "one that never shared", "without me", "one twice"],
)
def test_a_set_of_survivors_that_could_not_hide_this_site_is_refused(change, sites, code):
    masked = MaskedRound(terms_of(5, **change))
    masked.until("confirm", {"share": [E]})
    assert refusal(masked.sites[A].confirm, Survivors(sites)) == code


def test_on_a_sparse_graph_a_survivor_who_lost_its_neighbours_is_not_confirmed():
    terms = terms_of(102, d=1, losses_percent=10)
    degree, threshold = plan(102, 0, 10)
    adverts = tuple(session(terms, name).advertise() for name in terms.names)
    now = round_of(terms, Cohort(KEY, adverts))
    cut = sorted(now.graph.neighbours[50])[: degree - threshold + 1]
    with pytest.raises(Refused) as refused:
        now.enough([place for place in range(102) if place not in cut], "too_few_survivors")
    assert refused.value.code == "neighbours_lost"


def test_sites_told_different_sharers_open_nothing():
    masked = round_at("mask")
    masked.asked[A] = (told(masked, A, (0, 1, 2)),)
    messages = masked.messages("mask")
    assert refusal(masked.server.take, A, messages[A]) == "another_view"
    # A coordinator that takes the vector nevertheless gets no signature the others accept.
    survivors = Survivors((0, 1, 2))
    confirms = [masked.sites[name].confirm(survivors) for name in (A, B, C)]
    assert refusal(masked.sites[B].reveal, Quorum(tuple(confirms))) == "bad_signature"
    assert refusal(masked.sites[A].reveal, Quorum((confirms[0],))) == "too_few_confirms"


def test_of_two_sets_of_survivors_at_most_one_is_opened():
    masked = round_at("confirm")
    one, other = Survivors((0, 1, 2, 3)), Survivors((1, 2, 3, 4))
    # B, C and D are in both, and each signs once.
    signed = {A: one, B: one, C: other, D: other, E: other}
    confirms = {name: masked.sites[name].confirm(survivors) for name, survivors in signed.items()}
    assert refusal(masked.fork().sites[A].reveal, Quorum((confirms[A], confirms[B]))) == "too_few_confirms"
    assert refusal(masked.fork().sites[A].reveal, Quorum(tuple(confirms[n] for n in (A, B, C)))) == "bad_signature"
    assert refusal(masked.fork().sites[E].reveal, Quorum(tuple(confirms[n] for n in (C, D, E)))) == ""
    assert refusal(masked.sites[C].confirm, one) == "out_of_order"


def test_a_confirmation_that_is_forged_foreign_double_or_missing_opens_nothing():
    masked = MaskedRound(terms_of(5))
    masked.until("reveal", {"mask": [E]})
    (quorum,) = masked.asked[A]
    confirms = quorum.confirms
    forged = dataclasses.replace(confirms[1], signature=bytes(64))
    foreign = Confirm(4, confirms[1].signature)
    renamed = [Confirm(place, confirms[1].signature) for place in range(4)]
    for told_, code in (
        ((confirms[0], forged, confirms[2]), "bad_signature"),
        ((*confirms, foreign), "foreign_confirm"),
        ((confirms[0], confirms[1], confirms[1]), "sent_twice"),
        (tuple(renamed), "bad_signature"),
        (confirms[:2], "too_few_confirms"),
        ((), "too_few_confirms"),
    ):
        site = masked.fork().sites[A]
        assert refusal(site.reveal, Quorum(told_)) == code
        assert site.stage is Stage.DEAD
    assert refusal(masked.fork().sites[A].reveal, Quorum(confirms[:3])) == ""


@pytest.mark.parametrize(("n", "min_cohort", "colluders"), [(5, 3, 0), (7, 3, 1), (8, 6, 2), (5, 5, 0)])
def test_one_confirmation_short_of_a_quorum_opens_nothing(n, min_cohort, colluders):
    masked = MaskedRound(terms_of(n, min_cohort=min_cohort, colluders=colluders))
    masked.until("reveal")
    (quorum,) = masked.asked[A]
    least = max(min_cohort, (n + colluders) // 2 + 1)
    assert refusal(masked.fork().sites[A].reveal, Quorum(quorum.confirms[: least - 1])) == "too_few_confirms"
    assert refusal(masked.fork().sites[A].reveal, Quorum(quorum.confirms[:least])) == ""


# Revealing


@pytest.mark.parametrize("lost", [{}, {"mask": [E]}, {"share": [E], "mask": [D]}])
def test_no_site_is_revealed_alive_and_dead(lost):
    masked = MaskedRound(terms_of(5))
    masked.until("reveal", lost)
    for message in masked.messages("reveal").values():
        assert not set(message.own_masks) & set(message.mask_keys)


def test_a_site_that_reveals_of_one_site_both_kinds_is_not_taken():
    masked = MaskedRound(terms_of(5))
    masked.until("reveal", {"mask": [E]})
    reveal = masked.messages("reveal")[A]
    both = dataclasses.replace(reveal, own_masks={**reveal.own_masks, 4: bytes(33)})
    assert refusal(masked.server.take, A, both) == "reveal_mismatch"
    fewer = dataclasses.replace(reveal, mask_keys={})
    assert refusal(masked.server.take, A, fewer) == "reveal_mismatch"


def test_a_second_reveal_is_refused_and_nothing_is_left_to_reveal():
    masked = round_at("reveal")
    (quorum,) = masked.asked[A]
    site = masked.sites[A]
    first = site.reveal(quorum)
    stored = site.dump()
    assert refusal(site.reveal, quorum) == "out_of_order"
    again = SiteSession.load(stored, identity_of(A), at_least=Stage.DONE)
    assert refusal(again.reveal, quorum) == "out_of_order"
    assert not any(share in stored for share in first.own_masks.values())


def test_a_thief_of_stored_state_finds_only_what_later_steps_need():
    masked, keys, found = MaskedRound(terms_of(5)), round_keys(seed_of(A)), {}
    secrets = (seed_of(A), keys.own_mask, keys.mask_key.private_bytes_raw(), keys.share_key.private_bytes_raw())
    for step in STEPS:
        masked.one(step)
        stored = masked.sites[A].dump()
        found[step] = any(secret in stored for secret in secrets)
    assert found == {"advertise": True, "share": True, "mask": False, "confirm": False, "reveal": False}


def test_state_that_was_rolled_back_is_not_taken_up():
    masked, stored = MaskedRound(terms_of(5)), {}
    for step in STEPS:
        stored[masked.sites[A].stage] = masked.sites[A].dump()
        masked.one(step)
    for stage, dumped in stored.items():
        assert refusal(SiteSession.load, dumped, identity_of(A), at_least=Stage(stage + 1)) == "rolled_back"
        assert refusal(SiteSession.load, dumped, identity_of(A), at_least=stage) == ""


def test_a_stored_session_of_another_site_or_changed_on_disk_is_not_taken_up():
    stored = round_at("confirm").sites[A].dump()
    assert refusal(SiteSession.load, stored, identity_of(B), at_least=Stage.START) == "not_on_roster"
    for spoilt in (stored[:-1], stored + b"\0", b"x" + stored[1:], stored[:4] + b"S\x09" + stored[6:]):
        assert refusal(SiteSession.load, spoilt, identity_of(A), at_least=Stage.START) == "malformed"


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_refusal_is_final_and_leaves_no_secret_behind(step):
    masked = round_at(step)
    site = masked.sites[A]
    wrong = {
        "share": (Cohort(KEY, ()),),
        "mask": (Inbox((), {}), words_of(masked.terms, A)),
        "confirm": (Survivors(()),),
        "reveal": (Quorum(()),),
    }[step]
    assert refusal(getattr(site, step), *wrong)
    keys, left = round_keys(seed_of(A)), site.dump()
    for secret in (seed_of(A), keys.own_mask, keys.polynomials, keys.mask_key.private_bytes_raw()):
        assert secret not in left
    for share in round_at("reveal").messages("reveal")[A].own_masks.values():
        assert share not in left
    right = (*masked.asked[A], *((words_of(masked.terms, A),) if step == "mask" else ()))
    assert refusal(getattr(site, step), *right) == "out_of_order"
    assert refusal(site.advertise) == "out_of_order"


def test_on_a_sparse_graph_one_neighbour_fewer_than_the_threshold_opens_no_secret():
    terms = terms_of(102, d=1, losses_percent=10, colluders=1)
    sessions = [session(terms, name) for name in terms.names]
    cohort = Cohort(KEY, tuple(each.advertise() for each in sessions))
    now, (_, threshold) = round_of(terms, cohort), plan(102, 1, 10)
    sealed = sessions[0].share(cohort).sealed
    own, mask = {}, {}
    for place in sorted(sealed)[:threshold]:
        key = round_keys(seed_of(terms.names[place])).share_key
        both = open_share(key, now.adverts[0].share_key, now.digest, (0, place), sealed[place])
        own[place + 1], mask[place + 1] = both[:33], both[33:]
    for shares, secret in (
        (own, round_keys(seed_of(A)).own_mask),
        (mask, round_keys(seed_of(A)).mask_key.private_bytes_raw()),
    ):
        fewer = dict(list(shares.items())[1:])
        assert combine(shares, weights_at_zero(list(shares))) == secret
        assert combine(fewer, weights_at_zero(list(fewer))) != secret


# Vectors


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(4, "<u4"),
        np.zeros(6, "<u4"),
        np.zeros((5, 1), "<u4"),
        np.zeros(5, "<u8"),
        np.zeros(5, "<i4"),
        np.zeros(5, "<f4"),
    ],
    ids=["too short", "too long", "two axes", "64 bits", "signed", "real"],
)
def test_words_of_another_dimension_or_type_are_not_masked(words):
    masked = round_at("mask")
    assert refusal(masked.sites[A].mask, *masked.asked[A], words) == "wrong_shape"
    message = masked.sites[B].mask(*masked.asked[B], words_of(masked.terms, B))
    if words.ndim == 1:
        assert refusal(masked.server.take, B, dataclasses.replace(message, words=words)) == "wrong_shape"


def test_the_key_for_rounding_is_gone_with_the_seed_it_comes_from():
    masked = round_at("confirm")
    with pytest.raises(Refused) as refused:
        _ = masked.sites[A].rounding_key
    assert refused.value.code == "out_of_order"


def test_a_mask_is_used_for_one_vector():
    masked = round_at("mask")
    site = masked.sites[A]
    stored = site.dump()
    site.mask(*masked.asked[A], words_of(masked.terms, A))
    assert refusal(site.mask, *masked.asked[A], words_of(masked.terms, B)) == "out_of_order"
    assert refusal(SiteSession.load, stored, identity_of(A), at_least=Stage.MASKED) == "rolled_back"


def test_a_vector_changed_on_its_way_is_not_added():
    masked = round_at("mask")
    message = masked.messages("mask")[A]
    for place in (0, len(message.words) - 1):
        words = message.words.copy()
        words[place] ^= np.uint32(1)
        changed = dataclasses.replace(message, words=words)
        assert refusal(masked.server.take, A, changed) == "vector_not_authentic"
    assert refusal(masked.server.take, A, dataclasses.replace(message, tag=bytes(16))) == "vector_not_authentic"
    assert refusal(masked.server.take, A, message) == ""


def test_no_other_site_makes_the_tag_of_a_sites_vector():
    masked = round_at("mask")
    messages = masked.messages("mask")
    renamed = dataclasses.replace(messages[B], site=0)
    assert refusal(masked.server.take, A, renamed) == "vector_not_authentic"
    # Nor does it in A's place, from all that it knows.
    own, (cohort,) = round_keys(seed_of(B)).share_key, round_at("share").asked[A]
    for theirs in (KEY, cohort.adverts[0].share_key):
        tag = vector_tag(own, theirs, messages[A].agreed, 0, messages[B].words)
        forged = dataclasses.replace(messages[A], words=messages[B].words, tag=tag)
        assert refusal(masked.server.take, A, forged) == "vector_not_authentic"


def test_a_tag_is_of_one_round():
    masked, other = round_at("mask"), MaskedRound(terms_of(5), seed=1)
    other.until("mask")
    replayed = dataclasses.replace(other.messages("mask")[A], agreed=masked.messages("mask")[A].agreed)
    assert refusal(masked.server.take, A, replayed) == "vector_not_authentic"


def test_who_puts_its_own_key_in_the_coordinators_place_is_believed_by_nobody():
    (cohort,) = round_at("share").asked[A]
    theirs = Cohort(public_bytes(X25519PrivateKey.from_private_bytes(bytes([7]) * 32)), cohort.adverts)
    on_one_wire, on_every_wire = round_at("share"), round_at("share")
    on_one_wire.asked[A] = (theirs,)
    messages = on_one_wire.messages("share")
    assert refusal(on_one_wire.server.take, A, messages.pop(A)) == "another_view"
    for name, message in messages.items():
        on_one_wire.server.take(name, message)
    on_one_wire.close()
    on_one_wire.until(None)
    assert on_one_wire.total.tolist() == plain_sum(on_one_wire.terms, {B, C, D, E})
    on_every_wire.asked = dict.fromkeys(on_every_wire.asked, (theirs,))
    for name, message in on_every_wire.messages("share").items():
        assert refusal(on_every_wire.server.take, name, message) == "another_view"


def test_shares_for_another_cohort_open_nowhere_whatever_they_say():
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    theirs = Cohort(public_bytes(X25519PrivateKey.from_private_bytes(bytes([7]) * 32)), cohort.adverts)
    masked.asked[A] = (theirs,)
    messages = masked.messages("share")
    for name, message in messages.items():
        masked.server.take(name, dataclasses.replace(message, cohort=messages[B].cohort))
    masked.close()
    assert masked.messages("mask") == {}
    assert masked.refusals == dict.fromkeys((A, B, C, D, E), "share_not_authentic")


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("of", ["share_key", "mask_key"])
def test_the_coordinators_key_is_no_sites_and_gives_a_secret(place, of):
    masked = round_at("share")
    (cohort,) = masked.asked[A]
    copied = Cohort(getattr(cohort.adverts[place], of), cohort.adverts)
    assert refusal(masked.fork().sites[A].share, copied) == "key_reused"
    for point in (*SMALL, 2**255 - 19):
        weak = Cohort(point.to_bytes(32, "little"), cohort.adverts)
        assert refusal(masked.fork().sites[A].share, weak) == "key_unsound"


def test_a_late_vector_is_not_taken_and_its_own_mask_still_covers_it():
    masked = round_at("mask")
    late = masked.messages("mask", without=())[E]
    masked = round_at("mask")
    masked.until("confirm", {"mask": [E]})
    assert refusal(masked.server.take, E, late) == "out_of_order"
    masked.until(None)
    assert masked.total.tolist() == plain_sum(masked.terms, {A, B, C, D})
    # The coordinator now knows E's mask key. It takes off every mask between pairs, and what is left is
    # not E's words but those under E's own mask, of which nobody revealed a share.
    keys = round_keys(seed_of(E))
    now = round_of(
        masked.terms, Cohort(KEY, tuple(session(masked.terms, name).advertise() for name in masked.terms.names))
    )
    agreed = now.agreed(range(5))
    pairs = [pair_mask(keys.mask_key, now.adverts[site].mask_key, agreed, (4, site)) for site in range(4)]
    left = late.words.copy()
    add_streams(left, pairs, [])
    assert left.tolist() != words_of(masked.terms, E).tolist()
    add_streams(left, [], [own_mask_key(keys.own_mask, agreed)])
    assert left.tolist() == words_of(masked.terms, E).tolist()


# Shares


def test_a_share_that_is_tampered_with_swapped_or_sent_back_is_not_authentic():
    masked = round_at("mask")
    (inbox,) = masked.asked[A]
    (of_b,) = masked.asked[B]
    sealed = dict(inbox.sealed)
    tampered = {**sealed, 1: sealed[1][:-1] + bytes([sealed[1][-1] ^ 1])}
    swapped = {**sealed, 1: sealed[2], 2: sealed[1]}
    sent_back = {**sealed, 1: of_b.sealed[0]}  # what A sealed for B
    for changed in (tampered, swapped, sent_back):
        site = masked.fork().sites[A]
        assert refusal(site.mask, Inbox(inbox.sites, changed), words_of(masked.terms, A)) == "share_not_authentic"


def test_a_share_of_another_round_is_not_authentic():
    masked, other = round_at("mask"), MaskedRound(terms_of(5, round=2))
    other.until("mask")
    (inbox,) = masked.asked[A]
    replayed = Inbox(inbox.sites, {**inbox.sealed, 1: other.asked[A][0].sealed[1]})
    assert refusal(masked.sites[A].mask, replayed, words_of(masked.terms, A)) == "share_not_authentic"


def test_shares_are_for_each_neighbour_and_for_no_other():
    masked = round_at("mask")
    (inbox,) = masked.asked[A]
    fewer = {site: sealed for site, sealed in inbox.sealed.items() if site != 1}
    assert refusal(masked.sites[A].mask, Inbox(inbox.sites, fewer), words_of(masked.terms, A)) == "shares_missing"
    masked = round_at("mask")
    (inbox,) = masked.asked[A]
    more = Inbox((0, 1, 2, 3), dict(inbox.sealed))  # with one of E, who is said not to have shared
    assert refusal(masked.sites[A].mask, more, words_of(masked.terms, A)) == "shares_missing"
    masked = round_at("share")
    shares = masked.messages("share")[A]
    assert refusal(masked.server.take, A, dataclasses.replace(shares, sealed={1: shares.sealed[1]})) == "shares_missing"


def revealed_falsely(kind: str, liars) -> MaskedRound:
    """A round with a threshold of 3 where A to D reveal, the liars a wrong share of B's own mask or of E's key."""
    masked = MaskedRound(terms_of(5))
    masked.until("reveal", {"mask": [E]})
    owner = {"own_masks": 1, "mask_keys": 4}[kind]
    for name, message in masked.messages("reveal").items():
        shares = dict(getattr(message, kind))
        if name in liars:  # each by another amount: equal errors can cancel
            shares[owner] = (int.from_bytes(shares[owner], "big") ^ (1 << message.site)).to_bytes(33, "big")
        masked.server.take(name, dataclasses.replace(message, **{kind: shares}))
    return masked


@pytest.mark.parametrize("kind", ["own_masks", "mask_keys"])
@pytest.mark.parametrize("liar", [A, B, C, D])
def test_one_false_share_does_not_end_a_round_that_has_one_to_spare(kind, liar):
    masked = revealed_falsely(kind, {liar})
    masked.close()
    assert masked.total.tolist() == plain_sum(masked.terms, {A, B, C, D})


@pytest.mark.parametrize(("kind", "owner"), [("own_masks", B), ("mask_keys", E)])
def test_more_false_shares_of_one_site_end_the_round_and_name_the_site(kind, owner):
    masked = revealed_falsely(kind, {A, C})
    with pytest.raises(Refused, match=owner) as refused:
        masked.close()
    assert refused.value.code == "bad_share"
    assert masked.total is None


def test_one_false_share_ends_a_round_that_has_none_to_spare():
    masked = MaskedRound(terms_of(5))
    masked.until("reveal")
    messages = masked.messages("reveal", without=[D, E])
    shares = {**messages[A].own_masks, 1: bytes(33)}
    messages[A] = dataclasses.replace(messages[A], own_masks=shares)
    for name, message in messages.items():
        masked.server.take(name, message)
    assert refusal(masked.close) == "bad_share"


# The coordinator's own checks


def test_a_message_is_of_its_sender_of_its_step_and_comes_once():
    masked = round_at("share")
    messages = masked.messages("share")
    assert refusal(masked.server.take, B, messages[A]) == "sender_differs"
    assert refusal(masked.server.take, A, masked.asked[A][0].adverts[0]) == "out_of_order"
    masked.server.take(A, messages[A])
    assert refusal(masked.server.take, A, messages[A]) == "sent_twice"


def test_a_site_that_missed_a_step_is_not_in_the_next():
    masked = round_at("share")
    messages = masked.messages("share")
    for name in (A, B, C, D):
        masked.server.take(name, messages[name])
    masked.close()
    assert E not in masked.server.awaited
    late = round_at("mask").messages("mask")[E]
    assert refusal(masked.server.take, E, late) == "not_in_cohort"


def test_steps_of_the_coordinator_are_closed_in_their_order():
    for verb in ("inboxes", "survivors", "quorum", "total"):
        server = MaskedRound(terms_of(3)).server
        assert refusal(getattr(server, verb)) == "out_of_order"
        assert refusal(server.cohort) == "out_of_order"


def test_fewer_reveals_than_the_threshold_open_nothing():
    masked = round_at("reveal")
    messages = masked.messages("reveal")
    for name in (A, B):
        masked.server.take(name, messages[name])
    assert refusal(masked.close) == "too_few_reveals"
    assert refusal(masked.server.take, C, messages[C]) == "out_of_order"


# Queries


def test_a_query_answered_once_is_not_answered_with_one_site_fewer_or_more():
    # Two sums of the same values, of the same sites but one, would give that one's values away.
    masked = round_at("confirm")
    masked.sites[A].confirm(Survivors((0, 1, 2, 3, 4)))
    answered = masked.sites[A].survivors
    assert answered == {A, B, C, D, E}
    again = MaskedRound(terms_of(5, round=2))
    again.until("confirm")
    same, fewer = again.fork().sites[A], again.fork().sites[A]
    assert refusal(fewer.confirm, Survivors((0, 1, 2, 3)), answered=answered) == "query_repeated"
    assert refusal(same.confirm, Survivors((0, 1, 2, 3, 4)), answered=answered) == ""
    more = again.fork().sites[A]
    assert refusal(more.confirm, Survivors((0, 1, 2, 3, 4)), answered={A, B, C, D}) == "query_repeated"
