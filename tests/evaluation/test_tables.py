"""Tables as sums over hospitals: equal to the pooled ones, floors kept, and what follows from them by other means."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, chi2_contingency
from scipy.stats import logrank as scipy_logrank

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.core.tabulation import Tabulation
from fedhealth.core.task import FollowUp, Task
from fedhealth.evaluation.tables import (
    TableLayout,
    Told,
    independence,
    kaplan_meier,
    log_rank,
    moments,
    quantile,
)

SPEC = FeatureSpec(
    name="test",
    features=(
        Feature(name="age", unit="years", range=(0.0, 120.0), bins=(40.0, 60.0, 80.0)),
        Feature(name="sodium", range=(98.0, 190.0), bins=(130.0, 140.0)),
        Feature(name="female", kind="binary"),
        Feature(name="ward", kind="categorical", levels=("medical", "surgical", "other")),
        Feature(name="height", range=(50.0, 250.0)),
    ),
)
FOLLOWED = FollowUp(time="days_seen", horizon=365.0)


@dataclass(frozen=True)
class Asked:
    """What a layout reads of a study."""

    task: Task
    tabulation: Tabulation
    score_bins: int | None
    features: FeatureSpec = SPEC


def layout(*tables: tuple[str, ...], times=(), over_time=False, noisy=False) -> TableLayout:
    task = Task(name="t", title="Death", outcome="died", follow_up=FOLLOWED if over_time else None)
    return TableLayout.of(Asked(task, Tabulation(tables=tables, times=times), 20 if noisy else None))


def patients(seed: int, n: int):
    """Columns, outcome and days of made-up patients."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": np.where(rng.random(n) < 0.1, np.nan, rng.uniform(18, 100, n)),
        "sodium": rng.normal(140, 0.5, n).clip(98, 190),
        "female": rng.integers(0, 2, n).astype(np.float64),
        "ward": rng.choice(np.array(["medical", "surgical", None], dtype=object), n),
    }
    days = rng.exponential(300, n)
    return columns, (rng.random(n) < 0.5).astype(np.float32), np.minimum(days, 500.0)


def pooled(parts):
    columns = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    return columns, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])


ALL = (("age",), ("sodium",), ("ward", "died"), ("female", "died"))


@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=25)
def test_the_sum_over_hospitals_is_the_pooled_vector_bit_for_bit(seed, sizes):
    found = layout(*ALL)
    parts = [patients(seed + place, n) for place, n in enumerate(sizes)]
    each = sum(found.answer(*part, min_cell=1) for part in parts)
    whole = found.answer(*pooled(parts), min_cell=1)
    np.testing.assert_array_equal(each, whole)


def test_the_mean_and_variance_are_the_pooled_ones_to_twelve_digits():
    found = layout(("age",), ("sodium",))
    parts = [patients(seed, 400) for seed in range(5)]
    told = found.read(sum(found.answer(*part, min_cell=10) for part in parts))
    for table, one in zip(found.tables, told, strict=True):
        column = pooled(parts)[0][table.column]
        # In fractions, so that the oracle itself is off by nothing.
        values = [Fraction(value) for value in column[~np.isnan(column)].tolist()]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        said = moments(table, one)
        assert said.n == len(values)
        assert said.mean == pytest.approx(float(mean), rel=1e-12)
        assert said.variance == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("spread", [0.05, 1.0, 100.0])
def test_a_variance_has_twelve_digits_also_where_the_spread_is_a_small_part_of_the_range(spread):
    found = of_one(Feature(name="x", range=(0.0, 1000.0), bins=(500.0,)))
    values = np.random.default_rng(1).normal(140, spread, 400).clip(0, 1000)
    (told,) = found.read(found.answer({"x": values}, np.zeros(400), None, min_cell=1))
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact) / 400
    variance = sum((value - mean) ** 2 for value in exact) / 400
    assert moments(found.tables[0], told).variance == pytest.approx(float(variance), rel=1e-12)


def test_cells_are_counted_as_declared_and_an_edge_belongs_to_the_bin_above():
    found = layout(("age", "died"), ("ward",))
    columns = {
        "age": np.array([39.9, 40, 60, 60, 80, np.nan]),
        "ward": np.array(["medical", "other", None, "medical", "medical", "other"], dtype=object),
    }
    by_age, by_ward = found.read(found.answer(columns, np.array([0, 1, 1, 0, 0, 1]), None, min_cell=1))
    assert by_age.withholding.tolist() == [0] * 5
    assert by_age.counts.tolist() == [[1, 0], [0, 1], [1, 1], [1, 0]]
    assert by_age.missing == 1
    assert by_ward.counts[:, 0].tolist() == [3, 0, 2]
    assert by_ward.missing == 1


def test_a_row_below_the_floor_is_withheld_whole_and_another_beside_it():
    found = layout(("ward", "died"))
    wards = ["medical"] * 60 + ["surgical"] * 50 + ["other"] * 24
    died = [0] * 40 + [1] * 20 + [0] * 30 + [1] * 20 + [0] * 20 + [1] * 4
    columns = {"ward": np.array(wards, dtype=object)}
    (told,) = found.read(found.answer(columns, np.array(died, dtype=np.float32), None, min_cell=10))
    # 4 of the other ward died; without the first ward beside it they would be what is left of the total.
    assert told.withholding.tolist() == [1, 0, 1, 0]
    assert told.counts.tolist() == [[0, 0], [30, 20], [0, 0]]


def test_two_columns_of_one_record_are_asked_for_with_noise_only():
    twice = replace(
        SPEC, features=tuple(replace(f, omop=(3019550,)) if f.name in ("age", "sodium") else f for f in SPEC.features)
    )
    task, tables = Task(name="t", title="Death", outcome="died"), Tabulation(tables=(("age",), ("ward", "sodium")))
    with pytest.raises(SettingError, match="found age and sodium of the same"):
        TableLayout.of(Asked(task, tables, None, twice))
    TableLayout.of(Asked(task, tables, 20, twice))
    TableLayout.of(Asked(task, Tabulation(tables=(("age", "ward"), ("female", "ward"))), None, twice))


def test_few_without_a_value_are_withheld_and_with_them_what_would_tell_their_number():
    columns, y, _ = patients(1, 500)
    columns["age"] = np.r_[np.full(4, np.nan), np.linspace(20, 100, 496)]
    found = layout(("age",))
    (told,) = found.read(found.answer(columns, y, None, min_cell=10))
    assert told.missing == 0
    assert told.withholding.tolist() == [1, 0, 0, 0, 1]
    assert (told.silent, told.known, told.total) == (1, 0, 0)


@pytest.mark.parametrize(("died", "is_told"), [(0, False), (1, False), (10, True), (13, False), (22, False)])
def test_the_missing_are_withheld_where_few_of_them_are_in_a_cell_that_another_table_totals(died, is_told):
    """Deaths by sex, known of everybody, less those by ward are the deaths of who has no ward."""
    wards = np.array([None] * 22 + ["medical"] * 60 + ["surgical"] * 60 + ["other"] * 60, dtype=object)
    y = np.r_[np.arange(22) < died, np.arange(180) % 2].astype(np.float32)
    columns = {"ward": wards, "female": (np.arange(202) % 4 < 2).astype(np.float64)}
    found = layout(("ward", "died"), ("female", "died"))
    by_ward, by_sex = found.read(found.answer(columns, y, None, min_cell=10))
    assert not by_sex.withholding.any()
    assert by_ward.withholding.tolist() == ([0, 0, 0, 0] if is_told else [1, 0, 0, 1])
    between = by_sex.counts.sum(axis=0) - by_ward.counts.sum(axis=0)
    assert between.tolist() == ([12, 10] if is_told else [52 - died, 30 + died])


def of_one(feature: Feature) -> TableLayout:
    task = Task(name="t", title="Death", outcome="died")
    return TableLayout.of(
        Asked(task, Tabulation(tables=((feature.name,),)), None, FeatureSpec(name="one", features=(feature,)))
    )


@pytest.mark.parametrize(("rare", "is_told"), [(3, False), (30, True)])
def test_a_mean_of_few_values_is_withheld_with_a_row_that_it_would_give_back(rare, is_told):
    """By the number and the sum of 60 without a fall and 3 with three, both withheld, follow the 60 and the 3."""
    found = of_one(Feature(name="falls", range=(0.0, 4.0), bins=(0.5, 1.5, 2.5, 3.5)))
    falls = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], [60, 50, 40, rare, 30])
    (told,) = found.read(found.answer({"falls": falls}, np.zeros(len(falls)), None, min_cell=10))
    assert told.withholding[:-1].any() != is_told
    assert (told.silent, told.known) == ((0, len(falls)) if is_told else (1, 0))


def test_a_mean_of_many_values_is_told_beside_a_withheld_row():
    found = of_one(Feature(name="age", range=(0.0, 120.0), bins=(40.0, 95.0)))
    ages = np.r_[np.arange(20.0, 90.0), np.arange(20.0, 90.0), 97.0]
    (told,) = found.read(found.answer({"age": ages}, np.zeros(141), None, min_cell=10))
    assert told.withholding.tolist() == [1, 0, 1, 0]
    assert moments(found.tables[0], told).mean == pytest.approx(ages.mean(), rel=1e-12)


@pytest.mark.parametrize("at", [0.0, 120.0])
@pytest.mark.parametrize(("few", "is_told"), [(1, False), (9, False), (10, True)])
def test_a_mean_that_counts_the_few_away_from_an_end_of_the_range_is_withheld(at, few, is_told):
    found = of_one(Feature(name="age", range=(0.0, 120.0), bins=(200.0,)))
    ages = np.r_[np.full(100, at), np.full(few, 60.0)]
    (told,) = found.read(found.answer({"age": ages}, np.zeros(len(ages)), None, min_cell=10))
    assert told.silent == (not is_told)


@pytest.mark.parametrize(("different", "is_told"), [(13, False), (14, True)])
def test_a_mean_beside_a_withheld_row_is_of_a_floor_more_values_than_there_are_equations(different, is_told):
    """The number, the sums and the one row that is shown are four equations, and the floor is ten."""
    found = of_one(Feature(name="age", range=(0.0, 120.0), bins=(40.0, 95.0)))
    ages = np.r_[np.full(30, 30.0), np.repeat(np.arange(50.0, 48.0 + different), 5), 97.0]
    assert len(set(ages)) == different
    (told,) = found.read(found.answer({"age": ages}, np.zeros(len(ages)), None, min_cell=10))
    assert told.withholding[:3].tolist() == [1, 0, 1]
    assert told.silent == (not is_told)


@pytest.mark.parametrize(("least", "is_told"), [(9, False), (10, True)])
def test_a_row_that_just_reaches_the_floor_is_told(least, is_told):
    wards = np.array(["medical"] * 40 + ["surgical"] * 40 + ["other"] * least, dtype=object)
    found = layout(("ward",))
    (told,) = found.read(found.answer({"ward": wards}, np.zeros(len(wards)), None, min_cell=10))
    assert told.counts[2, 0] == (least if is_told else 0)


@given(seed=st.integers(0, 10**6), floor=st.integers(2, 12), n=st.integers(1, 80))
@settings(max_examples=40)
def test_no_count_that_is_told_lies_between_nobody_and_the_floor(seed, floor, n):
    found = layout(*ALL)
    for told in found.read(found.answer(*patients(seed, n), min_cell=floor)):
        shown = told.counts[told.withholding[:-1] == 0]
        assert not ((shown > 0) & (shown < floor)).any()
        assert not 0 < told.missing < floor
        shown_to = told.counts.sum() + told.missing
        # By the number of patients it is known how many are withheld together: enough for a row of any number below
        # the floor and another that reaches it, or else nobody is shown.
        assert shown_to in (0, n) or n - shown_to >= 2 * floor - 1


def test_a_patient_moves_the_noisy_vector_by_at_most_one():
    found = layout(("age",), ("sodium",), ("ward", "died"), noisy=True)
    columns, y, days = patients(3, 40)
    columns["age"][0], columns["sodium"][0] = 120.0, 98.0  # the ends, where the moments are moved most
    whole = found.answer(columns, y, days, min_cell=1)
    moved = []
    for left_out in range(40):
        kept = np.arange(40) != left_out
        rest = {name: column[kept] for name, column in columns.items()}
        moved.append(np.linalg.norm(whole - found.answer(rest, y[kept], days[kept], min_cell=1)))
    assert max(moved) <= 1 + 1e-12
    assert moved[0] == pytest.approx(1.0)


def test_a_value_out_of_its_range_moves_the_noisy_vector_no_further():
    found = layout(("age",), noisy=True)
    one = found.answer({"age": np.array([1e6])}, np.zeros(1), None, min_cell=1)
    assert np.linalg.norm(one) == pytest.approx(1.0)


def test_what_noise_makes_impossible_is_not_said():
    found = layout(("age",), noisy=True)
    (negative,) = found.read(np.array([-3.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0]))
    assert negative.known == 0
    assert moments(found.tables[0], negative) is None
    none = np.zeros(5, dtype=np.int64)
    # A mean square below the square of the mean; and fewer than nobody below 40, so the median is of the others.
    told = Told(np.array([[-5.0], [10.0], [10.0], [0.0]]), 0.0, none, 10.0, Fraction(5), Fraction(1))
    assert moments(found.tables[0], told).variance == 0
    assert quantile(found.tables[0], told, 0.5) == (60.0, 40.0, 60.0)


def test_of_nobody_there_is_no_mean():
    found = layout(("age",))
    (told,) = found.read(found.answer({"age": np.full(3, np.nan)}, np.zeros(3), None, min_cell=1))
    assert moments(found.tables[0], told) is None


def test_a_noisy_vector_without_noise_gives_the_pooled_moments():
    found = layout(("age",), ("ward",), noisy=True)
    columns, y, days = patients(4, 300)
    told = found.read(found.answer(columns, y, days, min_cell=10))[0]
    known = columns["age"][~np.isnan(columns["age"])]
    said = moments(found.tables[0], told)
    assert (said.n, said.mean, said.variance) == pytest.approx((len(known), known.mean(), known.var()))


def test_a_quantile_lies_where_its_share_of_patients_is_reached():
    found = layout(("age",))
    columns = {"age": np.r_[np.full(10, 30.0), np.full(20, 50.0), np.full(10, 70.0)]}
    (told,) = found.read(found.answer(columns, np.zeros(40), None, min_cell=1))
    assert quantile(found.tables[0], told, 0.5) == (50.0, 40.0, 60.0)  # the 20th of 10 + 20 + 10
    assert quantile(found.tables[0], told, 0.125) == (20.0, 0.0, 40.0)  # the 5th of the 10 from 0 to 40


def test_independence_is_tested_as_scipy_does():
    counts = np.array([[20.0, 30.0, 0.0], [40.0, 10.0, 0.0], [15.0, 25.0, 0.0]])
    found, oracle = independence(counts), chi2_contingency(counts[:, :2], correction=False)
    assert (found.statistic, found.freedom, found.p) == pytest.approx((oracle.statistic, 2, oracle.pvalue))
    assert independence(counts[:1]) is None


def test_survival_at_declared_times_is_kaplan_and_meiers_by_hand():
    # 10 patients: one event by day 100, two by 200 with one lost, one event after; times are rounded up.
    days = np.array([100, 150, 200, 120, 201, 300, 300, 300, 300, 300.0])
    event = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=np.float32)
    found = layout(("days_seen",), times=(100.0, 200.0), over_time=True)
    columns = {"female": np.zeros(10)}
    (told,) = found.read(found.answer(columns, event, days, min_cell=1))
    curve = kaplan_meier(told.counts[0])
    np.testing.assert_allclose(curve[:, 0], [10, 9])
    np.testing.assert_allclose(curve[:, 2], [0.9, 0.9 * 7 / 9])
    np.testing.assert_allclose(curve[1, 3], 0.7 * math.sqrt(1 / (10 * 9) + 2 / (9 * 7)))


def test_the_log_rank_of_two_groups_is_that_of_scipy_on_times_rounded_up():
    columns, event, days = patients(5, 300)
    days = np.where(columns["female"] == 1, days * 0.7, days)
    times = tuple(float(t) for t in range(10, 501, 10))
    found = layout(("days_seen", "female"), times=times, over_time=True)
    (told,) = found.read(found.answer(columns, event, days, min_cell=1))
    rounded = np.ceil(days / 10) * 10
    groups = [columns["female"] == sex for sex in (0, 1)]
    each = [CensoredData(uncensored=rounded[who & (event == 1)], right=rounded[who & (event == 0)]) for who in groups]
    oracle = scipy_logrank(*each)
    ours = log_rank(told.counts)
    assert (ours.statistic, ours.freedom) == pytest.approx((oracle.statistic**2, 1))
    assert ours.p == pytest.approx(oracle.pvalue)


def test_the_log_rank_is_the_same_in_whatever_order_the_groups_come():
    rng = np.random.default_rng(6)
    counts = rng.integers(0, 30, (3, 9)).astype(np.float64)
    found = log_rank(counts)
    assert found.freedom == 2
    for order in ([1, 2, 0], [2, 1, 0]):
        assert log_rank(counts[order]).statistic == pytest.approx(found.statistic)
    assert log_rank(counts[:1]) is None
    assert all(log_rank(counts[list(two)]).freedom == 1 for two in combinations(range(3), 2))


@pytest.mark.parametrize(
    ("tables", "over_time", "words"),
    [
        ((), False, "must name one"),
        ((("nothing",),), False, "must be of the study's columns"),
        ((("height",),), False, "must have bins"),
        ((("age",), ("age", "died")), False, "may be the rows of one table"),
        ((("died",),), True, "must be of the study's columns"),
    ],
)
def test_a_table_that_can_not_be_is_refused(tables, over_time, words):
    with pytest.raises(SettingError, match=words):
        layout(*tables, over_time=over_time)


@pytest.mark.parametrize("bad", [{"tables": (("a", "b", "c"),)}, {"tables": (("a", "a"),)}, {"times": (2.0, 1.0)}, {"times": (0.0,)}])  # fmt: skip
def test_a_tabulation_must_be_of_one_column_or_two_and_of_rising_times(bad):
    with pytest.raises(SettingError):
        Tabulation(**bad)


def test_a_vector_of_another_study_is_refused():
    with pytest.raises(DataError, match="same study"):
        layout(("age",)).read(np.zeros(3))
