"""The measures: functions of the score sums, each with its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.measure import Measure, not_estimable
from fedhealth.evaluation.intervals import Cells, Z, bootstrapped, cells, mean, percentiles, resample, total, wilson
from fedhealth.evaluation.recalibration import recalibration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fedhealth.evaluation.scores import ScoreSums


@dataclass(frozen=True, slots=True)
class Definition:
    """A row of the table of measures.

    Attributes:
        title: what a report calls it.
        of: the measure of some sums; the bootstrap draws are for those that need them.
        higher_is_better: None where the best value lies between (a calibration slope of 1,
            an intercept of 0).
        form: how a number is written, as a format specification.
    """

    title: str
    of: Callable[[ScoreSums, Cells | None], Measure]
    higher_is_better: bool | None
    form: str = ".3f"


def all_measures(sums: ScoreSums, *, seed: int, floor: int = 0, noise: float = 0.0) -> dict[str, Measure]:
    """Every measure of `MEASURES`, by name; the whole row is withheld below the floor. `noise` is as for `auroc`."""
    note = withheld_below(sums, floor)
    if note:
        return dict.fromkeys(MEASURES, not_estimable(note))
    draws = resample(sums, seed=seed)
    found = {name: definition.of(sums, draws) for name, definition in MEASURES.items()}
    return {**found, "auroc": auroc(sums, noise=noise)}


def withheld_below(sums: ScoreSums, floor: int) -> str:
    """Why measures of these sums are withheld; empty where they are not.

    They are where either class has fewer patients than the floor: each measure of a row
    would tell of the few. Where it has none the note is the same, since "nobody" is an
    answer too; only a floor of 1, which protects nobody, lets the measure itself say so.
    """
    few = min(sums.n_positive, sums.n_negative) < floor
    return (
        f"withheld or not estimable: fewer than {floor} patients with or without the outcome"
        if few and floor > 1
        else ""
    )


def auroc(sums: ScoreSums, *, noise: float = 0.0) -> Measure:
    """The area under the ROC curve; two patients in one cell count as tied, half.

    The variance is DeLong's (1988, doi:10.2307/2531595), straight from the counts; the
    interval is made on the logit scale. With 5 to 100 patients in the smaller class and
    areas of .64 to .95 it covered the truth in 92 to 98 % of simulated samples, the plain
    one in 70 to 95 %. Where the logit or the variance does not exist (perfect separation,
    one patient in a class) it is Newcombe's score interval.

    Where each cell has noise of its own on it, of the standard deviation `noise` in patients, the
    variance that this gives the area to first order is added.

    See `auroc_binning_bound` for how far the cells can move the value.
    """
    if note := _one_class(sums):
        return not_estimable(note)
    positives, negatives = sums.positives, sums.negatives
    n_positive, n_negative = sums.n_positive, sums.n_negative
    placement_of_positive = (np.cumsum(negatives) - negatives / 2) / n_negative
    placement_of_negative = 1 - (np.cumsum(positives) - positives / 2) / n_positive
    area = float(positives @ placement_of_positive) / n_positive
    variance = 0.0
    if n_positive > 1 and n_negative > 1:
        variance = (
            float(positives @ (placement_of_positive - area) ** 2) / (n_positive - 1) / n_positive
            + float(negatives @ (placement_of_negative - area) ** 2) / (n_negative - 1) / n_negative
        )
    # A patient more in a cell moves the area by how far that cell's placement lies from it, over the class.
    variance += noise**2 * (
        float(((placement_of_positive - area) ** 2).sum()) / n_positive**2
        + float(((placement_of_negative - area) ** 2).sum()) / n_negative**2
    )
    if variance == 0 or not 0 < area < 1:
        return Measure(area, *_newcombe(area, n_positive, n_negative), method="Newcombe score")
    half = Z * math.sqrt(variance) / (area * (1 - area))
    logit = math.log(area / (1 - area))
    return Measure(
        area,
        _expit(logit - half),
        _expit(logit + half),
        method="DeLong, logit scale" if not noise else "DeLong and noise, logit scale",
    )


def watched(sums: ScoreSums, name: Literal["auroc", "log_loss"]) -> float | None:
    """The measure that chooses a round, turned so that lower is better; None where it has no value."""
    value = -auroc(sums).value if name == "auroc" else log_loss(sums).value
    return None if math.isnan(value) else value


def auroc_binning_bound(sums: ScoreSums) -> float:
    """How far at most the AUROC of the raw scores lies from that of the cells; NaN with one class.

    Each pair of patients in one cell counts 1/2 here and 0, 1/2 or 1 there.
    """
    if _one_class(sums):
        return math.nan
    return 0.5 * float(sums.positives @ sums.negatives) / (sums.n_positive * sums.n_negative)


def auprc(sums: ScoreSums, draws: Cells | None = None) -> Measure:
    """The average precision: the sum over thresholds of the gain in recall times the precision there."""
    return _of_both_classes(_average_precision, sums, draws)


def sensitivity_at_specificity(sums: ScoreSums, specificity: float = 0.9, draws: Cells | None = None) -> Measure:
    """The sensitivity where the ROC curve, straight between thresholds, has the given specificity."""
    return _of_both_classes(lambda found: _sensitivity(found, specificity), sums, draws)


def brier(sums: ScoreSums) -> Measure:
    """The mean squared difference of probability and outcome (Brier 1950), free of binning."""
    return mean(sums.brier, sums.brier_sq, sums.n, least=0, most=1)


def log_loss(sums: ScoreSums) -> Measure:
    """The mean of -log(probability given to what happened), free of binning; at most 15.9 by the clip."""
    return mean(sums.log_loss, sums.log_loss_sq, sums.n, least=0)


def ece(sums: ScoreSums, bins: int = 10, draws: Cells | None = None) -> Measure:
    """The expected calibration error over equal-width bins of probability.

    The patients' mean of |observed - predicted|, each by bin (Guo 2017, arXiv:1706.04599,
    eq. 3). Chance alone makes it larger than the truth, and resampling makes it larger
    again, so the interval is the basic bootstrap's, which takes that excess off. Its lower
    end is 0 where the value is no more than the resamples' bins stray from the sample's,
    as far as those of a perfectly calibrated model would.
    """
    if sums.n == 0:
        return not_estimable("no patients")
    once, drawn = _gaps(cells(sums), bins), None if draws is None else _gaps(draws, bins)
    found = bootstrapped(
        lambda each: total(np.abs(drawn if each is draws and drawn is not None else once)), sums, draws
    )
    if drawn is None or math.isnan(found.low):
        return found
    (stray,) = percentiles(total(np.abs((drawn.T - once).T)), 0.975)
    low = max(2 * found.value - found.high, 0.0) if found.value > stray else 0.0
    high = max(2 * found.value - found.low, found.value)
    return Measure(found.value, low, high, method=found.method.replace("percentile", "basic"))


def calibration_slope(sums: ScoreSums) -> Measure:
    """The slope b of logit P(outcome) = a + b logit(p); below 1 the predictions are too extreme.

    Cox's logistic recalibration (1958, doi:10.1093/biomet/45.3-4.562). There is none where
    one cut on the score separates the classes.

    The cells stand in for their patients, which moves it little while few logits lie beyond
    the inner cells: measured on thirty wards of 4,000, by at most .005 with 1,000 cells and
    .02 with 200 for a slope of .6 or more; for a slope of .4 by up to .02 and .04, downwards.
    """
    note = _one_class(sums) or _separated(sums)
    return not_estimable(note) if note else recalibration(sums, slope=True)


def calibration_intercept(sums: ScoreSums) -> Measure:
    """Calibration in the large: the a of logit P(outcome) = a + logit(p); above 0 the predictions are too low.

    The slope is held at 1 (Steyerberg 2010, doi:10.1097/EDE.0b013e3181c30fb2).
    """
    note = _one_class(sums)
    return not_estimable(note) if note else recalibration(sums, slope=False)


def accuracy(sums: ScoreSums, threshold: float = 0.5) -> Measure:
    """The share of patients put right when p >= threshold is read as positive."""
    above = _above(sums, threshold)
    return wilson(int(sums.positives[above].sum() + sums.negatives[~above].sum()), sums.n)


def net_benefit(sums: ScoreSums, threshold: float) -> Measure:
    """True positives less false positives weighed by threshold / (1 - threshold), per patient.

    The unit is true positives per patient when those with p >= threshold are treated
    (Vickers 2006, doi:10.1177/0272989X06295361).
    """
    above = _above(sums, threshold)
    weight = threshold / (1 - threshold)
    true, false = int(sums.positives[above].sum()), int(sums.negatives[above].sum())
    return mean(true - weight * false, true + weight**2 * false, sums.n)


def mean_measure(measures: Sequence[Measure]) -> Measure:
    """The unweighted mean over sites, with the interval of a mean of independent estimates.

    The sites' distances from value to limit are squared and added, each side by itself
    (Zou 2008, doi:10.1002/sim.3095), so a mean of AUROCs never reaches beyond 1. Sites
    without a value are left out and counted in the note; where one with a value has no
    interval, neither has the mean.
    """
    found = [measure for measure in measures if measure.is_estimable]
    if not found:
        return not_estimable("no hospital has a value")
    value = sum(measure.value for measure in found) / len(found)
    below = math.hypot(*(measure.value - measure.low for measure in found)) / len(found)
    above = math.hypot(*(measure.high - measure.value for measure in found)) / len(found)
    note = "" if len(found) == len(measures) else f"mean of {len(found)} of {len(measures)} hospitals"
    if math.isnan(below + above):
        return Measure(value, note=note or "no interval: a hospital has none")
    return Measure(value, value - below, value + above, method="square-and-add, independent hospitals", note=note)


#: Every measure a report shows, in its order.
MEASURES: dict[str, Definition] = {
    "auroc": Definition("AUROC", lambda sums, _: auroc(sums), higher_is_better=True),
    "auprc": Definition("AUPRC", auprc, higher_is_better=True),
    "brier": Definition("Brier score", lambda sums, _: brier(sums), higher_is_better=False),
    "log_loss": Definition("Log loss", lambda sums, _: log_loss(sums), higher_is_better=False),
    "ece": Definition("Calibration error (ECE)", lambda sums, draws: ece(sums, draws=draws), higher_is_better=False),
    "calibration_slope": Definition(
        "Calibration slope", lambda sums, _: calibration_slope(sums), higher_is_better=None, form=".2f"
    ),
    "calibration_intercept": Definition(
        "Calibration intercept", lambda sums, _: calibration_intercept(sums), higher_is_better=None, form="+.2f"
    ),
    "sensitivity_at_90_specificity": Definition(
        "Sensitivity at 90 % specificity",
        lambda sums, draws: sensitivity_at_specificity(sums, 0.9, draws),
        higher_is_better=True,
    ),
    "net_benefit_at_10": Definition(
        "Net benefit at a 10 % threshold", lambda sums, _: net_benefit(sums, 0.1), higher_is_better=True
    ),
    "accuracy": Definition("Accuracy", lambda sums, _: accuracy(sums), higher_is_better=True),
}


def _one_class(sums: ScoreSums) -> str:
    """Why a measure that compares the classes has no value; empty where it has."""
    if sums.n == 0:
        return "no patients"
    if sums.n_positive == 0:
        return "nobody had the outcome"
    if sums.n_negative == 0:
        return "everybody had the outcome"
    return ""


def _separated(sums: ScoreSums) -> str:
    """Why the recalibration has no finite slope (Albert 1984, doi:10.1093/biomet/71.1.1); empty where it has."""
    positive, negative = np.flatnonzero(sums.positives), np.flatnonzero(sums.negatives)
    apart = negative[-1] <= positive[0] or positive[-1] <= negative[0]
    return "one cut on the score separates the classes, or all scores are alike" if apart else ""


def _of_both_classes(
    statistic: Callable[[Cells], NDArray[np.float64]], sums: ScoreSums, draws: Cells | None
) -> Measure:
    note = _one_class(sums)
    return not_estimable(note) if note else bootstrapped(statistic, sums, draws)


def _above(sums: ScoreSums, threshold: float) -> NDArray[np.bool_]:
    """[bins] the cells at or above the threshold, which is moved to the nearest cell's edge."""
    if not 0 < threshold < 1:
        raise SettingError(f"threshold must lie between 0 and 1, found {threshold}. Choose the risk at which you act.")
    return np.arange(sums.bins) >= round(threshold * sums.bins)


def _average_precision(found: Cells) -> NDArray[np.float64]:
    true, false = found.true[1:], found.false[1:]
    called = true + false
    with np.errstate(invalid="ignore"):
        area = total(found.positives[::-1] * true / np.maximum(called, 1)) / true[-1]
    return np.asarray(np.where(false[-1] > 0, area, np.nan))


def _sensitivity(found: Cells, specificity: float) -> NDArray[np.float64]:
    """Reads the ROC curve at a false positive rate of 1 - specificity, at the top of a rise."""
    true, false = found.true, found.false
    allowed = (1 - specificity) * false[-1:] * (1 + 1e-12)  # 1 - 0.9 lies just below 0.1
    last = np.count_nonzero(false[1:] <= allowed, axis=0, keepdims=True)
    following = np.minimum(last + 1, len(true) - 1)
    true_at, false_at = np.take_along_axis(true, last, 0), np.take_along_axis(false, last, 0)
    rise, run = np.take_along_axis(true, following, 0) - true_at, np.take_along_axis(false, following, 0) - false_at
    with np.errstate(invalid="ignore"):
        reached = true_at + rise * np.where(run > 0, (allowed - false_at) / np.maximum(run, 1), 0.0)
        return np.asarray(np.where(false[-1:] > 0, reached / true[-1:], np.nan)[0])


def _gaps(found: Cells, bins: int) -> NDArray[np.float64]:
    """[occupied bins, ...] observed less expected positives, per patient of the whole sample."""
    patients = found.positives + found.negatives
    first = np.flatnonzero(np.diff(found.index * bins // found.bins, prepend=-1))
    gaps = np.add.reduceat(found.positives - (patients.T * found.probability).T, first, axis=0)
    return np.asarray(gaps / patients.sum(axis=0))


def _newcombe(area: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """Newcombe's score interval of an AUROC (2006, doi:10.1002/sim.2324, method 5), by bisection."""
    others = (n_positive + n_negative) / 2 - 1

    def is_inside(truth: float) -> bool:
        spread = 1 + others * (1 - truth) / (2 - truth) + others * truth / (1 + truth)
        return (area - truth) ** 2 <= Z**2 * truth * (1 - truth) * spread / (n_positive * n_negative)

    def end(inside: float, outside: float) -> float:
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        return inside

    return end(area, 0.0), end(area, 1.0)


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
