from __future__ import annotations

import math

import pytest

from fedhealth.core.measure import Measure
from fedhealth.report import words


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (2_130_000, "2.13 MB"),
        (999_900, "1,000 kB"),
        (61e9, "61 GB"),
    ],
)
def test_a_size_is_said_in_the_unit_that_fits(n_bytes: float | None, said: str) -> None:
    assert words.size(n_bytes) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.416, "0.42 s"), (9.996, "10.0 s"), (37.14, "37.1 s"), (59.96, "1 min 00 s"), (248, "4 min 08 s"), (7_500, "2 h 05 min")],
)  # fmt: skip
def test_a_duration_is_said_in_the_units_that_fit(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("x", "said"),
    [(0.7804, "0.780"), (-0.03, "−0.030"), (-0.0001, "0.000"), (1234.5, "1,234.500"), (math.nan, "–"), (None, "–")],
)
def test_a_decimal_has_three_places_and_a_true_minus(x: float | None, said: str) -> None:
    assert words.decimal(x) == said


def test_a_gain_always_shows_its_sign() -> None:
    assert [words.gain(x) for x in (0.0664, -0.0061, 0.0)] == ["+0.066", "−0.006", "0.000"]


def test_an_interval_stands_in_brackets_and_is_left_out_where_there_is_none() -> None:
    assert words.with_interval(Measure(0.78, 0.76, 0.8)) == "0.780 [0.760, 0.800]"
    assert words.with_interval(Measure(0.78)) == "0.780"
    assert words.with_interval(Measure(math.nan)) == "not estimable"


def test_neighbouring_rounds_are_joined() -> None:
    assert words.rounds_listed([9, 3, 8, 7, 3, 12]) == "3, 7–9, 12"


def test_a_time_is_said_in_utc_to_the_minute() -> None:
    assert words.moment("2026-03-02T10:41:07+01:00") == "2026-03-02 09:41 UTC"
    assert words.moment("in spring") == "in spring"


def test_patients_are_added_over_the_hospitals_that_show_them() -> None:
    shows = {"train": 60, "validation": 20, "test": 20, "events": 4}
    assert words.patients([shows, {**shows, "events": None}]) == {
        "sites": 2,
        "train": 120,
        "validation": 40,
        "test": 40,
    }
    assert words.patients([shows, {**shows, "test": None}])["sites"] == 1
    assert words.patients([{}]) == {}


def test_the_finding_sets_like_against_like() -> None:
    auroc = {"value": 0.78, "low": 0.76, "high": 0.8, "method": "", "note": ""}
    report = {
        "sites": [{"train": 60, "validation": 20, "test": 760, "events": 4}] * 2,
        "union": {"federated": {"auroc": auroc}},
        "comparison": [
            {"who": "federated", "mean_site_auroc": {**auroc, "value": 0.765}},
            {"who": "local", "mean_site_auroc": {**auroc, "value": 0.7}},
        ],
    }
    assert words.finding(report) == (
        "Trained across 2 hospitals without moving a patient record, the model reaches AUROC 0.780 [0.760, 0.800] on "
        "1,520 held-out patients. At the average hospital it reaches 0.765, where a model trained on that hospital "
        "alone reaches 0.700."
    )
