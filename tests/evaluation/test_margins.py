"""The counts behind a release: each one right, each patient moving them equally far."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.core.task import FollowUp
from fedhealth.evaluation.margins import EQUAL_BINS, Attribute, MarginLayout
from fedhealth.evaluation.spans import spans_of

SPEC = FeatureSpec(
    name="tiny",
    features=(
        Feature(name="age", range=(0, 100), bins=(40.0, 60.0)),
        Feature(name="female", kind="binary"),
        Feature(name="ward", kind="categorical", levels=("a", "b")),
    ),
)


@pytest.fixture
def study(smoke_study):
    return replace(smoke_study, features=SPEC)


def table(n, rng):
    columns = {
        "age": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(0, 100, n)),
        "female": np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 2, n)),
        "ward": np.array([None if x == 2 else "ab"[x] for x in rng.integers(0, 3, n)], dtype=object),
    }
    return columns, rng.integers(0, 2, n).astype(np.float32)


def word(name, value):
    """The cell of a value, by rules written out anew."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if name == "age":
        return "young" if value < 40 else "middle" if value < 60 else "old"
    return str(int(value)) if name != "ward" else value


CELLS = {"age": ["young", "middle", "old", "none"], "female": ["0", "1", "none"], "ward": ["a", "b", "none"]}


def test_every_count_is_that_of_a_loop_over_patients(study):
    columns, y = table(300, np.random.default_rng(1))
    layout = MarginLayout.of(study)
    counts = layout.counts(layout.cells(columns, y))
    cells = {**CELLS, study.task.outcome: ["0", "1"]}
    rows = [
        {name: word(name, columns[name][i] if name in columns else float(y[i])) for name in cells} for i in range(300)
    ]
    expected = [sum(row[name] == cell for row in rows) for name in cells for cell in cells[name]]
    names = list(cells)
    for a, one in enumerate(names):
        for other in names[a + 1 :]:
            expected += [
                sum(row[one] == x and row[other] == z for row in rows) for x in cells[one] for z in cells[other]
            ]
    assert counts.tolist() == expected


def test_the_counts_of_hospitals_add_up_to_those_of_all_their_patients(study):
    layout, rng = MarginLayout.of(study), np.random.default_rng(2)
    hospitals = [layout.cells(*table(n, rng)) for n in (5, 80, 131)]
    assert np.array_equal(sum(map(layout.counts, hospitals)), layout.counts(np.vstack(hospitals)))


def test_whoever_is_added_or_removed_moves_the_counts_by_the_sensitivity_and_no_more(study):
    """Brute force: every kind of patient there can be, added to and taken from a table."""
    layout = MarginLayout.of(study)
    cells = layout.cells(*table(40, np.random.default_rng(3)))
    kinds = np.array(np.meshgrid(*map(range, layout.sizes))).reshape(len(layout.sizes), -1).T
    moved = [np.linalg.norm(layout.counts(np.vstack([cells, kind])) - layout.counts(cells)) for kind in kinds]
    moved += [np.linalg.norm(layout.counts(np.delete(cells, i, axis=0)) - layout.counts(cells)) for i in range(40)]
    assert moved == pytest.approx([math.sqrt(4 + 6)] * len(moved))
    assert layout.sensitivity == math.sqrt(10)


def test_the_patients_are_counted_from_all_attributes(study):
    layout = MarginLayout.of(study)
    assert layout.patients(layout.counts(layout.cells(*table(77, np.random.default_rng(4))))) == pytest.approx(77)


def test_of_noisy_counts_an_attribute_of_fewer_cells_says_more_of_the_number_of_patients():
    layout = MarginLayout(
        (Attribute("few", has_missing=False, edges=(0.5,)), Attribute("many", edges=(1, 2, 3, 4, 5, 6)))
    )
    counts = np.zeros(layout.size)
    counts[0], counts[2] = 100, 130
    # A sum of 2 cells has a quarter of the variance of one of 8.
    assert layout.patients(counts) == pytest.approx((100 / 2 + 130 / 8) / (1 / 2 + 1 / 8))


def test_a_value_on_an_edge_belongs_above_it_and_an_unknown_word_is_missing():
    assert Attribute("age", edges=(40.0, 60.0)).cells(np.array([39.9, 40, 60, np.nan, np.inf])).tolist() == [
        0,
        1,
        2,
        3,
        3,
    ]
    assert Attribute("ward", levels=("a",)).cells(np.array(["a", None, "z"], dtype=object)).tolist() == [0, 1, 1]


def test_a_feature_without_edges_is_cut_evenly_over_its_range(study):
    spec = FeatureSpec(name="x", features=(Feature(name="lactate", range=(1.0, 256.0), transform="log"),))
    edges = MarginLayout.of(replace(study, features=spec)).attributes[0].edges
    assert len(edges) == EQUAL_BINS - 1
    assert np.diff(np.log(edges)) == pytest.approx(np.log(2.0))


def test_what_has_no_margins_is_refused(study):
    bare = FeatureSpec(name="x", features=(Feature(name="lactate"),))
    with pytest.raises(SettingError, match="bins or a range"):
        MarginLayout.of(replace(study, features=bare))
    series = FeatureSpec(
        name="x", features=(Feature(name="pulse", kind="series", window_h=(0.0, 4.0), range=(20, 250)),)
    )
    with pytest.raises(SettingError, match="found a series"):
        MarginLayout.of(replace(study, features=series))
    timed = replace(study.task, follow_up=FollowUp(time="days", horizon=30))
    with pytest.raises(SettingError, match="whose outcome is a time"):
        MarginLayout.of(replace(study, task=timed))
    with pytest.raises(DataError, match="same feature spec"):
        MarginLayout.of(study).one_way(np.zeros(3))


def test_the_summed_vector_has_a_number_for_each_count(study):
    assert sum(span.size for span in spans_of(study, "query.margins")) == MarginLayout.of(study).size
