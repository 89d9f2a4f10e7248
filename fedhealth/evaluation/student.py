"""Student's t for a handful of runs: the interval of their mean, the test of it, and Holm's correction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.special import stdtr, stdtrit

from fedhealth.core.measure import Measure, not_estimable

if TYPE_CHECKING:
    from collections.abc import Sequence

METHOD = "Student t over runs"
ALIKE = "no interval: every run gives the same value"


def mean_of_runs(values: Sequence[float], *, least: float = -math.inf, most: float = math.inf) -> Measure:
    """The mean of independent runs with its 95 % interval by Student's t.

    The interval is cut to [least, most], where a run's value can lie. One run has no
    interval, nor have runs that all agree: they say nothing of their own spread.
    """
    n = len(values)
    if n == 0:
        return not_estimable("no runs")
    value = math.fsum(values) / n
    if n == 1:
        return Measure(value, note="no interval: one run")
    if min(values) == max(values):
        return Measure(value, note=ALIKE)
    half = float(stdtrit(n - 1, 0.975)) * _standard_error(values)
    return Measure(value, max(value - half, least), min(value + half, most), method=METHOD)


def p_of_mean(values: Sequence[float]) -> float:
    """The two-sided p value of the t test that the mean is 0; NaN with one value or without spread.

    Of the differences of pairs it is the paired t test.
    """
    if len(values) < 2 or min(values) == max(values):
        return math.nan
    return float(2 * stdtr(len(values) - 1, -abs(math.fsum(values) / len(values) / _standard_error(values))))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being so many (Holm 1979, jstor.org/stable/4615733); NaN is left out and stays NaN."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = highest
    return adjusted


def _standard_error(values: Sequence[float]) -> float:
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
