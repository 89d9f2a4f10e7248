"""95 % confidence intervals: Wilson's, the normal one of a mean, and the bootstrap of the cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True, eq=False)
class Cells:
    """The occupied cells of score sums, once or for many bootstrap replicates.

    Attributes:
        positives: [cells, ...] patients with the outcome.
        negatives: [cells, ...] patients without.
        probability: [cells] the cell's typical probability: that of its mean logit.
        index: [cells] which of the `bins` it is, ascending.
        bins: how many cells there are with the empty ones.
    """

    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]
    probability: NDArray[np.float64]
    index: NDArray[np.int64]
    bins: int

    @cached_property
    def true(self) -> NDArray[np.float64]:
        """[cells + 1, ...] patients with the outcome in so many of the highest cells."""
        return _from_above(self.positives)

    @cached_property
    def false(self) -> NDArray[np.float64]:
        """[cells + 1, ...] patients without the outcome in so many of the highest cells."""
        return _from_above(self.negatives)


def _from_above(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.zeros((len(counts) + 1, *counts.shape[1:]))
    if counts.ndim == 1:
        np.cumsum(counts[::-1], out=found[1:])
        return found
    # A thousand replicates at a time: `cumsum` would take each replicate's few cells by themselves.
    for place, row in enumerate(counts[::-1]):
        np.add(found[place], row, out=found[place + 1])
    return found


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
    """The cells of bootstrap samples; positives and negatives are [cells, replicates].

    A sample of n patients drawn with replacement is a multinomial draw of their cells, so
    this is the bootstrap of patients (Efron 1979, doi:10.1214/aos/1176344552) up to the
    width of a cell, and needs no patient.
    """
    once = cells(sums)
    counts = np.concatenate([once.positives, once.negatives])
    rng = rng_of(seed, purpose="bootstrap")
    drawn = rng.multinomial(sums.n, counts / max(sums.n, 1), size=replicates) if sums.n else np.zeros((replicates, 0))
    positives, negatives = np.split(drawn.T.astype(np.float64, order="C"), 2)
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
    replicates = draws.positives.shape[-1]
    if len(found) < 0.9 * replicates:
        return Measure(value, note="no interval: too few patients to resample")
    low, high = percentiles(found, 0.025, 0.975)
    if low == high:
        return Measure(value, note="no interval: every resample gives the same value")
    return Measure(value, low, high, method=f"bootstrap of score cells, percentile, {replicates} replicates")


def percentiles(found: NDArray[np.float64], *shares: float) -> list[float]:
    """Those of `np.percentile`, to the bit and in a tenth of its time for a thousand numbers; one or more, none of them NaN."""
    ordered, most = np.sort(found), len(found) - 1
    ends = []
    for share in shares:
        below = math.floor(most * share)
        low, high, part = float(ordered[below]), float(ordered[min(below + 1, most)]), most * share - below
        ends.append(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))
    return ends


def total(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] the sum over cells of terms, [cells, ...]: each replicate's is rounded as if it stood by itself."""
    return np.asarray(np.ascontiguousarray(terms.T).sum(axis=-1))


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
