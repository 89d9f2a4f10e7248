"""Curves: arrays for a plot, from the score sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.evaluation.intervals import cells, wilson
from fedhealth.evaluation.measures import net_benefit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedhealth.evaluation.scores import ScoreSums

#: A drawn curve has at most this many points.
POINTS = 200

THRESHOLDS = tuple(k / 100 for k in range(1, 61))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A line: `x` and `y` are [points]; empty where the sums have one class only."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """What was predicted and what was observed, by bin of probability that holds anybody.

    Attributes:
        predicted: [bins] the mean predicted probability.
        observed: [bins] the share that had the outcome.
        low: [bins] the lower end of its 95 % Wilson interval.
        high: [bins] the upper end.
        patients: [bins] how many patients there are.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    patients: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A decision curve: net benefit by threshold, in true positives per patient.

    Attributes:
        threshold: [t] the risk at which one treats.
        model: [t] treating those at or above it.
        treat_all: [t] treating everybody.
        treat_none: [t] treating nobody, which is 0.
    """

    threshold: NDArray[np.float64]
    model: NDArray[np.float64]
    treat_all: NDArray[np.float64]
    treat_none: NDArray[np.float64]


def roc(sums: ScoreSums) -> Curve:
    """False positive rate (x) and sensitivity (y), from (0, 0) to (1, 1)."""
    true, false = _descending(sums)
    if not true[-1] or not false[-1]:
        return _nothing()
    return _thinned(false / false[-1], true / true[-1])


def precision_recall(sums: ScoreSums) -> Curve:
    """Recall (x) and precision (y) by threshold, from the highest score down."""
    true, false = _descending(sums)
    if not true[-1] or not false[-1]:
        return _nothing()
    return _thinned(true[1:] / true[-1], true[1:] / (true[1:] + false[1:]))


def reliability(sums: ScoreSums, bins: int = 10, least: int = 1) -> Reliability:
    """Predicted and observed by equal-width bins, the same bins that `measures.ece` sums over.

    A bin of fewer than `least` patients is merged with the next higher, the highest with
    the one below.
    """
    found = cells(sums)
    n = found.positives + found.negatives
    of_bin = found.index * bins // found.bins
    of_bin = _merged(np.bincount(of_bin, n, minlength=bins).astype(np.int64), least)[of_bin]
    patients = np.bincount(of_bin, n, minlength=bins)
    held = patients > 0
    predicted = np.bincount(of_bin, n * found.probability, minlength=bins)[held] / patients[held]
    positives = np.bincount(of_bin, found.positives, minlength=bins)[held]
    observed = [wilson(int(k), int(n)) for k, n in zip(positives, patients[held], strict=True)]
    return Reliability(
        predicted=predicted,
        observed=np.array([m.value for m in observed]),
        low=np.array([m.low for m in observed]),
        high=np.array([m.high for m in observed]),
        patients=patients[held].astype(np.int64),
    )


def _merged(patients: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """[bins] the merged bin that each belongs to."""
    target, inside = np.zeros(len(patients), dtype=np.int64), 0
    for place, count in enumerate(patients):
        target[place] = target[place - 1] if 0 < inside < least else place
        inside = inside + count if target[place] != place else count
    if 0 < inside < least and (below := np.flatnonzero(patients[: target[-1]])).size:
        # Into the nearest bin below that holds anybody; an empty one between would not make it larger.
        target[target == target[-1]] = target[below[-1]]
    return target


def decision(sums: ScoreSums, thresholds: Sequence[float] = THRESHOLDS) -> Decision:
    """The decision curve (Vickers 2006, doi:10.1177/0272989X06295361); NaN where there is nobody."""
    threshold = np.array(thresholds, dtype=np.float64)
    share = sums.n_positive / sums.n if sums.n else np.nan
    return Decision(
        threshold=threshold,
        model=np.array([net_benefit(sums, t).value for t in thresholds]),
        treat_all=share - (1 - share) * threshold / (1 - threshold),
        treat_none=np.zeros_like(threshold),
    )


def _descending(sums: ScoreSums) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[cells + 1] true and false positives as the threshold falls past each occupied cell."""
    occupied = (sums.positives + sums.negatives) > 0
    true, false = (np.cumsum(np.append(0, counts[occupied][::-1])) for counts in (sums.positives, sums.negatives))
    return true, false


def _nothing() -> Curve:
    return Curve(np.empty(0), np.empty(0))


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """At most POINTS of the points, both ends among them, spread evenly along the line."""
    if len(x) <= POINTS:
        return Curve(x, y)
    along = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    keep = np.searchsorted(along, np.linspace(0.0, along[-1], POINTS))
    keep = keep[np.diff(keep, prepend=-1) > 0]
    keep[-1] = len(x) - 1
    return Curve(x[keep], y[keep])
