"""From counts to made-up patients: near the counts, repeatable, within the bins, and not below the floor."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.errors import REFUSALS, DataError, Refused
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.evaluation.margins import MarginLayout
from fedhealth.release import fit
from fedhealth.release.card import NOT_FOR, card, card_text
from fedhealth.release.floor import refuse_few, refuse_near
from fedhealth.release.records import cells_of, csv_text, drawn
from fedhealth.release.smoothing import smoothed

SPEC = FeatureSpec(
    name="tiny",
    features=(
        Feature(name="age", unit="years", range=(0, 120), bins=(40.0, 60.0, 80.0)),
        Feature(name="coma", range=(3, 15), bins=(5.5, 9.5, 12.5)),
        Feature(name="lactate", range=(0.2, 35), transform="log", bins=(1.0, 2.0, 4.0)),
        Feature(name="female", kind="binary"),
        Feature(name="ward", kind="categorical", levels=("surgery", "x, y")),
    ),
)


@pytest.fixture
def study(smoke_study):
    return replace(smoke_study, features=SPEC)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fit, "ROWS", 200)


def patients(layout, n, rng):
    """Patients whose attributes all go with the first."""
    age = rng.integers(0, 4, n)
    rest = [
        np.where(rng.random(n) < 0.6, np.minimum(age, size - 1), rng.integers(0, size, n)) for size in layout.sizes[1:]
    ]
    return np.column_stack([age, *rest])


def apart(layout, one, other):
    """The mean over pairs of half the differences between shares."""
    pairs = zip(layout.two_way(layout.counts(one)).values(), layout.two_way(layout.counts(other)).values(), strict=True)
    return np.mean([np.abs(a / len(one) - b / len(other)).sum() / 2 for a, b in pairs])


def made(layout, counts, n, seed=5):
    return drawn(layout, fit.fitted(layout, counts, seed=seed), n, seed=seed)


@pytest.mark.slow
def test_a_release_of_exact_counts_has_nearly_those_counts_and_more_noise_takes_it_farther(study):
    layout, rng = MarginLayout.of(study), np.random.default_rng(0)
    real = patients(layout, 4000, rng)
    exact, noise = layout.counts(real), rng.standard_normal(layout.size)
    by_noise = [apart(layout, real, made(layout, exact + sd * noise, 4000)) for sd in (0, 40, 200)]
    assert by_noise[0] < 0.03
    assert by_noise[0] < by_noise[1] < by_noise[2]
    # Independent draws of the same single values, so that the pairs are what was learned.
    shuffled = np.column_stack([rng.permutation(column) for column in real.T])
    assert by_noise[1] < apart(layout, real, shuffled) / 2


def test_smoothing_takes_noise_off_pairs_and_leaves_exact_counts_and_single_values_alone(study):
    layout, rng = MarginLayout.of(study), np.random.default_rng(8)
    exact = layout.counts(patients(layout, 4000, rng))
    noisy, single = exact + 40 * rng.standard_normal(layout.size), layout.starts[-1]
    assert smoothed(layout, exact, noise=0.0) == pytest.approx(exact, abs=1e-6)
    found = smoothed(layout, noisy, noise=40.0)
    assert np.array_equal(found[:single], noisy[:single])
    assert np.square(found - exact)[single:].sum() < 0.8 * np.square(noisy - exact)[single:].sum()


@pytest.mark.slow
def test_the_same_sum_and_seed_give_the_same_release_and_another_seed_another(study):
    layout = MarginLayout.of(study)
    counts = layout.counts(patients(layout, 500, np.random.default_rng(1)))
    texts = [csv_text(study, layout, made(layout, counts, 500, seed), seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_value_of_the_file_lies_within_its_bin_and_its_range(study):
    layout, rng = MarginLayout.of(study), np.random.default_rng(2)
    cells = np.column_stack([rng.integers(0, size, 3000) for size in layout.sizes])
    rows = list(csv.DictReader(io.StringIO(csv_text(study, layout, cells, seed=1))))
    assert list(rows[0]) == [*SPEC.names, study.task.outcome]
    columns = {
        feature.name: np.array([row[feature.name] or None for row in rows], dtype=object)
        if feature.kind == "categorical"
        else np.array([float(row[feature.name] or "nan") for row in rows])
        for feature in SPEC.features
    }
    y = np.array([float(row[study.task.outcome]) > study.task.positive_above for row in rows], dtype=np.float32)
    assert np.array_equal(layout.cells(columns, y), cells)

    for feature in SPEC.features[:3]:
        known = columns[feature.name][np.isfinite(columns[feature.name])]
        assert feature.range[0] <= known.min() <= known.max() <= feature.range[1]
        # No more digits than it takes: three say a value, and near an edge a few more which side it is on.
        assert max(len(row[feature.name]) for row in rows) <= 8
    coma = columns["coma"][np.isfinite(columns["coma"])]
    assert set(coma) == set(range(3, 16))


@pytest.mark.parametrize("above", [0.0, 0.5, 2.0])
def test_the_text_of_a_release_gives_its_cells_back(study, above):
    study = replace(study, task=replace(study.task, positive_above=above))
    layout, rng = MarginLayout.of(study), np.random.default_rng(3)
    cells = np.column_stack([rng.integers(0, size, 500) for size in layout.sizes])
    assert np.array_equal(cells_of(study, layout, csv_text(study, layout, cells, seed=1)), cells)


@pytest.mark.parametrize("spoil", [lambda text: "", lambda text: text.partition("\n")[2], lambda text: text + "1,2\n",
                                   lambda text: text.partition("\n")[0], lambda text: text + "old,3,1,1,surgery,0\n"])  # fmt: skip
def test_what_is_no_release_of_the_study_is_refused_in_one_line(study, spoil):
    layout = MarginLayout.of(study)
    text = csv_text(study, layout, np.zeros((5, len(layout.sizes)), dtype=np.int64), seed=1)
    with pytest.raises(DataError, match="a release"):
        cells_of(study, layout, spoil(text))


@pytest.mark.parametrize(("refuse", "value", "code"), [
    (refuse_few, 1999.4, "release_too_small"), (refuse_few, -3.0, "release_too_small"),
    (refuse_near, 0.551, "release_too_near"), (refuse_near, float("nan"), "release_too_near"),
])  # fmt: skip
def test_below_the_floor_nothing_is_released(refuse, value, code):
    with pytest.raises(Refused) as refused:
        refuse(value)
    assert refused.value.code == code
    assert refused.value.exit_code == 3
    assert code in REFUSALS


def test_at_the_floor_a_release_goes_on():
    def code(refuse, value):
        try:
            refuse(value)
        except Refused as refused:
            return refused.code
        return ""

    assert [code(refuse_few, n) for n in (1999.4, 2000.0, 1e9)] == ["release_too_small", "", ""]
    assert [code(refuse_near, share) for share in (0.551, 0.55, 0.0)] == ["release_too_near", "", ""]


def test_the_card_says_what_the_release_costs_and_is_not_for(study):
    found = card(
        study, MarginLayout.of(study), rows=2100, hospitals=4, promised="(ε = 3, δ = 1e-06) for a patient", alone="more",
        statement="It rests on the masks.", noise=31.3, compared="Compared with none.", digests={"study": "ab"},
    )  # fmt: skip
    text = card_text(found)
    for words in (
        "ε = 3",
        "rests on the masks",
        "31.3 patients",
        "Compared with none.",
        "2,100 made-up",
        "| ward | 3 | surgery, x, y |",
        "`ab`",
    ):
        assert words in text
    assert all(one in text for one in NOT_FOR)
