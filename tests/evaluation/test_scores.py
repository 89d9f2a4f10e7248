from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhealth.core.errors import DataError, SettingError
from fedhealth.evaluation.scores import CLIP, Scored, ScoreSums, SummaryLayout, mended

probabilities = arrays(np.float64, st.integers(0, 60), elements=st.floats(0, 1))


def outcomes_of(probability, seed):
    return np.random.default_rng(seed).random(len(probability)) < probability


@given(probability=probabilities, seed=st.integers(0, 99), sites=st.integers(1, 5), bins=st.integers(1, 50))
@settings(max_examples=60)
def test_the_sum_over_sites_is_the_sum_of_their_patients_bit_for_bit(probability, seed, sites, bins):
    outcome = outcomes_of(probability, seed)
    site = np.random.default_rng(seed).integers(sites, size=len(probability))

    total = ScoreSums.empty(bins)
    for k in range(sites):
        total = total + ScoreSums.of(probability[site == k], outcome[site == k], bins=bins)

    assert np.array_equal(total.to_vector(), ScoreSums.of(probability, outcome, bins=bins).to_vector())


@given(probability=probabilities, seed=st.integers(0, 99))
@settings(max_examples=60)
def test_the_order_of_patients_changes_no_bit(probability, seed):
    outcome = outcomes_of(probability, seed)
    order = np.random.default_rng(seed).permutation(len(probability))

    mixed = ScoreSums.of(probability[order], outcome[order])

    assert np.array_equal(mixed.to_vector(), ScoreSums.of(probability, outcome).to_vector())


@given(probability=probabilities, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_vector_returns_what_it_was_made_of(probability, seed):
    sums = ScoreSums.of(probability, outcomes_of(probability, seed), bins=20)

    returned = ScoreSums.from_vector(sums.to_vector(), bins=20)

    assert np.array_equal(returned.to_vector(), sums.to_vector())
    assert (returned.n, returned.n_positive) == (sums.n, sums.n_positive) == (len(probability), sums.n_positive)


def test_three_patients_worked_by_hand():
    sums = ScoreSums.of(np.array([0.25, 0.5, 1.0]), np.array([0, 1, 1]), bins=4)

    assert sums.negatives.tolist() == [0, 1, 0, 0]
    assert sums.positives.tolist() == [0, 0, 1, 1]
    assert sums.logits == pytest.approx([0, -np.log(3), 0, 23 * np.log(2)], abs=1e-6)
    assert sums.log_loss == pytest.approx(-np.log(0.75) - np.log(0.5), abs=2e-6)
    assert (sums.brier, sums.brier_sq) == pytest.approx((0.0625 + 0.25, 0.0625**2 + 0.25**2), abs=2e-6)


@pytest.mark.parametrize("p", [0.0, 5e-324, 1e-300, 1.0, np.nextafter(1.0, 0.0)])
def test_the_clip_keeps_extreme_probabilities_finite(p):
    sums = ScoreSums.of(np.array([p, p]), np.array([0, 1]))

    most = np.log((1 - CLIP) / CLIP)
    assert abs(sums.logits.sum()) == pytest.approx(2 * most, abs=1e-5)
    assert sums.log_loss == pytest.approx(-np.log(CLIP) - np.log(1 - CLIP), abs=1e-5)


def test_float32_scores_are_read_as_they_are():
    probability = np.random.default_rng(0).random(500).astype(np.float32)
    outcome = np.random.default_rng(1).integers(2, size=500)

    sums, wide = (ScoreSums.of(p, outcome) for p in (probability, probability.astype(np.float64)))

    assert np.array_equal(sums.to_vector(), wide.to_vector())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.125, 1.125])
def test_an_impossible_probability_is_counted_and_never_shown(bad):
    with pytest.raises(DataError, match="found 2 of 3") as error:
        ScoreSums.of(np.array([0.5, bad, bad]), np.array([0, 1, 0]))
    assert str(bad) not in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, 2, -1, 0.625])
def test_an_impossible_outcome_is_counted_and_never_shown(bad):
    with pytest.raises(DataError, match="found 1 of 3") as error:
        ScoreSums.of(np.array([0.5, 0.5, 0.5]), np.array([0, 1, bad]))
    assert str(bad) not in str(error.value).replace("found 1 of 3", "").replace("0 or 1", "")


def test_scores_and_outcomes_of_different_patients_are_refused():
    with pytest.raises(DataError, match=r"shapes \(3,\) and \(2,\)"):
        ScoreSums.of(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("spoil", [lambda v: v[:-1], lambda v: v / 3, lambda v: v - 1, lambda v: v * np.nan])
def test_a_vector_that_is_no_sum_of_sites_is_refused(spoil):
    vector = ScoreSums.of(np.array([0.2, 0.7]), np.array([0, 1]), bins=5).to_vector()
    with pytest.raises(DataError):
        ScoreSums.from_vector(spoil(vector), bins=5)


def test_sums_of_different_bins_do_not_add():
    with pytest.raises(SettingError, match="found 5 and 6"):
        _ = ScoreSums.empty(5) + ScoreSums.empty(6)


def test_a_layout_adds_sites_and_their_groups_in_one_vector():
    layout = SummaryLayout(groups=("sex=female", "sex=male"), bins=50, group_bins=10)
    probability, outcome = np.array([0.1, 0.3, 0.8, 0.9]), np.array([0, 1, 0, 1])
    female = np.array([True, False, True, False])
    first = layout.summarise(probability[:2], outcome[:2], {"sex=female": female[:2], "sex=male": ~female[:2]})
    second = layout.summarise(probability[2:], outcome[2:], {"sex=female": female[2:]})

    overall, groups = layout.unpack(first + second)

    assert len(first) == layout.width
    assert np.array_equal(overall.to_vector(), ScoreSums.of(probability, outcome, bins=50).to_vector())
    of_women = ScoreSums.of(probability[female], outcome[female], bins=10)
    assert np.array_equal(groups["sex=female"].to_vector(), of_women.to_vector())
    assert groups["sex=male"].n == 1


def test_a_layout_without_groups_is_the_sums_alone():
    p, y = np.array([0.2, 0.7]), np.array([0, 1])
    layout = SummaryLayout(bins=5)

    overall, groups = layout.unpack(layout.summarise(p, y))

    assert np.array_equal(overall.to_vector(), ScoreSums.of(p, y, bins=5).to_vector())
    assert groups == {}


@given(probability=probabilities, seed=st.integers(0, 99), sites=st.integers(1, 4))
@settings(max_examples=40)
def test_sites_that_are_summarised_together_each_tell_what_they_tell_alone(probability, seed, sites):
    rng = np.random.default_rng(seed)
    layout = SummaryLayout(groups=("sex=f", "sex=m"), bins=20, group_bins=5)
    cuts = np.sort(rng.integers(len(probability) + 1, size=sites - 1))
    outcome, women = outcomes_of(probability, seed), rng.random(len(probability)) < 0.5
    parts = [np.split(of_all, cuts) for of_all in (probability, outcome, women)]
    # One hospital does not record who is a woman.
    each = [
        Scored(p, y, {"sex=f": w, "sex=m": ~w} if k else {}) for k, (p, y, w) in enumerate(zip(*parts, strict=True))
    ]

    together = layout.summarise_each(each)

    for own, row in zip(each, together, strict=True):
        alone = ScoreSums.of(own.probability, own.outcome, bins=20).to_vector()
        of_groups = [
            ScoreSums.of(own.probability[inside], own.outcome[inside], bins=20).coarser(5).to_vector()
            for inside in (own.members.get(name, np.zeros(len(own.outcome), dtype=bool)) for name in layout.groups)
        ]
        assert np.array_equal(row, np.concatenate([alone, *of_groups]))


def test_a_layout_refuses_what_it_does_not_know():
    layout = SummaryLayout(groups=("sex=female",), bins=5)
    with pytest.raises(SettingError, match="found age=old"):
        layout.summarise(np.zeros(2), np.zeros(2), {"age=old": np.ones(2, dtype=bool)})
    with pytest.raises(DataError, match="must be a vector of"):
        layout.unpack(np.zeros(7))
    with pytest.raises(SettingError, match="named once"):
        SummaryLayout(groups=("a", "a"))


def test_groups_that_hold_more_patients_than_the_cohort_are_refused():
    layout = SummaryLayout(groups=("sex=f", "sex=m"))
    p, y = np.array([0.2, 0.4, 0.6]), np.array([0, 1, 0])
    honest = layout.summarise(p, y, {"sex=f": np.array([True, False, False]), "sex=m": np.array([False, True, True])})
    layout.check(honest)
    doubled = layout.summarise(p, y, {"sex=f": np.array([True, True, False]), "sex=m": np.array([False, True, True])})
    with pytest.raises(DataError, match="the groups of sex must hold no more patients than the cohort"):
        layout.check(doubled)


def test_a_finer_histogram_merges_into_a_coarser_one_without_moving_a_patient():
    p = np.arange(1001) / 1000
    fine = ScoreSums.of(p, p > 0.5, bins=1000)
    merged = fine.coarser(200)
    np.testing.assert_array_equal(merged.positives + merged.negatives, [5] * 199 + [6])
    assert merged.n == fine.n
    with pytest.raises(SettingError, match="must merge evenly"):
        fine.coarser(300)


def test_those_outside_a_part_are_the_difference():
    p, y = np.linspace(0.1, 0.9, 9), np.arange(9) % 2
    rest = ScoreSums.of(p, y) - ScoreSums.of(p[:4], y[:4])
    np.testing.assert_array_equal(rest.to_vector(), ScoreSums.of(p[4:], y[4:]).to_vector())


def test_noisy_counts_are_mended_to_the_nearest_whole_ones_with_their_total():
    # By hand: 1 off every cell makes 5, 2, 0 and leaves the last at 0, and the total is 7 still.
    np.testing.assert_array_equal(mended(np.array([6.0, 3.0, 1.0, -3.0])), [5, 2, 0, 0])
    np.testing.assert_array_equal(mended(np.array([4.0, 0.0, 2.0])), [4, 0, 2])
    np.testing.assert_array_equal(mended(np.array([1.0, -4.0])), [0, 0])


def test_no_other_counts_of_that_total_are_nearer_than_the_mended_ones():
    rng = np.random.default_rng(0)
    noisy = 40 * rng.dirichlet(np.ones(6)) + 8 * rng.normal(size=6)
    found = mended(noisy)
    others = noisy.sum() * rng.dirichlet(np.ones(6) / 2, size=20_000)
    assert np.linalg.norm(found - noisy) <= np.linalg.norm(others - noisy, axis=1).min() + 1.5  # whole numbers


def test_counts_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="must be finite"):
        mended(np.array([1.0, np.nan]))


def test_sums_from_histograms_alone_are_those_of_patients_at_the_middles_of_the_cells():
    positives, negatives = np.array([1, 0, 2, 5]), np.array([4, 3, 0, 1])
    middles = np.array([0.125, 0.375, 0.625, 0.875])
    probability = np.concatenate([np.repeat(middles, positives), np.repeat(middles, negatives)])
    outcome = np.repeat([1, 0], [positives.sum(), negatives.sum()])
    of_patients = ScoreSums.of(probability, outcome, bins=4).to_vector()
    np.testing.assert_allclose(ScoreSums.from_counts(positives, negatives).to_vector(), of_patients, atol=2e-5)


def test_a_noisy_layout_sends_counts_alone_and_reads_sums_of_any_numbers():
    layout = SummaryLayout(bins=4, is_noisy=True)
    vector = layout.summarise(np.array([0.1, 0.9, 0.6]), np.array([0, 1, 1]))
    np.testing.assert_array_equal(vector, [0, 0, 1, 1, 1, 0, 0, 0])
    layout.check(vector - 0.4)
    overall, groups = layout.unpack(vector + vector)
    assert (overall.n_positive, overall.n_negative, groups) == (4, 2, {})


def test_where_counts_are_noisy_a_score_that_is_no_number_makes_nobody_fail():
    layout = SummaryLayout(bins=4, is_noisy=True)
    found = layout.summarise(np.array([0.1, np.nan, 0.9]), np.array([0, 1, 1]))
    assert found.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
