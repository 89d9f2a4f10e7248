"""How different the hospitals are, from sums that each of them can send.

The share of variance that lies between hospitals is the intraclass correlation of a
random-effects model, estimated by one-way analysis of variance for groups of unequal
size (Donner 1986, doi:10.2307/1403259, section 2):

    icc = (MSB - MSW) / (MSB + (n0 - 1) MSW),   n0 = (N - sum n_i^2 / N) / (k - 1)

A yes or no (missing or not, event or not) goes through the same formula as 0 and 1, on
the linear scale and not the latent one (Ridout, Demétrio and Firth 1999,
doi:10.1111/j.0006-341X.1999.00137.x). An estimate below 0 is shown as 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Hospitals of which every two are compared: of more no heat map can be read, and ten thousand have 50 million pairs.
MOST_PAIRED = 60


@dataclass(frozen=True, slots=True)
class SiteSums:
    """What one hospital sends of its patients; every number is a sum or follows from sums.

    Attributes:
        patients: how many there are.
        events: how many of them have the outcome.
        count: by numeric feature, how many values there are.
        mean: by numeric feature, their mean.
        m2: by numeric feature, the sum of squares about that mean.
        missing: by feature of any kind, how many patients have no value.
    """

    patients: float
    events: float
    count: Mapping[str, float]
    mean: Mapping[str, float]
    m2: Mapping[str, float]
    missing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """How different the hospitals are. A figure that can't be estimated is NaN.

    Attributes:
        sites: the hospitals' names, in order.
        value: by feature, the intraclass correlation of its values.
        missingness: by feature, that of its being missing.
        outcome: that of the outcome.
        label_shift: by hospital, the total variation between its outcome and the union's.
        distance: [sites, sites] root mean square, over the features that both have, of
            the difference of means in within-hospital standard deviations; of more than
            `MOST_PAIRED` hospitals None, since nobody can read so many pairs.
    """

    sites: tuple[str, ...]
    value: dict[str, float]
    missingness: dict[str, float]
    outcome: float
    label_shift: dict[str, float]
    distance: NDArray[np.float64] | None

    @property
    def median_value(self) -> float:
        """The median over features of the intraclass correlation of values."""
        return _median(self.value)

    @property
    def median_missingness(self) -> float:
        """The median over features of the intraclass correlation of being missing."""
        return _median(self.missingness)

    def rows(self) -> list[tuple[str, str]]:
        """What to print: a name and a figure a line."""
        distance = np.zeros((0, 0)) if self.distance is None else self.distance
        pairs = distance[np.triu_indices(len(distance), 1)]
        widest = max(self.value, key=lambda name: _or_zero(self.value[name]), default="")
        gap = max(self.label_shift, key=lambda name: _or_zero(self.label_shift[name]), default="")
        rows = [
            ("hospitals", str(len(self.sites))),
            ("between-hospital share of variance, values (median)", _figure(self.median_value)),
            ("between-hospital share of variance, missingness (median)", _figure(self.median_missingness)),
            ("between-hospital share of variance, outcome", _figure(self.outcome)),
        ]
        if widest:
            rows.append(("feature that differs most", f"{widest} {_figure(self.value[widest])}"))
        if gap:
            rows.append(("hospital whose outcome differs most", f"{gap} {_figure(self.label_shift[gap])}"))
        if len(pairs):
            rows.append(("distance of two hospitals, sd (mean)", _figure(float(np.mean(pairs)))))
            rows.append(("distance of two hospitals, sd (largest)", _figure(float(np.max(pairs)))))
        return rows


def sums_of(columns: Mapping[str, NDArray[np.float64] | NDArray[np.object_]], outcome: NDArray[np.float64]) -> SiteSums:
    """The sums of one hospital's patients; those whose outcome is unknown are left out.

    Args:
        columns: by feature, [n] float with NaN for missing, or [n] object with None.
        outcome: [n] 1 positive, 0 negative, NaN unknown.
    """
    known = ~np.isnan(outcome)
    count, mean, m2, missing = {}, {}, {}, {}
    for name, column in columns.items():
        values = column[known]
        if values.dtype == object:
            missing[name] = float(sum(value is None for value in values))
            continue
        present = values[np.isfinite(values)]
        count[name] = float(len(present))
        missing[name] = float(len(values) - len(present))
        mean[name] = float(present.mean()) if len(present) else 0.0
        m2[name] = float(np.square(present - mean[name]).sum())
    return SiteSums(
        patients=float(known.sum()), events=float(outcome[known].sum()), count=count, mean=mean, m2=m2, missing=missing
    )


def heterogeneity(sites: Mapping[str, SiteSums]) -> Heterogeneity:
    """How different the hospitals are.

    Raises:
        DataError: two hospitals sent other features.
    """
    names = tuple(sites)
    sums = list(sites.values())
    if not sums:
        raise DataError("heterogeneity needs at least one hospital, found none. Name some.")
    numeric, every = list(sums[0].count), list(sums[0].missing)
    for name, one in sites.items():
        if set(one.count) != set(numeric) or set(one.missing) != set(every):
            raise DataError(
                f"hospitals must send the same features, found others at {name}. Give every hospital the same feature spec."
            )
    patients = np.array([one.patients for one in sums])
    events = np.array([one.events for one in sums])
    count = np.array([[one.count[f] for f in numeric] for one in sums]).reshape(len(sums), -1)
    mean = np.array([[one.mean[f] for f in numeric] for one in sums]).reshape(len(sums), -1)
    m2 = np.array([[one.m2[f] for f in numeric] for one in sums]).reshape(len(sums), -1)
    missing = np.array([[one.missing[f] for f in every] for one in sums]).reshape(len(sums), -1)
    rate = events.sum() / patients.sum() if patients.sum() else math.nan
    return Heterogeneity(
        sites=names,
        value={f: intraclass(count[:, j], mean[:, j], m2[:, j]) for j, f in enumerate(numeric)},
        missingness={f: intraclass_of_shares(patients, missing[:, j]) for j, f in enumerate(every)},
        outcome=intraclass_of_shares(patients, events),
        label_shift={
            name: abs(one.events / one.patients - rate) if one.patients else math.nan for name, one in sites.items()
        },
        distance=_distances(count, mean, m2) if len(sites) <= MOST_PAIRED else None,
    )


def intraclass(count: NDArray[np.float64], mean: NDArray[np.float64], m2: NDArray[np.float64]) -> float:
    """The share of variance between groups, from [groups] counts, means and squares about the mean.

    Groups without values are left out. NaN where fewer than two are left, where no group
    has two values, or where nothing varies.
    """
    filled = count > 0
    n, mean, m2 = count[filled], mean[filled], m2[filled]
    k, total = len(n), float(n.sum())
    if k < 2 or total <= k:
        return math.nan
    grand = float((n * mean).sum() / total)
    between = float((n * np.square(mean - grand)).sum() / (k - 1))
    within = float(m2.sum() / (total - k))
    size = (total - float(np.square(n).sum()) / total) / (k - 1)
    whole = between + (size - 1) * within
    return max(0.0, (between - within) / whole) if whole > 0 else math.nan


def intraclass_of_shares(count: NDArray[np.float64], hits: NDArray[np.float64]) -> float:
    """The same for a yes or no, from [groups] counts and how many of them are yes."""
    share = hits / np.maximum(count, 1)
    return intraclass(count, share, hits * (1 - share))


def _distances(count: NDArray[np.float64], mean: NDArray[np.float64], m2: NDArray[np.float64]) -> NDArray[np.float64]:
    """[sites, sites] the distance of every two hospitals; NaN where they share no feature."""
    freedom = np.maximum(count - 1, 0).sum(axis=0)
    variance = m2.sum(axis=0) / np.maximum(freedom, 1)
    usable = (count > 0) & (variance > 0)
    scaled = np.where(usable, mean / np.sqrt(np.where(variance > 0, variance, 1)), 0)
    both = usable[:, None, :] & usable[None, :, :]
    squares = np.where(both, np.square(scaled[:, None, :] - scaled[None, :, :]), 0).sum(axis=2)
    shared = both.sum(axis=2)
    return np.where(shared > 0, np.sqrt(squares / np.maximum(shared, 1)), math.nan)


def _median(figures: Mapping[str, float]) -> float:
    known = [figure for figure in figures.values() if not math.isnan(figure)]
    return median(known) if known else math.nan


def _or_zero(figure: float) -> float:
    return 0.0 if math.isnan(figure) else figure


def _figure(figure: float) -> str:
    return "not estimable" if math.isnan(figure) else f"{figure:.3f}"
