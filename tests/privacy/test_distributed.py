"""Distributed privacy: the share that each hospital adds, the sum it makes, and what cannot be shared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.update import Update
from fedhealth.privacy import accountant
from fedhealth.privacy.distributed import MOST_INFLATION, Distributed, lattices
from fedhealth.privacy.noise import FARTHEST, WIDE_SIGMA, NoiseSource, wide
from fedhealth.privacy.plain import Plain
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.plain import Plain as Unmasked
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.site.masked_round import with_noise

ROUNDS = 50


def mechanism(**settings):
    return Distributed(**{"epsilon": None, "noise_multiplier": 1.3, **settings})


def summed(made, what, vectors, *, shares, drawn_by=None, seed=None):
    """What a coordinator decodes of these hospitals' vectors, the ones in `drawn_by` with their share of the noise."""
    d = len(vectors[0])
    content = Noised({"sum": (d,)}, made.lattice(what, d, rounds=ROUNDS, shares=shares))
    layout, source = content.layout(len(vectors)), NoiseSource(insecure_seed=seed)
    words = []
    for k, vector in enumerate(vectors):
        weight, values = content.values(Update(1, {"sum": np.asarray(vector, dtype=np.float64)}))
        own = encode(layout, weight, values, bytes([k]) * 32)
        words.append(own if drawn_by is not None and k not in drawn_by else with_noise(own, lambda n: wide(n, source)))
    return content.read(decode(layout, np.sum(words, axis=0, dtype=words[0].dtype), len(vectors))).arrays["sum"]


@pytest.mark.parametrize(("shares", "survivors"), [(2, 3), (2, 5), (5, 6), (5, 5), (5, 12)])
def test_the_noise_of_a_sum_has_the_variance_of_its_survivors_shares(shares, survivors):
    made, d = mechanism(max_grad_norm=0.7), 20_000
    found = summed(made, "train", np.zeros((survivors, d)), shares=shares, seed=3)
    expected = 1.3 * 0.7 * math.sqrt(survivors / shares)
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert found.mean() == pytest.approx(0, abs=5 * expected / math.sqrt(d))


def test_with_as_many_hospitals_silent_as_may_collude_the_noise_is_what_was_accounted():
    made, d = mechanism(), 20_000
    found = summed(made, "train", np.zeros((6, d)), shares=4, drawn_by={0, 1, 2, 3}, seed=4)
    assert found.std() == pytest.approx(1.3, rel=0.02)
    assert found.std() > 1.3 * 0.98


def test_the_decoded_sum_is_distributed_as_that_of_one_curator():
    """Kolmogorov and Smirnov, against the exact sum with continuous Gaussian noise."""
    made, d = mechanism(noise_multiplier=0.9), 5_000
    vectors = np.random.default_rng(0).normal(size=(5, d))
    found = summed(made, "train", vectors, shares=5, seed=5)
    away = (found - vectors.sum(axis=0)) / 0.9
    assert stats.kstest(away, "norm").pvalue > 1e-3
    # It would tell a tenth more or less noise apart.
    assert stats.kstest(away * 1.1, "norm").pvalue < 1e-3
    assert stats.kstest(away / 1.1, "norm").pvalue < 1e-3


@pytest.mark.parametrize("what", ["query.shape", "evaluate"])
def test_counts_and_scores_get_their_noise_once_for_all_hospitals(what):
    made = mechanism(statistics_noise=12.0, evaluation_noise=5.0)
    found = summed(made, what, np.full((4, 4000), 7.0), shares=3, seed=6)
    expected = (12.0 if what == "query.shape" else 5.0) * math.sqrt(4 / 3)
    assert found.std() == pytest.approx(expected, rel=0.04)
    assert found.mean() == pytest.approx(28, abs=5 * expected / 60)


@pytest.mark.parametrize("d", [1, 100, 100_000, 10_000_000])
def test_a_share_covers_the_clip_and_the_rounding_of_every_number(d):
    """The two conditions, worked out again: WIDE_SIGMA √shares steps are σ times (C s + √d)."""
    made = mechanism(max_grad_norm=2.0)
    lattice = made.lattice("train", d, rounds=ROUNDS, shares=3)
    content = Noised({"sum": (d,)}, lattice)
    (slot,) = content.layout(10).slots
    steps = content.layout(10).scale(slot)  # as it is used, its bound being a float32
    needed = 1.3 * (2.0 * (1 + 2**-10) * steps + math.sqrt(d))
    assert needed <= WIDE_SIGMA * math.sqrt(3) <= needed * (1 + 1e-5)


def test_a_local_floor_makes_the_lattice_coarser_and_the_opened_share_worth_more():
    made, floored = mechanism(), mechanism(local_noise=2.0)
    found = [each.lattice("train", 50, rounds=ROUNDS, shares=4).levels for each in (made, floored)]
    assert found[1] == pytest.approx(found[0] * (1.3 / 2) / 2.0, rel=1e-3)
    course = made.course(rounds=ROUNDS)
    opened = [each.opened(course, ROUNDS, shares=4).epsilon for each in (made, floored)]
    assert opened[1] < opened[0]


def test_against_fewer_the_guarantee_is_the_better_and_all_are_the_accountants():
    made = mechanism(sampling_rate=0.2)
    course = made.course(rounds=ROUNDS)
    planned, alone = made.planned(course, ROUNDS), made.alone(course, ROUNDS, min_cohort=6, shares=4)
    opened = made.opened(course, ROUNDS, shares=4)
    assert alone.epsilon < planned.epsilon < opened.epsilon
    assert (planned.views, alone.views, opened.views) == (("sums",), ("sums",), ("updates",))
    events = [made.event("train", course)] * ROUNDS + [made.event("query.shape"), made.event("evaluate")]
    assert planned.epsilon == pytest.approx(accountant.epsilon(events, 1e-5), rel=1e-3)


def test_noise_is_solved_for_the_whole_study():
    made = Distributed(epsilon=3.0)
    assert made.planned(made.course(rounds=ROUNDS), ROUNDS).epsilon == pytest.approx(3.0, rel=2e-3)


def test_rounding_that_adds_too_much_is_refused_with_the_numbers():
    with pytest.raises(
        SettingError, match=r"at most 5%.*for 10000000 numbers at a noise multiplier of 28\.9 a hospital"
    ):
        mechanism(noise_multiplier=50.0).lattice("train", 10_000_000, rounds=ROUNDS, shares=3)
    assert MOST_INFLATION == 0.05
    with pytest.raises(SettingError, match="at least 1, found 0"):
        mechanism().lattice("train", 10, rounds=ROUNDS, shares=0)


def test_a_sum_far_beyond_any_batch_still_fits_the_ring_and_noise_never_wraps_it():
    made = mechanism(noise_multiplier=0.01)
    content = Noised({"sum": (4,)}, made.lattice("train", 4, rounds=ROUNDS, shares=2))
    layout = content.layout(1000)
    (slot,) = layout.slots
    assert slot.bound > 131_072  # the most patients of a hospital, each at the clip
    words = 1000 * (math.ceil(slot.bound * layout.scale(slot)) + 2 + FARTHEST)
    assert words < 2**63


@pytest.mark.parametrize("what", ["query.moments", "query.spread"])
def test_what_has_no_private_form_is_refused(what):
    with pytest.raises(Refused, match="private form"):
        mechanism().privatise(Update(1, {"sum": np.zeros(3)}), what=what)
    with pytest.raises(Refused, match="private form"):
        mechanism().lattice(what, 3, rounds=ROUNDS, shares=2)


def test_what_lacks_its_noise_does_not_leave_without_a_mask():
    private = mechanism().privatise(Update(30, {"a": np.zeros(3)}, {"loss": 0.5}), what="train")
    assert private.shares_noise
    assert (private.update.weight, private.update.metrics) == (1, {})
    with pytest.raises(Refused, match="under masks only"):
        Unmasked().seal(private)


@pytest.mark.parametrize(("settings", "said"), [
    ({"sampling_rate": None}, "sampling_rate"), ({"local_noise": -1.0}, "local_noise"), ({"epsilon": 1.0}, "both"),
])  # fmt: skip
def test_a_wrong_setting_is_refused_in_one_line(settings, said):
    with pytest.raises(SettingError, match=said) as refusal:
        mechanism(**settings)
    assert "\n" not in str(refusal.value)


def test_only_this_mechanism_has_lattices():
    assert lattices(Plain(), rounds=3, shares=2) is None
    assert lattices(mechanism(), rounds=ROUNDS, shares=2)("train", 5).margin == FARTHEST


@pytest.mark.parametrize(("floor", "expected"), [(0.0, 4 / 2**0.5), (1.0, 4 / 2**0.5), (3.5, 3.5)])
def test_the_noise_that_scores_are_shown_with_is_a_hospitals_share_or_its_floor(smoke_study, floor, expected):
    privacy = {"score_bins": 20, "evaluation_noise": 4.0, "local_noise": floor}
    study = replace(smoke_study, privacy=privacy, secagg={"min_cohort": 3, "colluders": 1})
    assert study.score_noise == pytest.approx(expected)
