"""Means, variances and level counts of all hospitals, from two sums.

    pass 1   every hospital: counts and sums           sum -> global means
    pass 2   every hospital: squares about that mean   sum -> global variances

Both vectors are additive and are made from training rows only. A sum of raw squares is
never formed: in floating point, E[x^2] - E[x]^2 loses every digit of a variance that is
small beside its mean.

A count built from fewer patients than the hospital's `min_cell` is withheld as 0, and
what goes with it too. That is not complementary suppression: with one hospital's vector
in hand, a small missing count follows from the patients minus the values. Only masking
hides one hospital's vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError
from fedhealth.core.preprocessor import Column, Columns, Moments, transformed
from fedhealth.core.span import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedhealth.core.features import Feature, FeatureSpec

CHUNK_ROWS = 65_536
#: The largest magnitude that is summed under masks of a feature without a plausible range.
UNRANGED = 16_384.0


@dataclass(frozen=True, slots=True)
class MomentLayout:
    """What stands where in the two vectors of a feature spec.

    Pass 1: for each numeric or binary feature the values counted, then their sums; for
    each declared level the patients who have it; for each feature the patients who have
    none; the patients without and with the event. Pass 2: for each numeric or binary
    feature the sum of squares. A patient's series counts as one value, its mean.
    """

    spec: FeatureSpec

    @property
    def numeric(self) -> tuple[Feature, ...]:
        """The features that have a mean."""
        return tuple(feature for feature in self.spec.features if feature.kind != "categorical")

    @property
    def levels(self) -> tuple[tuple[str, str], ...]:
        """Each categorical feature with each of its declared levels."""
        return tuple((f.name, level) for f in self.spec.features if f.kind == "categorical" for level in f.levels)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers of pass 1."""
        return (
            *(f"{feature.name}.count" for feature in self.numeric),
            *(f"{feature.name}.sum" for feature in self.numeric),
            *(f"{name}={level}" for name, level in self.levels),
            *(f"{name}.missing" for name in self.spec.names),
            "outcome=0",
            "outcome=1",
        )

    def first_spans(self) -> tuple[Span, ...]:
        """What stands in the vector of pass 1; each sum within its feature's plausible range."""
        rest = len(self.levels) + len(self.spec.names) + 2
        return (
            Span("values", len(self.numeric), is_whole=True),
            *(Span(f"{feature.name} sum", 1, largest(feature)) for feature in self.numeric),
            Span("levels, missing and outcomes", rest, is_whole=True),
        )

    def second_spans(self) -> tuple[Span, ...]:
        """What stands in the vector of pass 2: a value and a mean lie at most twice the largest value apart."""
        return tuple(Span(f"{feature.name} squares", 1, (2 * largest(feature)) ** 2) for feature in self.numeric)

    def sections(self, total: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """A vector of pass 1 as (counts, sums, level counts, missing counts, outcome counts).

        Raises:
            DataError: it has another length.
        """
        self.check(total, len(self.names))
        ends = np.cumsum([len(self.numeric), len(self.numeric), len(self.levels), len(self.spec.names)])
        return tuple(np.split(total, ends))

    def check(self, vector: NDArray[np.float64], width: int) -> None:
        """Refuse a vector that another feature spec made."""
        if vector.shape != (width,):
            raise DataError(
                f"the moments of {self.spec.name} must be {width} numbers, found shape {list(vector.shape)}. "
                "Give every hospital the same feature spec."
            )


@dataclass(frozen=True, slots=True)
class Spread:
    """How many numbers there are, their mean, and the sum of squares about their own mean."""

    n: int
    mean: float
    m2: float

    @staticmethod
    def of(values: NDArray[np.float64]) -> Spread:
        """The spread of some finite numbers, by two passes over them."""
        if not len(values):
            return Spread(0, 0.0, 0.0)
        # As `mean` and `sum` work them out, whose own beginnings take longer than two hundred numbers.
        mean = float(np.add.reduce(values)) / len(values)
        return Spread(len(values), mean, float(np.add.reduce(np.square(values - mean))))

    def merged(self, other: Spread) -> Spread:
        """The spread of both sets of numbers together.

        The pairwise update of Chan, Golub and LeVeque (1983), doi:10.1080/00031305.1983.10483115.
        """
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        return Spread(n, mean, self.m2 + other.m2 + gap * gap * self.n * other.n / n)


def first_pass(layout: MomentLayout, columns: Columns, y: NDArray[np.float32], *, min_cell: int) -> NDArray[np.float64]:
    """One hospital's counts and sums, [len(layout.names)].

    Args:
        layout: of the study's feature spec.
        columns: the harmonised training columns, each [n].
        y: [n], 0 or 1.
        min_cell: counts below this are withheld as 0, sums with them.
    """
    values = _values(layout.numeric, {feature.name: columns[feature.name] for feature in layout.numeric}, len(y))
    is_missing = np.isnan(values)
    counts = (~is_missing).sum(axis=1).astype(np.float64)
    sums = np.where(is_missing, 0.0, values).sum(axis=1)
    words = {feature.name: columns[feature.name] for feature in layout.spec.features if feature.kind == "categorical"}
    levels = np.array([np.count_nonzero(words[name] == level) for name, level in layout.levels], dtype=np.float64)
    without = iter(is_missing.sum(axis=1))
    missing = np.array(
        [
            sum(value is None for value in words[feature.name]) if feature.kind == "categorical" else next(without)
            for feature in layout.spec.features
        ],
        dtype=np.float64,
    )
    outcome = np.array([np.count_nonzero(y == 0), np.count_nonzero(y == 1)], dtype=np.float64)
    cells = [np.where(cell < min_cell, 0.0, cell) for cell in (levels, missing, outcome)]
    is_shown = counts >= min_cell
    return np.concatenate([counts * is_shown, np.where(is_shown, sums, 0.0), *cells])


def second_pass(
    layout: MomentLayout, columns: Columns, means: NDArray[np.float64], *, min_cell: int
) -> NDArray[np.float64]:
    """One hospital's sums of squares about the global means, [numeric features].

    The deviations from the global mean are merged chunk by chunk into n, mean and M2;
    the sum is then M2 + n (site mean - global mean)^2. Working on deviations keeps the
    site mean's low digits, which a mean of 1e8 stored as such has no room for.
    """
    layout.check(means, len(layout.numeric))
    numeric = layout.numeric
    whole = {feature.name: columns[feature.name] for feature in numeric}
    spreads, n = [Spread(0, 0.0, 0.0)] * len(numeric), len(next(iter(whole.values()), ()))
    for start in range(0, n, CHUNK_ROWS):
        some = {name: column[start : start + CHUNK_ROWS] for name, column in whole.items()}
        values = _values(numeric, some, min(CHUNK_ROWS, n - start))
        for i, (row, is_there) in enumerate(zip(values, ~np.isnan(values), strict=True)):
            spreads[i] = spreads[i].merged(Spread.of(row[is_there] - means[i]))
    return np.array([each.m2 + each.n * each.mean**2 if each.n >= min_cell else 0.0 for each in spreads])


def largest(feature: Feature) -> float:
    """The largest magnitude of a feature's plausible values, on the scale where means are taken."""
    if feature.kind == "binary":
        return 1.0
    if feature.range is None:
        return UNRANGED
    ends = transformed(np.array(feature.range), feature.transform)
    # Above 0 also where the range is: a mean of nobody is 0.
    return max(float(np.abs(ends).max()), 2.0**-10)


def global_means(layout: MomentLayout, first: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each numeric feature over all hospitals, [numeric features]; 0 where nobody has a value."""
    counts, sums, *_ = layout.sections(first)
    return sums / np.maximum(counts, 1.0)


def global_moments(layout: MomentLayout, first: NDArray[np.float64], second: NDArray[np.float64]) -> Moments:
    """The moments of all hospitals together, from the totals of both passes.

    Raises:
        DataError: a total has another length than the layout's.
    """
    layout.check(second, len(layout.numeric))
    counts, _, levels, missing, outcome = layout.sections(first)
    means = global_means(layout, first)
    variances = second / np.maximum(counts, 1.0)
    names = [feature.name for feature in layout.numeric]
    by_level: dict[str, dict[str, float]] = {f.name: {} for f in layout.spec.features if f.kind == "categorical"}
    for (name, level), count in zip(layout.levels, levels.tolist(), strict=True):
        by_level[name][level] = count
    return Moments(
        count=dict(zip(names, counts.tolist(), strict=True)),
        mean=dict(zip(names, means.tolist(), strict=True)),
        variance=dict(zip(names, variances.tolist(), strict=True)),
        levels=by_level,
        missing=dict(zip(layout.spec.names, missing.tolist(), strict=True)),
        outcome=(float(outcome[0]), float(outcome[1])),
    )


def _values(features: Sequence[Feature], columns: Columns, n: int) -> NDArray[np.float64]:
    """[features, n] one number a patient, after the transform; NaN where there is none."""
    values = np.empty((len(features), n))
    for row, feature in zip(values, features, strict=True):
        row[:] = columns[feature.name] if feature.kind != "series" else _by_patient(feature, columns[feature.name])
    logs = [place for place, feature in enumerate(features) if feature.transform == "log" and feature.kind != "series"]
    values[logs] = transformed(values[logs], "log")
    return transformed(values, "none")


def _by_patient(feature: Feature, column: Column) -> NDArray[np.float64]:
    """[n] the mean of each patient's numbers of a series, after the transform, so that nobody counts for more."""
    values = transformed(column, feature.transform)
    seen = ~np.isnan(values)
    sums = np.where(seen, values, 0.0).sum(axis=1)
    means: NDArray[np.float64] = np.divide(
        sums, seen.sum(axis=1), out=np.full(len(values), np.nan), where=seen.any(axis=1)
    )
    return means
