"""Rounds as they should go: the exact sum of whoever is left, or no sum."""

from __future__ import annotations

import dataclasses
import itertools
import random
import tracemalloc
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_round import STEPS, MaskedRound, plain_sum, refusal, round_at, session, terms_of, words_of
from scipy import stats

from fedhealth.core.errors import Refused
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.secagg.protocol.layout import Counts, Layout, Reals
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.secagg.protocol.site_state import Stage

pytestmark = pytest.mark.slow


def is_possible(terms, lost) -> bool:
    """Whether enough sites are left at every step, by counting."""
    left = len(terms.roster) - len(lost.get("advertise", ()))
    t = (left + terms.colluders) // 2 + 1
    possible = left >= terms.min_cohort
    for step in STEPS[1:]:
        left -= len(lost.get(step, ()))
        possible &= left >= (t if step == "reveal" else max(t, terms.min_cohort))
    return possible


def survivors_of(terms, lost) -> set[str]:
    return set(terms.names) - {name for step in ("advertise", "share", "mask") for name in lost.get(step, ())}


def explore(masked: MaskedRound, lost) -> tuple[int, int]:
    """Every way to lose sites from here on, each from a copy of the round so far: sums, and rounds that ended."""
    step = STEPS[masked.server.phase]
    messages = masked.messages(step)
    sums = ended = 0
    for size in range(len(messages) + 1):
        for some in itertools.combinations(messages, size):
            fork, gone = masked.fork(), {**lost, step: some}
            fork.asked = {name: fork.asked[name] for name in messages if name not in some}
            for name in fork.asked:
                fork.server.take(name, messages[name])
            try:
                fork.close()
            except Refused:
                assert not is_possible(masked.terms, gone)
                ended += 1
                continue
            assert is_possible(masked.terms, gone)
            if step == "reveal":
                assert fork.total.tolist() == plain_sum(masked.terms, survivors_of(masked.terms, gone))
                sums += 1
            else:
                more = explore(fork, gone)
                sums, ended = sums + more[0], ended + more[1]
    return sums, ended


# With t of n needed, the rounds that lose at most n - t: every site at one of four steps or at none.
@pytest.mark.parametrize(
    ("n", "sums"),
    [
        (3, 1 + 3),  # t = 2, but three must survive: one may be lost before it reveals
        (4, 1 + 4 * 4),
        pytest.param(5, 1 + 5 * 4 + 10 * 16, marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_losses_ends_in_the_exact_sum_or_in_none(n, sums):
    masked = MaskedRound(terms_of(n, d=3))
    masked.until("share")
    assert explore(masked, {})[0] == sums


def losses(rng: random.Random, names, most: int) -> dict[str, list[str]]:
    gone = rng.sample(list(names), rng.randint(0, most))
    lost: dict[str, list[str]] = {}
    for name in gone:
        lost.setdefault(rng.choice(STEPS), []).append(name)
    return lost


def check_random(seed: int, most_sites: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(3, most_sites)
    colluders = rng.randint(0, min(2, n - 2))
    terms = terms_of(n, d=rng.choice([1, 2, 15, 16, 17, 33]), bits=rng.choice([32, 64]), colluders=colluders)
    terms = dataclasses.replace(terms, min_cohort=rng.randint(max(3, colluders + 2), n))
    lost = losses(rng, terms.names, n - terms.quorum(n) + 1)
    masked = MaskedRound(terms, threads=rng.choice([1, 3]))
    if is_possible(terms, lost):
        assert masked.run(lost) == plain_sum(terms, survivors_of(terms, lost))
        assert masked.refusals == {}
    else:
        with pytest.raises(Refused):
            masked.run(lost)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_random_rounds_with_random_losses_end_in_the_exact_sum_or_in_none(seed):
    check_random(seed, most_sites=10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_larger_random_rounds_do_too(seed):
    check_random(seed, most_sites=60)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("n", "colluders"), [(5, 0), (7, 1), (9, 2)])
def test_as_many_sites_as_a_quorum_spares_may_be_lost_at_any_step(step, n, colluders):
    # Losing them before they advertise makes a smaller cohort, which needs min_cohort alone.
    terms = terms_of(n, colluders=colluders, min_cohort=max(3, colluders + 2))
    spared = n - terms.quorum(n)
    lost = {step: list(terms.names[:spared])}
    assert MaskedRound(terms).run(lost) == plain_sum(terms, survivors_of(terms, lost))
    if step != "advertise":
        with pytest.raises(Refused):
            MaskedRound(terms).run({step: list(terms.names[: spared + 1])})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
def test_a_large_cohort_on_a_sparse_graph_sums_exactly(seed):
    terms = terms_of(104, colluders=1, losses_percent=10)
    lost = losses(random.Random(seed), terms.names, 10)
    masked = MaskedRound(terms)
    assert masked.run(lost) == plain_sum(terms, survivors_of(terms, lost))
    shares = [message for message in masked.transcript if message[4:5] == b"C"]
    assert max(len(message) for message in shares) < 30 * 84  # far fewer than 103 neighbours


def test_what_sites_compute_comes_out_as_the_pooled_mean_and_the_exact_counts():
    layout = Layout((Reals("model", 40, 2.0), Counts("cells", 3, 90), Reals("loss", 1, 9.0)), 90, 5)
    terms = terms_of(5, layout=layout)
    masked = MaskedRound(terms)
    rng = np.random.default_rng(3)
    told = {}
    for name in terms.names:
        cells = rng.integers(0, 30, 3)
        told[name] = (int(rng.integers(1, 90)), rng.uniform(-2, 2, 40).astype(np.float32), cells, rng.uniform(0, 9, 1))
    masked.until("mask")
    words = {}
    for name, (weight, model, cells, loss) in told.items():
        values = {"model": model, "cells": cells, "loss": loss}
        words[name] = encode(layout, weight, values, masked.sites[name].rounding_key)
        masked.asked[name] = (*masked.asked[name], words[name])
    masked.asked.pop("site-002")
    left = [told[name] for name in terms.names if name != "site-002"]
    found = decode(layout, masked.until(None), 4)
    assert found.weight == sum(weight for weight, *_ in left)
    assert found.sums["cells"].tolist() == sum(cells for _, _, cells, _ in left).tolist()
    pooled = sum(weight * model.astype(float) for weight, model, _, _ in left) / found.weight
    assert np.abs(found.sums["model"] / found.weight - pooled).max() < 4 / (
        layout.scale(layout.slots[0]) * found.weight
    )
    assert found.sums["loss"][0] == pytest.approx(sum(weight * loss[0] for weight, _, _, loss in left), rel=1e-6)


@pytest.mark.parametrize("d", [1, 15, 16, 17, 4095, 4096, 4097, 70_000])
def test_any_length_is_summed_with_any_number_of_threads(d):
    terms = terms_of(3, d=d)
    rounds = [MaskedRound(terms, threads=threads) for threads in (1, 2, 5)]
    assert [masked.run() for masked in rounds] == [plain_sum(terms, terms.names)] * 3
    assert rounds[0].transcript == rounds[1].transcript == rounds[2].transcript


@pytest.mark.slow
def test_ten_million_words_are_summed():
    terms = terms_of(3, d=10_000_000)
    expected = sum((words_of(terms, name) for name in terms.names), np.zeros(1, np.uint32))
    assert np.array_equal(MaskedRound(terms, threads=2).until(None), expected)


def test_a_round_is_the_same_bytes_from_the_same_seeds_and_others_from_others():
    lost = {"mask": ["site-001"], "confirm": ["site-003"]}
    rounds = [MaskedRound(terms_of(5), seed=seed) for seed in (1, 1, 2)]
    sums = [masked.run(lost) for masked in rounds]
    assert sums[0] == sums[1] == sums[2]
    assert rounds[0].transcript == rounds[1].transcript
    assert not set(rounds[0].transcript) & set(rounds[2].transcript)


@pytest.mark.parametrize("step", [*STEPS, "over"])
def test_a_session_stored_at_any_stage_goes_on_to_the_same_bytes(step):
    straight, stored = MaskedRound(terms_of(5)), MaskedRound(terms_of(5))
    lost = {"mask": ["site-001"], "confirm": ["site-003"]}
    total = straight.run(lost)
    stored.until(None if step == "over" else step, lost)
    again = stored.fork()
    if step == "over":
        assert {site.stage for site in again.sites.values()} >= {Stage.DONE}
    else:
        assert again.until(None, lost).tolist() == total
    assert again.transcript == straight.transcript
    assert {name: site.dump() for name, site in again.sites.items()} == {
        name: site.dump() for name, site in straight.sites.items()
    }


@pytest.mark.parametrize("fill", [0, 2**32 - 1], ids=["all zero", "all largest"])
def test_a_vector_on_its_way_looks_like_noise_whatever_is_in_it(fill):
    terms = terms_of(3, d=100_000)
    masked = MaskedRound(terms)
    masked.until("mask")
    words = np.full(100_000, fill, dtype="<u4")
    sent = masked.sites["site-000"].mask(*masked.asked["site-000"], words).words
    seen = np.bincount(sent.view(np.uint8), minlength=256)
    assert stats.chisquare(seen).pvalue > 1e-6
    assert (words == fill).all()


def test_messages_are_as_short_as_promised():
    # 4 bytes a parameter and at most 200 a peer, over all that a site sends in a round.
    masked = MaskedRound(terms_of(20, d=1000))
    masked.run({"mask": ["site-004"]})
    by_site: dict[int, int] = {}
    for message in masked.transcript:
        site = int.from_bytes(message[5:7], "big")
        by_site[site] = by_site.get(site, 0) + len(message)
    assert max(by_site.values()) <= 4 * 1000 + 200 * 19


def test_the_coordinator_holds_one_sum_however_many_sites():
    masked = MaskedRound(terms_of(6, d=200_000))
    masked.until("mask")
    messages = masked.messages("mask")
    tracemalloc.start()
    peaks = []
    for name, message in messages.items():
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        masked.server.take(name, message)
        after, peak = tracemalloc.get_traced_memory()
        peaks.append((after - before, peak - before))
    tracemalloc.stop()
    assert max(after for after, _ in peaks) < 10_000
    assert max(peak for _, peak in peaks) < 100_000


# Fuzzing: sessions that are asked for anything, and bytes that are changed on their way.


@cache
def asked_for(round_: int) -> dict[str, tuple]:
    """What a site is asked for in a round, by step."""
    masked = MaskedRound(terms_of(3, round=round_))
    given_ = {}
    for step in STEPS:
        given_[step] = masked.asked["site-000"]
        masked.one(step)
    return given_


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([1, 2])), max_size=12), st.integers(0, 4))
def test_a_site_takes_each_step_once_and_in_its_order_whatever_it_is_asked(later, start):
    terms = terms_of(3)
    site, ahead, is_alive = session(terms, "site-000"), list(STEPS), True
    for step, round_ in [(step, 1) for step in STEPS[:start]] + later:
        more = (words_of(terms, "site-000"),) if step == "mask" else ()
        told = asked_for(round_)[step]
        code = refusal(getattr(site, step), *told, *more)
        # A list of survivors says no round; the confirmations that must follow do.
        is_alive &= ahead[:1] == [step] and [m.pack() for m in told] == [m.pack() for m in asked_for(1)[step]]
        if is_alive:
            assert code == ""
            ahead.pop(0)
        else:
            assert code
            assert site.stage is Stage.DEAD


def changed(message, data):
    """The message with one byte changed, or None where those bytes are no message."""
    told = bytearray(message.pack())
    place = data.draw(st.integers(0, len(told) - 1))
    told[place] ^= data.draw(st.integers(1, 255))
    return None if refusal(unpack, bytes(told)) else unpack(bytes(told))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(STEPS[1:]), st.data())
def test_one_site_told_other_bytes_leaves_the_round_and_the_sum_is_right(step, data):
    masked = round_at(step)
    victim = data.draw(st.sampled_from(masked.terms.names))
    told = changed(masked.asked.pop(victim)[0], data)
    if told is not None:
        masked.asked[victim] = (told,)
    total = masked.until(None, tolerant=True).tolist()
    without = {victim} if step in ("share", "mask") else set()
    assert total == plain_sum(masked.terms, set(masked.terms.names) - without)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STEPS), st.data())
def test_one_site_that_sends_other_bytes_costs_at_most_one_site_and_never_a_wrong_sum(step, data):
    masked = round_at(step)
    liar = data.draw(st.sampled_from(masked.terms.names))
    messages = masked.messages(step)
    told = changed(messages.pop(liar), data)
    if told is not None:
        messages[liar] = told
    refused = {name: refusal(masked.server.take, name, message) for name, message in messages.items()}
    assert not any(code for name, code in refused.items() if name != liar)
    masked.close()
    masked.until(None, tolerant=True)
    survivors = set.union(*(set(site.survivors) for site in masked.sites.values()))
    assert len(survivors) >= 4
    assert masked.total.tolist() == plain_sum(masked.terms, survivors)
