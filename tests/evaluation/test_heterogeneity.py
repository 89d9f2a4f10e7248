"""How different hospitals are, against hand-worked and independent figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f_oneway

from fedhealth.core.errors import DataError
from fedhealth.evaluation.heterogeneity import heterogeneity, intraclass, intraclass_of_shares, sums_of


def sums(groups):
    arrays = [np.asarray(group, dtype=float) for group in groups]
    count = np.array([len(a) for a in arrays], dtype=float)
    mean = np.array([a.mean() for a in arrays])
    return count, mean, np.array([np.square(a - a.mean()).sum() for a in arrays])


def cohort(rng, n, shift=0.0, rate=0.2, missing=0.0):
    x = rng.normal(shift, 1, n)
    x[rng.random(n) < missing] = np.nan
    words = np.array(["a", None], dtype=object)[(rng.random(n) < missing).astype(int)]
    return sums_of({"x": x, "word": words}, (rng.random(n) < rate).astype(float))


def test_the_hand_worked_example():
    # Groups 1 2 3 and 3 4 5: MSB = 6, MSW = 1, n0 = 3, so (6 - 1) / (6 + 2) = 5/8.
    assert intraclass(*sums([[1, 2, 3], [3, 4, 5]])) == pytest.approx(5 / 8)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_it_is_a_function_of_the_f_statistic(seed, k):
    # With equal groups of n: icc = (F - 1) / (F + n - 1); F from scipy.
    groups = np.random.default_rng(seed).normal(np.arange(k)[:, None], 1, size=(k, 7))
    ratio = f_oneway(*groups).statistic
    assert intraclass(*sums(groups)) == pytest.approx(max(0, (ratio - 1) / (ratio + 6)), abs=1e-9)


def test_it_recovers_the_share_that_the_draw_has():
    rng = np.random.default_rng(1)
    sizes = rng.integers(20, 300, 800)
    groups = [rng.normal(rng.normal(0, 0.5), 1, n) for n in sizes]
    assert intraclass(*sums(groups)) == pytest.approx(0.25 / 1.25, abs=0.02)


def test_a_yes_or_no_equals_its_zeros_and_ones():
    groups = [[1, 0, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0]]
    hits = np.array([sum(group) for group in groups], dtype=float)
    counts = np.array([len(group) for group in groups], dtype=float)
    assert intraclass_of_shares(counts, hits) == pytest.approx(intraclass(*sums(groups)))


@given(st.integers(0, 100))
def test_the_order_of_hospitals_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    sites = {f"s{k}": cohort(rng, 50, shift=k / 3, missing=0.1) for k in range(5)}
    one, two = heterogeneity(sites), heterogeneity(dict(reversed(sites.items())))
    assert one.value["x"] == pytest.approx(two.value["x"])
    assert one.outcome == pytest.approx(two.outcome)
    np.testing.assert_allclose(one.distance, two.distance[::-1, ::-1])


@pytest.mark.parametrize(
    "groups", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 1.0], [1.0, 1.0]]], ids=["one group", "single values", "constant"]
)
def test_what_cannot_be_estimated_is_nan_and_not_0(groups):
    assert math.isnan(intraclass(*sums(groups)))


def test_a_hospital_without_values_is_left_out():
    whole = intraclass(*sums([[1, 2, 3], [3, 4, 5]]))
    with_empty = intraclass(np.array([3.0, 3, 0]), np.array([2.0, 4, 0]), np.array([2.0, 2, 0]))
    assert with_empty == whole


def test_distance_is_in_standard_deviations():
    left = sums_of({"x": np.array([0.0, 2.0, 4.0])}, np.zeros(3))
    right = sums_of({"x": np.array([4.0, 6.0, 8.0])}, np.ones(3))
    found = heterogeneity({"left": left, "right": right})
    # Variance within is 4, so the means 2 and 6 lie two standard deviations apart.
    np.testing.assert_allclose(found.distance, [[0, 2], [2, 0]])
    assert found.label_shift == {"left": 0.5, "right": 0.5}


def test_patients_of_unknown_outcome_are_left_out():
    found = sums_of({"x": np.array([1.0, 2.0, np.nan])}, np.array([1.0, np.nan, 0.0]))
    assert (found.patients, found.events) == (2, 1)
    assert (found.count["x"], found.missing["x"], found.mean["x"]) == (1, 1, 1)


def test_missing_words_count_and_have_no_mean():
    found = cohort(np.random.default_rng(1), 400, missing=0.5)
    assert found.missing["word"] == pytest.approx(200, abs=40)
    assert "word" not in found.mean


def test_rows_name_what_differs_most():
    rng = np.random.default_rng(1)
    rows = dict(heterogeneity({"a": cohort(rng, 200), "b": cohort(rng, 200, shift=1, rate=0.6)}).rows())
    assert rows["hospitals"] == "2"
    assert rows["feature that differs most"].startswith("x ")


@pytest.mark.parametrize(("hospitals", "is_paired"), [(60, True), (61, False)])
def test_every_two_of_many_hospitals_are_not_compared(hospitals, is_paired):
    rng = np.random.default_rng(1)
    found = heterogeneity({str(k): cohort(rng, 20) for k in range(hospitals)})
    assert (found.distance is not None) == is_paired
    assert ("distance of two hospitals, sd (mean)" in dict(found.rows())) == is_paired
    assert found.median_value >= 0


def test_one_hospital_is_reported_as_not_estimable():
    rows = dict(heterogeneity({"a": cohort(np.random.default_rng(1), 50)}).rows())
    assert "not estimable" in rows.values()


def test_other_features_at_a_hospital_are_refused():
    ones = np.ones(3)
    with pytest.raises(DataError, match="found others at b"):
        heterogeneity({"a": sums_of({"x": ones}, ones), "b": sums_of({"z": ones}, ones)})
    with pytest.raises(DataError, match="found none"):
        heterogeneity({})
