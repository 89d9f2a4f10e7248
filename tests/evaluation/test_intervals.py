from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score

from fedhealth.evaluation import intervals, measures
from fedhealth.evaluation.scores import ScoreSums


def ward(n, seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(-2, 1.5, n)
    return expit(true), rng.random(n) < expit(true)


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 40), (7, 40), (40, 40), (300, 10**6)])
def test_wilsons_interval_is_scipys(count, n):
    found = intervals.wilson(count, n)
    theirs = binomtest(count, n).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((count / n, theirs.low, theirs.high), abs=1e-12)


def test_the_normal_interval_is_that_of_the_patients_terms():
    terms = np.random.default_rng(1).random(50)
    half = norm.ppf(0.975) * terms.std(ddof=1) / math.sqrt(50)

    found = intervals.mean(terms.sum(), (terms**2).sum(), 50)

    assert (found.low, found.high) == pytest.approx((terms.mean() - half, terms.mean() + half))


@pytest.mark.parametrize(("total", "total_sq", "n"), [(0.5, 0.25, 1), (0.0, 0.0, 30)])
def test_patients_without_spread_have_a_mean_and_no_interval(total, total_sq, n):
    found = intervals.mean(total, total_sq, n)
    assert found.value == total / n
    assert math.isnan(found.low)
    assert "alike" in found.note


def test_nobody_has_no_mean_and_no_proportion():
    assert not intervals.mean(0.0, 0.0, 0).is_estimable
    assert not intervals.wilson(0, 0).is_estimable


def test_a_resample_has_as_many_patients_and_only_cells_that_hold_somebody():
    sums = ScoreSums.of(*ward(300, seed=2))

    draws = intervals.resample(sums, seed=1, replicates=2000)

    once = intervals.cells(sums)
    assert np.array_equal((draws.positives + draws.negatives).sum(axis=0), np.full(2000, 300))
    assert draws.positives.mean(axis=1) == pytest.approx(once.positives, abs=0.15)
    assert draws.positives.sum(axis=0).var() == pytest.approx(300 * 0.2 * 0.8, rel=0.25)
    assert np.all(np.diff(once.index) > 0)


@pytest.mark.parametrize("n", [1, 2, 3, 41, 999, 1000])
def test_percentiles_are_numpys_to_the_bit(n):
    found = np.random.default_rng(n).random(n)

    assert intervals.percentiles(found, 0.025, 0.975) == np.percentile(found, [2.5, 97.5]).tolist()
    assert intervals.percentiles(np.zeros(n), 0.5) == [0.0]


@pytest.mark.slow
def test_resampling_cells_gives_the_interval_of_resampling_patients():
    p, y = ward(600, seed=3)
    sums, rng = ScoreSums.of(p, y), np.random.default_rng(4)
    rows = (rng.integers(600, size=600) for _ in range(500))
    theirs = np.percentile([average_precision_score(y[row], p[row]) for row in rows], [2.5, 97.5])

    found = measures.auprc(sums, intervals.resample(sums, seed=1))

    assert (found.low, found.high) == pytest.approx(theirs, abs=0.02)


def test_without_draws_a_bootstrapped_measure_has_a_value_and_no_interval():
    found = measures.auprc(ScoreSums.of(*ward(300, seed=5)))
    assert found.is_estimable
    assert math.isnan(found.low)


def test_too_few_positives_to_resample_leave_the_interval_out():
    sums = ScoreSums.of(np.linspace(0, 1, 50), np.arange(50) == 30)
    found = measures.auprc(sums, intervals.resample(sums, seed=1))
    assert found.value == pytest.approx(1 / 20)
    assert math.isnan(found.low)
    assert "too few" in found.note
