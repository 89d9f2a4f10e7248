"""Spare noise: which keys a site tells with its reveal, to whom, and that it never tells more."""

from __future__ import annotations

import dataclasses

import pytest
from masked_round import STEPS, MaskedRound, identity_of, names_of, passed, refusal, seed_of, session, terms_of

from fedhealth.secagg.protocol.messages import Quorum, Survivors
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.site_state import Stage

A, B, C, D, E, F = names_of(6)
#: Of six sites: noise that six don't need, noise that five don't.
FROM = (6, 5)


def keys_of(name):
    return tuple((least, seed_of(name, 100 + least)) for least in FROM)


def round_of_six(**change):
    terms = terms_of(6, colluders=1, **change)
    return MaskedRound(terms, spare={name: keys_of(name) for name in terms.names})


@pytest.mark.parametrize(
    ("lost", "told"),
    [([], FROM), ([B], (5,)), ([B, C], ()), (["late"], (5,))],
    ids=["all", "all but one", "all but two", "one lost before it shares"],
)
def test_a_site_tells_the_keys_that_so_many_survivors_do_not_need_and_no_other(lost, told):
    masked = round_of_six()
    masked.until("reveal", {"share": [F]} if lost == ["late"] else {"mask": lost})
    for name, message in masked.messages("reveal").items():
        assert message.spare == tuple(key for least, key in keys_of(name) if least in told)
        masked.server.take(name, message)
    masked.close()
    assert len(masked.server.spare) == 6 - len(lost)


def test_no_message_before_the_reveal_holds_a_key():
    masked = round_of_six()
    masked.until("reveal")
    sent = b"".join(masked.transcript)
    assert not any(key in sent for name in masked.sites for _, key in keys_of(name))


def test_a_site_that_was_told_of_more_survivors_than_the_others_tells_no_key():
    masked = round_of_six()
    masked.until("confirm", {"mask": [F]})
    survivors = masked.asked[A][0]
    everybody = Survivors(tuple(range(6)))
    masked.sites[A].confirm(everybody)
    others = [masked.sites[name].confirm(survivors) for name in (B, C, D, E)]
    assert refusal(masked.sites[A].reveal, Quorum(tuple(others))) == "bad_signature"
    assert masked.sites[A].stage == Stage.DEAD
    assert not any(key in masked.sites[A].dump() for _, key in keys_of(A))


@pytest.mark.parametrize("step", STEPS)
def test_a_stored_session_tells_the_same_keys_and_one_that_is_done_has_none(step):
    straight, stored = round_of_six(), round_of_six()
    straight.run({"mask": [B]})
    stored.until(step, {"mask": [B]})
    again = stored.fork()
    again.until(None, {"mask": [B]})
    assert again.transcript == straight.transcript
    for name in (A, C, D, E, F):
        assert not any(key in again.sites[name].dump() for _, key in keys_of(name))


@pytest.mark.parametrize("keys", [(), (bytes(32),), (bytes(32),) * 3], ids=["none", "one", "three"])
def test_a_reveal_with_more_or_fewer_keys_than_are_due_is_not_taken(keys):
    masked = round_of_six()
    masked.until("reveal")
    reveal = masked.messages("reveal")[A]
    assert refusal(masked.server.take, A, dataclasses.replace(reveal, spare=keys)) == "reveal_mismatch"
    assert refusal(masked.server.take, A, passed(reveal)) == ""


def test_no_secret_of_a_round_is_in_what_is_printed_of_its_state_or_its_reveal():
    masked = round_of_six()
    masked.until("reveal")
    state = masked.sites[A]._state
    secrets = [state.seed, *state.held.values(), *(key for _, key in state.spare)]
    shown = repr(state) + repr(masked.messages("reveal")[A])
    assert not any(secret and repr(secret) in shown for secret in secrets)
    assert "seed" not in shown
    assert "spare" not in shown


def test_a_site_that_reveals_nothing_costs_the_sum_nothing():
    masked = round_of_six()
    masked.run({"reveal": [B]})
    assert len(masked.server.spare) == 5


def test_a_key_of_another_size_is_refused_before_the_round():
    with pytest.raises(ValueError, match="32 bytes"):
        session(terms_of(3), A, spare=((3, b"short"),))
    with pytest.raises(ValueError, match="32 bytes"):
        SiteSession.start(terms_of(3), A, identity_of(A), floor=3, seed=b"short")
