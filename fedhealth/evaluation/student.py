"""Student's t for a handful of runs: the interval of their mean, the test of it, and Holm's correction.

The distribution stands here because scipy, which has it, is not needed at run time otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
    half = critical(n - 1) * _standard_error(values)
    return Measure(value, max(value - half, least), min(value + half, most), method=METHOD)


def p_of_mean(values: Sequence[float]) -> float:
    """The two-sided p value of the t test that the mean is 0; NaN with one value or without spread.

    Of the differences of pairs it is the paired t test.
    """
    if len(values) < 2 or min(values) == max(values):
        return math.nan
    return two_sided(math.fsum(values) / len(values) / _standard_error(values), len(values) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being so many (Holm 1979, jstor.org/stable/4615733); NaN is left out and stays NaN."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = highest
    return adjusted


def two_sided(t: float, df: int) -> float:
    """The chance that a t variable of `df` whole degrees of freedom lies at |t| or beyond, to about 1e-15.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(t), math.sqrt(df))
    sine, cosine_sq = math.sin(angle), math.cos(angle) ** 2
    first = math.cos(angle) if df % 2 else 1.0
    terms = [first] if df > 1 else []
    for k in range(3 if df % 2 else 2, df - 1, 2):
        terms.append(terms[-1] * cosine_sq * (k - 1) / k)
    within = sine * math.fsum(terms)
    if df % 2:
        within = (angle + within) * 2 / math.pi
    return max(1 - within, 0.0)


def critical(df: int) -> float:
    """The 97.5th percentile of the t distribution, by halving where `two_sided` is 0.05."""
    # One degree of freedom has the widest tail, 12.7; with more the percentile falls to 1.96.
    low, high = 1.0, 13.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if two_sided(middle, df) > 0.05 else (low, middle)
    return middle


def _standard_error(values: Sequence[float]) -> float:
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
