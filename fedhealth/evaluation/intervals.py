"""95 % confidence intervals: Wilson's, the normal one of a mean, and the bootstrap of the cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.measure import Measure, not_estimable
from fedhealth.core.seeds import rng_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedhealth.evaluation.scores import ScoreSums

#: The 97.5th percentile of the standard normal distribution.
Z = 1.959963984540054

REPLICATES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The occupied cells of score sums, once or for many bootstrap replicates.

    Attributes:
        positives: [..., cells] patients with the outcome.
        negatives: [..., cells] patients without.
        probability: [cells] the cell's typical probability: that of its mean logit.
        index: [cells] which of the `bins` it is, ascending.
        bins: how many cells there are with the empty ones.
    """

    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]
    probability: NDArray[np.float64]
    index: NDArray[np.int64]
    bins: int


def cells(sums: ScoreSums) -> Cells:
    """The occupied cells of the sums; positives and negatives are [cells]."""
    patients = sums.positives + sums.negatives
    index = np.flatnonzero(patients)
    probability = 1 / (1 + np.exp(-sums.logits[index] / patients[index]))
    return Cells(
        sums.positives[index].astype(np.float64),
        sums.negatives[index].astype(np.float64),
        probability,
        index,
        sums.bins,
    )


def resample(sums: ScoreSums, *, seed: int, replicates: int = REPLICATES) -> Cells:
    """The cells of bootstrap samples; positives and negatives are [replicates, cells].

    A sample of n patients drawn with replacement is a multinomial draw of their cells, so
    this is the bootstrap of patients (Efron 1979, doi:10.1214/aos/1176344552) up to the
    width of a cell, and needs no patient.
    """
    once = cells(sums)
    counts = np.concatenate([once.positives, once.negatives])
    rng = rng_of(seed, purpose="bootstrap")
    drawn = rng.multinomial(sums.n, counts / max(sums.n, 1), size=replicates) if sums.n else np.zeros((replicates, 0))
    positives, negatives = np.split(drawn.astype(np.float64), 2, axis=1)
    return Cells(positives, negatives, once.probability, once.index, once.bins)


def bootstrapped(statistic: Callable[[Cells], NDArray[np.float64]], sums: ScoreSums, draws: Cells | None) -> Measure:
    """The statistic of the sums with the 2.5th and 97.5th percentile of the draws.

    Without draws there is no interval. Replicates without a value (one class only) are
    left out; the interval is left out where those are more than a tenth, and where all
    replicates agree, since a sample that small says nothing of its own spread.
    """
    value = float(statistic(cells(sums)))
    if draws is None:
        return Measure(value)
    found = statistic(draws)
    found = found[~np.isnan(found)]
    if len(found) < 0.9 * len(draws.positives):
        return Measure(value, note="no interval: too few patients to resample")
    low, high = np.percentile(found, [2.5, 97.5]).tolist()
    if low == high:
        return Measure(value, note="no interval: every resample gives the same value")
    return Measure(value, low, high, method=f"bootstrap of score cells, percentile, {len(draws.positives)} replicates")


def mean(total: float, total_sq: float, n: int, *, least: float = -math.inf, most: float = math.inf) -> Measure:
    """The mean of n patients' terms with its normal interval, from their sum and sum of squares.

    The interval is cut to [least, most], where the term can lie.
    """
    if n == 0:
        return not_estimable("no patients")
    value = total / n
    variance = max(total_sq / n - value**2, 0.0) / (n - 1) if n > 1 else 0.0
    if variance == 0:
        return Measure(value, note="no interval: all patients are alike")
    half = Z * math.sqrt(variance)
    return Measure(value, max(value - half, least), min(value + half, most), method="normal, from the sum of squares")


def wilson(count: int, n: int) -> Measure:
    """The proportion count / n with Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953)."""
    if n == 0:
        return not_estimable("no patients")
    p = count / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Measure(p, min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p), method="Wilson score")
