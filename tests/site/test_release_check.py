"""What hospitals are told of a release: worked out again by hand, and alarmed by a copy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.evaluation.margins import MarginLayout
from fedhealth.release.card import validation_text
from fedhealth.release.floor import MOST_NEAR
from fedhealth.site.release_check import Real, _auroc, _points, checked, k_map

SPEC = FeatureSpec(
    name="tiny",
    features=(
        *(Feature(name=f"x{k}", range=(0, 100), bins=tuple(range(10, 100, 10))) for k in range(8)),
        Feature(name="ward", kind="categorical", levels=("a", "b"), sensitivity="quasi"),
    ),
    groups={"ward": Group(column="ward", label="Ward", levels={"a": "first", "b": "second"})},
)


@pytest.fixture
def study(smoke_study):
    return replace(smoke_study, features=SPEC)


def people(layout, n, rng):
    cells = np.column_stack([rng.integers(0, size, n) for size in layout.sizes])
    cells[:, -1] = rng.random(n) < 1 / (1 + np.exp(-(cells[:, 0] - 5.0)))
    return cells


@pytest.fixture
def world(study):
    layout, rng = MarginLayout.of(study), np.random.default_rng(4)
    train, held_out, fresh = (people(layout, 600, rng) for _ in range(3))
    real = Real(train, held_out, {"ward": np.where(held_out[:, 8] < 2, held_out[:, 8], -1)})
    return layout, real, fresh


def test_patients_drawn_anew_pass_and_copies_raise_both_alarms(study, world):
    layout, real, fresh = world
    honest, copied = (checked(study, layout, real, cells) for cells in (fresh, real.train))
    assert honest["nearest_record_share"] == pytest.approx(0.5, abs=0.05)
    assert honest["membership_auroc"] == pytest.approx(0.5, abs=0.05)
    assert copied["nearest_record_share"] > 0.99 > MOST_NEAR
    assert copied["membership_auroc"] > 0.99


def test_where_every_distance_ties_neither_side_is_nearer(study, world):
    layout, real, fresh = world
    found = checked(study, layout, replace(real, held_out=real.train), fresh)
    assert (found["nearest_record_share"], found["nearest_record_error"]) == (0.5, 0.0)
    assert found["membership_auroc"] == 0.5


def test_the_error_of_the_nearest_record_share_is_that_of_a_mean_of_coins(study, world):
    layout, real, fresh = world
    found = checked(study, layout, real, fresh)
    # Between a fair coin's, and that of one that ties for a third of the 600.
    assert 1.96 * 0.5 * np.sqrt(2 / 3 / 600) < found["nearest_record_error"] < 1.96 * 0.5 / np.sqrt(600) + 1e-9
    assert found["only_for"].startswith("the hospitals")


def test_a_model_of_as_good_patients_is_as_good_and_of_shuffled_ones_is_none(study, world):
    layout, real, fresh = world
    found = checked(study, layout, real, fresh)
    assert found["auroc"]["synthetic"] == pytest.approx(found["auroc"]["real"], abs=0.04)
    assert found["auroc"]["real"] > 0.85
    shuffled = np.column_stack([np.random.default_rng(k).permutation(column) for k, column in enumerate(fresh.T)])
    assert checked(study, layout, real, shuffled)["auroc"]["synthetic"] < 0.7
    assert set(found["auroc_by_group"]) == {"Ward: first", "Ward: second"}


def test_a_group_with_few_of_an_outcome_is_withheld(study, world):
    layout, real, fresh = world
    few = np.where(np.cumsum(real.held_out[:, -1] == 1) <= 9, 0, 1)
    found = checked(study, layout, replace(real, groups={"ward": few}), fresh)
    assert found["auroc_by_group"]["Ward: first"] == {"synthetic": None, "real": None}
    assert "withheld" in validation_text(found)


def test_total_variation_is_half_the_differences_by_hand(study, world):
    layout, real, _ = world
    other = real.train.copy()
    moved = np.flatnonzero(other[:, 8] == 0)[:60]
    other[moved, 8] = 1
    found = checked(study, layout, real, other)["total_variation"]["synthetic"]
    assert found["one_way_worst"] == pytest.approx(60 / 600)
    assert found["one_way_worst_of"] == "ward"
    assert found["one_way_mean"] == pytest.approx(0.1 / 10)
    assert found["two_way_worst"] == pytest.approx(0.1)


def test_distance_is_a_share_of_the_range_and_whole_for_levels_and_missing_values(study, world):
    layout, _, _ = world
    one = np.zeros((1, 10), dtype=np.int64)

    def away(place, cell):
        other = one.copy()
        other[0, place] = cell
        return np.abs(_points(layout, one) - _points(layout, other)).sum()

    assert away(0, 9) == pytest.approx(1)
    assert away(0, 3) == pytest.approx(3 / 9)
    assert away(0, 10) == pytest.approx(1)
    assert away(8, 1) == away(8, 2) == pytest.approx(1)


def test_k_map_counts_real_patients_by_hand(study):
    layout = MarginLayout.of(study)
    real, made = np.zeros((9, 10), dtype=np.int64), np.zeros((4, 10), dtype=np.int64)
    real[:3, 8], made[:, 8] = 1, [0, 1, 2, 0]
    found = k_map(study, layout, real, made)
    assert found == {
        "quasi_identifiers": ["ward"],
        "least": 3,
        "median": 4.5,
        "rare_share": 0.25,
        "of_nobody_share": 0.25,
    }


def test_the_area_is_scikit_learns_ties_and_all():
    rng = np.random.default_rng(0)
    scores, y = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3
    assert _auroc(scores, y) == pytest.approx(roc_auc_score(y, scores))
    assert _auroc(scores, np.zeros(200, dtype=bool)) is None
