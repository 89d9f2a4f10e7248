from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from fedhealth.core.errors import SettingError
from fedhealth.core.measure import Measure, not_estimable
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import CLIP, GROUP_BINS, ScoreSums


def ward(n, *, seed, spread=1.5, overconfidence=1.0):
    """Predictions and outcomes with about 15 % positives, as in-hospital mortality has."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-2.3, spread, n)
    return expit(overconfidence * true), (rng.random(n) < expit(true)).astype(int)


wards = st.builds(
    lambda n, seed, spread: ward(n, seed=seed, spread=spread),
    st.integers(40, 400),
    st.integers(0, 9999),
    st.sampled_from([0.1, 1.5, 4.0]),
).filter(lambda found: 0 < found[1].sum() < len(found[1]))
bin_counts = st.sampled_from([10, GROUP_BINS, 1000])


@given(found=wards, bins=bin_counts)
@settings(max_examples=60)
def test_auroc_lies_within_its_binning_bound_of_scikit_learns(found, bins):
    p, y = found
    sums = ScoreSums.of(p, y, bins=bins)
    error = abs(measures.auroc(sums).value - metrics.roc_auc_score(y, p))
    assert error <= measures.auroc_binning_bound(sums) + 1e-12


@given(found=wards, bins=bin_counts)
@settings(max_examples=60)
def test_auprc_lies_between_scikit_learns_for_the_worst_and_the_best_order_within_a_cell(found, bins):
    p, y = found
    cell = np.minimum(np.floor(p * bins), bins - 1)
    value = measures.auprc(ScoreSums.of(p, y, bins=bins)).value

    worst, best = (metrics.average_precision_score(y, cell + shift) for shift in (-0.25 * y, 0.25 * y))

    assert worst - 1e-12 <= value <= best + 1e-12
    assert value == pytest.approx(metrics.average_precision_score(y, cell), abs=1e-12)


@pytest.mark.parametrize(("bins", "of_auroc", "of_auprc"), [(1000, 1e-4, 2e-3), (GROUP_BINS, 5e-4, 8e-3)])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_measures_of_a_ward_are_scikit_learns_to_the_stated_error(bins, of_auroc, of_auprc, seed):
    p, y = ward(4000, seed=seed)
    sums = ScoreSums.of(p, y, bins=bins)
    assert measures.auroc(sums).value == pytest.approx(metrics.roc_auc_score(y, p), abs=of_auroc)
    assert measures.auprc(sums).value == pytest.approx(metrics.average_precision_score(y, p), abs=of_auprc)


@given(found=wards, bins=bin_counts)
@settings(max_examples=40)
def test_brier_and_log_loss_are_scikit_learns_whatever_the_bins(found, bins):
    p, y = found
    sums = ScoreSums.of(p, y, bins=bins)
    assert measures.brier(sums).value == pytest.approx(metrics.brier_score_loss(y, p), abs=1e-6)
    assert measures.log_loss(sums).value == pytest.approx(metrics.log_loss(y, p), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_sensitivity_and_ece_of_a_ward_are_scikit_learns(seed):
    p, y = ward(4000, seed=seed, overconfidence=1.5)
    sums = ScoreSums.of(p, y)
    false_rate, true_rate, _ = metrics.roc_curve(y, p, drop_intermediate=False)
    observed, predicted = calibration_curve(y, p, n_bins=10)
    held = np.histogram(p, np.linspace(0, 1, 11))[0]

    assert measures.accuracy(sums).value == pytest.approx(metrics.accuracy_score(y, p >= 0.5), abs=1e-12)
    top = true_rate[false_rate <= 0.1].max()
    assert measures.sensitivity_at_specificity(sums).value == pytest.approx(top, abs=5e-3)
    ece = held[held > 0] @ abs(observed - predicted) / len(y)
    assert measures.ece(sums).value == pytest.approx(ece, abs=1e-4)


@pytest.mark.parametrize("overconfidence", [0.6, 1.0, 1.6])
@pytest.mark.parametrize(("bins", "error"), [(GROUP_BINS, 0.02), (1000, 0.005)])
def test_recalibration_is_the_logistic_regression_on_each_patients_logit(overconfidence, bins, error):
    p, y = ward(4000, seed=3, overconfidence=overconfidence)
    sums = ScoreSums.of(p, y, bins=bins)

    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    intercept = brentq(lambda a: np.sum(y - expit(logit(p) + a)), -9, 9)

    assert measures.calibration_slope(sums).value == pytest.approx(fit.coef_[0, 0], abs=error)
    assert measures.calibration_intercept(sums).value == pytest.approx(intercept, abs=error)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3])
def test_net_benefit_is_the_mean_of_what_each_patient_gains(threshold):
    p, y = ward(3000, seed=4)
    gain = np.where(p >= threshold, np.where(y == 1, 1.0, -threshold / (1 - threshold)), 0.0)

    found = measures.net_benefit(ScoreSums.of(p, y), threshold)

    half = norm.ppf(0.975) * gain.std(ddof=1) / math.sqrt(len(gain))
    assert (found.value, found.low, found.high) == pytest.approx((gain.mean(), gain.mean() - half, gain.mean() + half))


def test_six_patients_worked_by_hand():
    sums = ScoreSums.of(np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2]), np.array([1, 0, 1, 1, 0, 0]), bins=10)

    assert measures.auroc(sums).value == pytest.approx(7 / 9)
    assert measures.auprc(sums).value == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert measures.accuracy(sums).value == pytest.approx(5 / 6)
    assert measures.net_benefit(sums, 0.5).value == pytest.approx(2 / 6)
    assert measures.brier(sums).value == pytest.approx((0.01 + 0.64 + 0.09 + 0.16 + 0.16 + 0.04) / 6, abs=1e-6)
    assert measures.sensitivity_at_specificity(sums, 2 / 3).value == pytest.approx(1)
    assert measures.sensitivity_at_specificity(sums, 0.9).value == pytest.approx(1 / 3)


def test_delongs_variance_is_that_of_the_placements_of_each_patient():
    p, y = ward(120, seed=5)
    cell = np.floor(p * 1000)
    wins = (cell[y == 1][:, None] > cell[y == 0]) + 0.5 * (cell[y == 1][:, None] == cell[y == 0])
    sd = math.sqrt(wins.mean(1).var(ddof=1) / y.sum() + wins.mean(0).var(ddof=1) / (1 - y).sum())

    found = measures.auroc(ScoreSums.of(p, y))

    width = norm.ppf(0.975) * sd / (found.value * (1 - found.value))
    assert found.value == pytest.approx(wins.mean())
    assert (logit(found.low), logit(found.high)) == pytest.approx(
        (logit(wins.mean()) - width, logit(wins.mean()) + width)
    )


def test_perfect_separation_is_an_auroc_of_1_that_is_not_certain():
    p, y = np.array([0.1] * 20 + [0.9] * 5), np.array([0] * 20 + [1] * 5)
    sums = ScoreSums.of(p, y)

    found, row = measures.auroc(sums), measures.all_measures(sums, seed=1)

    def excess(truth):
        spread = 1 + 11.5 * (1 - truth) / (2 - truth) + 11.5 * truth / (1 + truth)
        return (1 - truth) ** 2 - norm.ppf(0.975) ** 2 * truth * (1 - truth) * spread / 100

    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(brentq(excess, 0.5, 0.999), abs=1e-6)
    assert row["auprc"].value == row["sensitivity_at_90_specificity"].value == 1
    assert math.isnan(row["auprc"].low)
    assert "every resample" in row["auprc"].note
    assert "separates" in row["calibration_slope"].note
    assert math.isnan(row["calibration_slope"].value)


def test_scores_that_are_all_alike_rank_nobody():
    sums = ScoreSums.of(np.full(50, 0.3), np.arange(50) % 5 == 0)

    row = measures.all_measures(sums, seed=1)

    assert row["auroc"].value == pytest.approx(0.5)
    assert row["auroc"].low < 0.4 < 0.6 < row["auroc"].high
    assert row["auprc"].value == pytest.approx(0.2)
    assert row["sensitivity_at_90_specificity"].value == pytest.approx(0.1)
    assert not row["calibration_slope"].is_estimable
    assert row["calibration_intercept"].value == pytest.approx(logit(0.2) - logit(0.3), abs=1e-5)


@pytest.mark.parametrize("name", measures.MEASURES)
def test_a_measure_of_nobody_is_not_a_number_and_not_0(name):
    found = measures.all_measures(ScoreSums.empty(), seed=1)[name]
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.note == "no patients"


@pytest.mark.parametrize(("outcome", "note"), [(0, "nobody had"), (1, "everybody had")])
def test_with_one_class_what_compares_the_classes_is_not_estimable_and_the_rest_is(outcome, note):
    sums = ScoreSums.of(np.linspace(0.1, 0.6, 30), np.full(30, outcome))

    row = measures.all_measures(sums, seed=1)

    lacking = {name for name, found in row.items() if not found.is_estimable}
    comparing = {"auroc", "auprc", "calibration_slope", "calibration_intercept", "sensitivity_at_90_specificity"}
    assert lacking == comparing
    assert all(note in row[name].note for name in lacking)
    assert math.isnan(measures.auroc_binning_bound(sums))


@given(
    scores=st.lists(st.sampled_from([0.0, 5e-324, 0.001, 0.0015, 0.3, 0.5, 0.999, 1.0]), min_size=1, max_size=12),
    seed=st.integers(0, 999),
)
@settings(max_examples=150)
def test_any_few_patients_give_a_value_inside_its_interval_or_a_reason(scores, seed):
    outcome = np.random.default_rng(seed).integers(2, size=len(scores))

    row = measures.all_measures(ScoreSums.of(np.array(scores), outcome), seed=seed)

    for found in row.values():
        assert found.is_estimable or found.note
        assert not found.is_estimable or found.method or found.note
        assert math.isnan(found.low) or (math.isfinite(found.low) and found.low <= found.high < math.inf)
        if found.method and "percentile" not in found.method:
            assert found.low - 1e-12 <= found.value <= found.high + 1e-12


@given(found=wards, sites=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_measures_of_the_sum_over_sites_are_those_of_the_pooled_patients(found, sites, seed):
    p, y = found
    site = np.random.default_rng(seed).integers(sites, size=len(y))

    total = ScoreSums.empty()
    for k in range(sites):
        total = total + ScoreSums.of(p[site == k], y[site == k])

    pooled = measures.all_measures(ScoreSums.of(p, y), seed=seed)
    assert {k: m.to_json() for k, m in measures.all_measures(total, seed=seed).items()} == {
        k: m.to_json() for k, m in pooled.items()
    }


def test_the_seed_alone_moves_the_bootstrap():
    sums = ScoreSums.of(*ward(500, seed=6))
    first, again, other = (measures.all_measures(sums, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["auprc"].low != other["auprc"].low
    assert first["auprc"].value == other["auprc"].value


@pytest.mark.parametrize("n_positive", [0, 1, 9])
def test_a_row_with_few_patients_in_a_class_is_withheld_whole(n_positive):
    y = np.arange(100) < n_positive
    sums = ScoreSums.of(np.linspace(0.9, 0.1, 100), y)

    row = measures.all_measures(sums, seed=1, floor=10)

    assert not any(found.is_estimable for found in row.values())
    assert {found.note for found in row.values()} == {measures.withheld_below(sums, 10)}
    assert measures.withheld_below(ScoreSums.of(np.linspace(0.9, 0.1, 100), np.arange(100) < 10), 10) == ""


def test_one_rare_positive_among_a_hundred_thousand_has_values():
    p = np.full(100_000, 1e-5)
    p[0] = 0.5
    row = measures.all_measures(ScoreSums.of(p, np.arange(100_000) == 0), seed=1)
    assert row["auroc"].value == 1
    assert row["auroc"].low < 0.9
    assert row["accuracy"].value == 1
    assert row["calibration_intercept"].is_estimable


def test_a_confident_model_that_is_always_wrong_has_finite_measures():
    sums = ScoreSums.of(np.array([1.0] * 30 + [0.0] * 30), np.array([0] * 30 + [1] * 30))

    row = measures.all_measures(sums, seed=1)

    assert (row["auroc"].value, row["brier"].value) == (0, 1)
    assert row["log_loss"].value == pytest.approx(23 * math.log(2), abs=1e-5)
    assert row["ece"].value == pytest.approx(1, abs=1e-6)
    assert row["calibration_intercept"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wrong", [1, 50, 99])
def test_a_sure_and_often_wrong_model_is_still_recalibrated(wrong):
    p, y = np.array([0.0] * 100 + [1.0] * 3), np.array([1] * wrong + [0] * (100 - wrong) + [1, 1, 0])
    clipped = np.clip(p, CLIP, 1 - CLIP)

    found = measures.calibration_intercept(ScoreSums.of(p, y))

    assert found.value == pytest.approx(brentq(lambda a: np.sum(y - expit(logit(clipped) + a)), -40, 40), abs=1e-4)
    assert math.isfinite(found.low)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, math.nan])
def test_a_threshold_that_is_no_risk_is_refused(threshold):
    with pytest.raises(SettingError, match="threshold must lie between 0 and 1"):
        measures.net_benefit(ScoreSums.empty(), threshold)


def test_the_mean_over_sites_squares_and_adds_each_side():
    sites = [Measure(0.8, 0.74, 0.83), Measure(0.9, 0.82, 0.94), not_estimable("no patients")]

    found = measures.mean_measure(sites)

    assert (found.value, found.low, found.high) == pytest.approx((0.85, 0.85 - 0.1 / 2, 0.85 + 0.05 / 2))
    assert found.note == "mean of 2 of 3 hospitals"
    assert not measures.mean_measure([not_estimable("no patients")]).is_estimable
    assert math.isnan(measures.mean_measure([Measure(0.8, 0.7, 0.9), Measure(0.9)]).low)


@pytest.mark.parametrize(("n", "separation"), [(60, 1.4), (200, 1.4), (200, 2.3)])
@pytest.mark.slow
def test_the_auroc_interval_covers_the_truth_as_often_as_it_says(n, separation):
    rng, truth, y = np.random.default_rng(0), norm.cdf(separation / math.sqrt(2)), np.arange(n) < 0.15 * n
    samples = (ScoreSums.of(expit(rng.normal(separation * y - 2)), y) for _ in range(2000))

    hits = [found.low <= truth <= found.high for found in map(measures.auroc, samples)]

    assert 0.91 <= np.mean(hits) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("overconfidence", [1.0, 1.6])
def test_every_interval_covers_the_truth_about_as_often_as_it_says(overconfidence):
    def draw(seed, n):
        return ScoreSums.of(*ward(n, seed=seed, overconfidence=overconfidence))

    union = draw(10**6, 4_000_000)
    truth = {name: d.of(union, None).value for name, d in measures.MEASURES.items()}
    rows = [measures.all_measures(draw(seed, 400), seed=seed) for seed in range(300)]

    for name, true in truth.items():
        hits = [row[name].low <= true <= row[name].high for row in rows]
        assert 0.90 <= np.mean(hits) <= 0.995, name


def test_noise_on_the_cells_widens_the_interval_of_an_auroc_by_what_it_moves_the_area():
    rng = np.random.default_rng(0)
    positives, negatives = 30 + np.arange(20) * 4, 400 - np.arange(20) * 12
    exact = ScoreSums.from_counts(positives, negatives)
    noise = 6.0
    areas = []
    for _ in range(3000):
        moved = [np.rint(each + noise * rng.standard_normal(20)).astype(int) for each in (positives, negatives)]
        areas.append(measures.auroc(ScoreSums.from_counts(*moved)).value)

    def variance(found):
        slope = found.value * (1 - found.value)
        low, high = (np.log(end / (1 - end)) for end in (found.low, found.high))
        return (slope * (high - low) / 2 / 1.959964) ** 2

    widened, plain = measures.auroc(exact, noise=noise), measures.auroc(exact)
    assert widened.value == plain.value
    # 3,000 draws know a variance to 2.6 %; rounding adds 1/12 of a patient.
    assert variance(widened) - variance(plain) == pytest.approx(np.var(areas), rel=0.1)
