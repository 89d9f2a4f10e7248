from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedhealth.evaluation import student


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_interval_of_a_mean_is_scipys(n):
    values = np.random.default_rng(n).normal(0.7, 0.05, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))

    found = student.mean_of_runs(values.tolist())

    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_two_runs_give_the_interval_worked_by_hand():
    # Deviations of 0.1 give a variance of 0.02 and a standard error of sqrt(0.02 / 2); 12.706 of that are 1.2706.
    found = student.mean_of_runs([0.6, 0.8])
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - 1.2706205, 0.7 + 1.2706205))
    cut = student.mean_of_runs([0.6, 0.8], least=0.0, most=1.0)
    assert (cut.low, cut.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "value", "note"),
    [([0.7], 0.7, "no interval: one run"), ([0.1, 0.1, 0.1], 0.1, student.ALIKE), ([], math.nan, "no runs")],
)
def test_without_spread_there_is_no_interval_and_no_test(values, value, note):
    found = student.mean_of_runs(values)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert (math.isnan(found.low), math.isnan(found.high), found.note) == (True, True, note)
    assert math.isnan(student.p_of_mean(values))


@pytest.mark.parametrize("n", [2, 3, 8, 25])
def test_the_test_of_differences_is_scipys_paired_t_test(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(0.72, 0.03, n), rng.normal(0.70, 0.03, n)
    expected = stats.ttest_rel(ours, theirs).pvalue
    assert student.p_of_mean((ours - theirs).tolist()) == pytest.approx(expected, rel=1e-9)


def test_holms_adjustment_is_the_one_worked_by_hand():
    # Rising: .01 * 4, .02 * 3, .04 * 2, .9 * 1; below, .03 * 2 and .04 * 1 are raised to what stands before.
    assert student.holm([0.04, 0.01, 0.9, 0.02]) == pytest.approx([0.08, 0.04, 0.9, 0.06])
    assert student.holm([0.03, 0.04, 0.02]) == pytest.approx([0.06, 0.06, 0.06])
    assert student.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert student.holm([]) == []


def test_a_comparison_without_a_test_does_not_count_among_the_many():
    adjusted = student.holm([math.nan, 0.01, 0.04])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.04])
