import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.errors import DataError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.evaluation.moments import (
    MomentLayout,
    Spread,
    first_pass,
    global_means,
    global_moments,
    second_pass,
)

SPEC = FeatureSpec(
    name="two",
    features=(
        Feature(name="pressure"),
        Feature(name="lactate", transform="log", range=(0.1, 30.0)),
        Feature(name="ward", kind="categorical", levels=("a", "b")),
    ),
)
LAYOUT = MomentLayout(SPEC)


def hospital(seed: int, n: int, mean: float = 100.0):
    rng = np.random.default_rng(seed)
    pressure = rng.normal(mean, 1.0, n)
    pressure[rng.random(n) < 0.1] = np.nan
    ward = np.array([["a", "b", None][k] for k in rng.integers(0, 3, n)], dtype=object)
    columns = {"pressure": pressure, "lactate": rng.lognormal(1, 0.5, n), "ward": ward}
    return columns, (rng.random(n) < 0.3).astype(np.float32)


def federated(hospitals, min_cell=1):
    first = sum(first_pass(LAYOUT, columns, y, min_cell=min_cell) for columns, y in hospitals)
    means = global_means(LAYOUT, first)
    second = sum(second_pass(LAYOUT, columns, means, min_cell=min_cell) for columns, _ in hospitals)
    return global_moments(LAYOUT, first, second)


@pytest.mark.parametrize("mean", [0.0, 100.0, 1e8])
def test_two_sums_give_the_pooled_mean_and_variance(mean):
    hospitals = [hospital(seed, n, mean) for seed, n in ((1, 500), (2, 40), (3, 3))]
    found = federated(hospitals)
    pooled = np.concatenate([columns["pressure"] for columns, _ in hospitals])
    pooled = pooled[~np.isnan(pooled)].astype(np.longdouble)
    assert found.mean["pressure"] == pytest.approx(float(pooled.mean()), rel=1e-12, abs=1e-12)
    assert found.variance["pressure"] == pytest.approx(float(pooled.var()), rel=1e-12)


def test_moments_are_taken_after_the_transform():
    columns, y = hospital(1, 300)
    found = federated([(columns, y)])
    assert found.mean["lactate"] == pytest.approx(np.log(columns["lactate"]).mean(), rel=1e-12)
    assert found.variance["lactate"] == pytest.approx(np.log(columns["lactate"]).var(), rel=1e-12)


def test_levels_missing_values_and_outcomes_are_counted():
    columns, y = hospital(1, 300)
    found = federated([(columns, y)])
    assert found.levels["ward"] == {level: sum(word == level for word in columns["ward"]) for level in "ab"}
    assert found.missing["pressure"] == np.isnan(columns["pressure"]).sum()
    assert found.missing["ward"] == sum(word is None for word in columns["ward"])
    assert found.outcome == ((y == 0).sum(), (y == 1).sum())


def test_a_feature_with_fewer_values_than_the_floor_is_withheld_from_both_passes():
    columns, y = hospital(1, 50)
    columns["pressure"][4:] = np.nan
    first = first_pass(LAYOUT, columns, y, min_cell=5)
    counts, sums, *_ = LAYOUT.sections(first)
    second = second_pass(LAYOUT, columns, np.zeros(2), min_cell=5)
    assert (counts[0], sums[0], second[0]) == (0, 0, 0)
    assert counts[1] == 50


def test_a_level_under_the_floor_is_withheld():
    columns, y = hospital(1, 50)
    columns["ward"][:] = "a"
    columns["ward"][:3] = "b"
    _, _, levels, *_ = LAYOUT.sections(first_pass(LAYOUT, columns, y, min_cell=5))
    assert levels.tolist() == [47, 0]


numbers = st.lists(st.floats(-1e6, 1e6), max_size=30)


@given(numbers, numbers, numbers)
def test_merging_spreads_is_associative_and_equals_the_spread_of_all(a, b, c):
    one, two, three = (Spread.of(np.array(values)) for values in (a, b, c))
    whole = Spread.of(np.array([*a, *b, *c]))
    for merged in (one.merged(two).merged(three), one.merged(two.merged(three))):
        assert merged.n == whole.n
        assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
        assert merged.m2 == pytest.approx(whole.m2, rel=1e-6, abs=1e-2)


def test_a_vector_of_another_spec_is_refused():
    with pytest.raises(DataError, match=r"the moments of two must be \d+ numbers, found shape \[3\]"):
        LAYOUT.sections(np.zeros(3))


def test_a_series_counts_each_patient_once_by_their_mean():
    spec = FeatureSpec(name="s", features=(Feature(name="pulse", kind="series", range=(0, 300), window_h=(0, 3)),))
    layout = MomentLayout(spec)
    columns = {"pulse": np.array([[80.0, 100.0, np.nan], [60.0, np.nan, np.nan], [np.nan] * 3])}
    first = first_pass(layout, columns, np.array([0, 1, 0], dtype=np.float32), min_cell=1)
    counts, sums, _, missing, _ = layout.sections(first)
    assert (counts.tolist(), sums.tolist(), missing.tolist()) == ([2], [150], [1])
    moments = global_moments(layout, first, second_pass(layout, columns, global_means(layout, first), min_cell=1))
    assert (moments.mean["pulse"], moments.variance["pulse"]) == (75, 225)
