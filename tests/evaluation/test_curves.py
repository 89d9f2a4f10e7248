from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fedhealth.evaluation import curves, measures
from fedhealth.evaluation.scores import ScoreSums


def ward(n, seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(-2.3, 1.5, n)
    return expit(true), rng.random(n) < expit(true)


def cells_of(p):
    return np.minimum(np.floor(p * 1000), 999)


def test_a_small_roc_curve_has_scikit_learns_points():
    p, y = ward(150, seed=1)
    false_rate, true_rate, _ = metrics.roc_curve(y, cells_of(p), drop_intermediate=False)

    found = curves.roc(ScoreSums.of(p, y))

    assert found.x == pytest.approx(false_rate)
    assert found.y == pytest.approx(true_rate)


def test_a_small_precision_recall_curve_has_scikit_learns_points():
    p, y = ward(150, seed=1)
    precision, recall, _ = metrics.precision_recall_curve(y, cells_of(p))

    found = curves.precision_recall(ScoreSums.of(p, y))

    assert found.x == pytest.approx(recall[:-1][::-1])
    assert found.y == pytest.approx(precision[:-1][::-1])


def test_a_large_curve_is_thinned_and_keeps_its_ends_and_its_area():
    sums = ScoreSums.of(*ward(200_000, seed=2))

    roc, pr = curves.roc(sums), curves.precision_recall(sums)

    assert len(roc.x) <= curves.POINTS
    assert len(pr.x) <= curves.POINTS
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(roc.x) >= 0)
    assert metrics.auc(roc.x, roc.y) == pytest.approx(measures.auroc(sums).value, abs=1e-3)
    assert metrics.auc(pr.x, pr.y) == pytest.approx(measures.auprc(sums).value, abs=5e-3)


def test_reliability_is_scikit_learns_calibration_curve():
    p, y = ward(5000, seed=3)
    observed, predicted = calibration_curve(y, p, n_bins=10)

    found = curves.reliability(ScoreSums.of(p, y))

    assert found.observed == pytest.approx(observed)
    assert found.predicted == pytest.approx(predicted, abs=1e-3)
    assert found.patients.sum() == 5000
    assert np.all((found.low <= found.observed) & (found.observed <= found.high))


def test_the_gaps_of_the_reliability_diagram_add_up_to_the_ece():
    sums = ScoreSums.of(*ward(800, seed=4))
    found = curves.reliability(sums)
    gap = found.patients @ abs(found.observed - found.predicted) / 800
    assert gap == pytest.approx(measures.ece(sums).value)


def test_a_decision_curve_worked_by_hand():
    sums = ScoreSums.of(np.array([0.05, 0.15, 0.35, 0.75]), np.array([0, 1, 0, 1]))

    found = curves.decision(sums, [0.1, 0.5])

    assert found.model == pytest.approx([2 / 4 - 1 / 4 / 9, 1 / 4])
    assert found.treat_all == pytest.approx([0.5 - 0.5 / 9, 0])
    assert found.treat_none.tolist() == [0, 0]


@pytest.mark.parametrize("outcome", [[], [0, 0, 0], [1, 1, 1]])
def test_one_class_or_nobody_draws_no_ranking_curve(outcome):
    sums = ScoreSums.of(np.linspace(0.2, 0.8, len(outcome)), np.array(outcome))
    assert len(curves.roc(sums).x) == len(curves.precision_recall(sums).y) == 0
    assert curves.reliability(sums).patients.sum() == len(outcome)
    assert np.isnan(curves.decision(sums).model).all() == (not outcome)


def test_scores_that_are_all_alike_draw_the_diagonal():
    found = curves.roc(ScoreSums.of(np.full(10, 0.4), np.arange(10) < 3))
    assert (found.x.tolist(), found.y.tolist()) == ([0, 1], [0, 1])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 25))
@example([2, 0, 1], 2)
def test_merged_bins_keep_every_patient_and_hold_the_least_each(patients, least):
    target = curves._merged(np.array(patients), least)
    held = np.bincount(target, patients, minlength=len(patients))
    assert held.sum() == sum(patients)
    if sum(patients) >= least:
        assert all(count == 0 or count >= least for count in held)
