"""The fitted preprocessor: how a patient's values become a model's input row.

It is fitted once, from sums over every hospital's training rows, and is part of the
model: whoever uses the weights uses the same means, deviations and levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.settings import read, settings
from fedhealth.core.study import digest

if TYPE_CHECKING:
    from fedhealth.core.features import Feature, FeatureSpec

Column: TypeAlias = NDArray[np.float64] | NDArray[np.object_]
#: [n], or [n, steps] of a series.
Columns: TypeAlias = Mapping[str, Column]
Transform: TypeAlias = Literal["none", "log"]

# Summing a constant leaves a deviation of a few units in the last place of its mean.
ROUNDING = 1e-13


def transformed(values: Column, transform: Transform) -> NDArray[np.float64]:
    """The values on the scale where means are taken, [n]; NaN where missing, infinite or without a logarithm."""
    numbers = np.asarray(values, dtype=np.float64)
    if transform == "log":
        numbers = np.log(numbers, where=numbers > 0, out=np.full_like(numbers, np.nan))
    return np.where(np.isfinite(numbers), numbers, np.nan)


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of the training rows of all hospitals together.

    Attributes:
        count: patients with a value, by numeric or binary feature.
        mean: after the feature's transform; 0 where nobody has a value.
        variance: of the population (divided by n), after the transform.
        levels: patients by categorical feature and level; 0 where every hospital withheld it.
        missing: patients without a value, by feature.
        outcome: patients without and with the event.
    """

    count: dict[str, float]
    mean: dict[str, float]
    variance: dict[str, float]
    levels: dict[str, dict[str, float]]
    missing: dict[str, float]
    outcome: tuple[float, float]


@settings
class Scaled:
    """A numeric or binary feature, as (value - mean) / sd; a missing value becomes the mean, so 0."""

    name: str
    mean: float
    sd: float
    transform: Transform = "none"

    def __post_init__(self) -> None:
        if not self.sd > 0:
            raise SettingError(f"{self.name}: sd must be above 0, found {self.sd}. Use 1 for a constant feature.")

    def outputs(self, *, drop_first: bool) -> tuple[str, ...]:  # noqa: ARG002 (one shape with OneHot)
        """The names of the columns it makes."""
        return (self.name,)

    def unscaled(self, scaled: float) -> float:
        """The value that becomes `scaled` in the matrix."""
        value = self.mean + self.sd * scaled
        return math.exp(value) if self.transform == "log" else value


@settings
class OneHot:
    """A categorical feature, as one 0/1 column a level; an unknown level is a row of zeros."""

    name: str
    levels: tuple[str, ...]

    def outputs(self, *, drop_first: bool) -> tuple[str, ...]:
        """The names of the columns it makes."""
        return tuple(f"{self.name}={level}" for level in self.levels[int(drop_first) :])

    def encode(self, column: Column, *, drop_first: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Its columns, [n, levels], and who has no value, [n]."""
        levels = np.array(self.levels[int(drop_first) :], dtype=object)
        missing = np.fromiter((value is None for value in column), dtype=np.bool_, count=len(column))
        return (column[:, None] == levels[None, :]).astype(np.float64), missing


@settings
class Series:
    """A feature with one value a step, as three columns a step.

    They are the last value so far, as (value - mean) / sd and 0 before the first; whether this
    step has one; and the time since the last, in windows, from the window's beginning where
    there is none. Together they are what Che et al. (2018, doi:10.1038/s41598-018-24271-9) give
    a recurrent network of an irregular series.
    """

    name: str
    mean: float
    sd: float
    steps: int
    transform: Transform = "none"

    def __post_init__(self) -> None:
        if not self.sd > 0 or self.steps < 1:
            raise SettingError(
                f"{self.name}: sd and steps must be above 0, found {self.sd} and {self.steps}. Use 1 for a constant."
            )

    def outputs(self, step: int) -> tuple[str, ...]:
        """The names of the columns of one step."""
        return (f"{self.name}@{step}", f"{self.name}@{step}_seen", f"{self.name}@{step}_since")

    def encode(self, column: Column) -> NDArray[np.float32]:
        """Its columns, [n, steps, 3].

        Raises:
            DataError: the column has another number of steps.
        """
        if column.shape[1:] != (self.steps,):
            raise DataError(
                f"{self.name} must be a series of {self.steps} steps, found shape {list(column.shape[1:])}. "
                "Read it from a source of dated records."
            )
        values = (transformed(column, self.transform) - self.mean) / self.sd
        seen = ~np.isnan(values)
        step = np.arange(self.steps)
        last = np.maximum.accumulate(np.where(seen, step, -1), axis=1)
        carried = np.take_along_axis(values, np.maximum(last, 0), axis=1)
        found = np.empty((*values.shape, 3), dtype=np.float32)
        found[..., 0] = np.where(last >= 0, carried, 0.0)
        found[..., 1] = seen
        found[..., 2] = np.where(last >= 0, step - last, step) / self.steps
        return found

    def unscaled(self, scaled: float) -> float:
        """The value that becomes `scaled` in the matrix."""
        value = self.mean + self.sd * scaled
        return math.exp(value) if self.transform == "log" else value


@settings
class Preprocessor:
    """A table of features as a matrix a model reads, the same at every hospital.

    Columns come in the order of the spec's features; after them, where `indicators` is
    set, one 0/1 column a feature says whether its value was missing. The series come last, step
    after step and within a step in the order of the spec, so that a model of time reshapes the
    end of a row to [steps, channels].
    """

    spec: str
    features: tuple[Scaled | OneHot | Series, ...]
    indicators: bool
    drop_first: bool

    @classmethod
    def from_moments(cls, spec: FeatureSpec, moments: Moments) -> Preprocessor:
        """The preprocessor that standardises to mean 0 and variance 1 over all hospitals' training rows.

        A feature without spread gets sd 1. A level that no hospital could report (nobody
        has it, or too few to name) gets no column. A series is scaled by the means of patients.
        """
        fitted: list[Scaled | OneHot | Series] = []
        for feature in spec.features:
            name = feature.name
            if feature.kind == "categorical":
                seen = tuple(level for level in feature.levels if moments.levels[name][level] > 0)
                fitted.append(OneHot(name=name, levels=seen))
                continue
            mean, sd = moments.mean[name], math.sqrt(moments.variance[name])
            has_spread = sd > abs(mean) * ROUNDING
            fitted.append(_fitted(feature, mean, sd if has_spread else 1.0))
        return cls(spec=spec.name, features=tuple(fitted), indicators=spec.indicators, drop_first=spec.drop_first)

    @classmethod
    def from_spec(cls, spec: FeatureSpec) -> Preprocessor:
        """The preprocessor that the spec alone gives, for where no patient may be asked for means.

        A numeric feature is centred at its middle bin edge and scaled by a quarter of the way from the
        first edge to the last, as if the edges spanned two deviations either way; without edges by
        the middle and a sixth of its range. A binary one has mean and sd 1/2. Every declared level gets a column.

        Raises:
            SettingError: a numeric feature has neither bins nor a range.
        """
        fitted: list[Scaled | OneHot | Series] = []
        for feature in spec.features:
            if feature.kind == "categorical":
                fitted.append(OneHot(name=feature.name, levels=feature.levels))
                continue
            mean, sd = (0.5, 0.5) if feature.kind == "binary" else _expected(feature)
            fitted.append(_fitted(feature, mean, sd))
        return cls(spec=spec.name, features=tuple(fitted), indicators=spec.indicators, drop_first=spec.drop_first)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the matrix's columns, in order."""
        values = [name for feature in self._single for name in feature.outputs(drop_first=self.drop_first)]
        absent = [f"{feature.name}_missing" for feature in self._single] if self.indicators else []
        steps = range(self._series[0].steps) if self._series else ()
        return (*values, *absent, *(name for step in steps for each in self._series for name in each.outputs(step)))

    @property
    def _single(self) -> tuple[Scaled | OneHot, ...]:
        return tuple(feature for feature in self.features if not isinstance(feature, Series))

    @property
    def _series(self) -> tuple[Series, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Series))

    @property
    def width(self) -> int:
        """How many columns the matrix has."""
        return len(self.names)

    @property
    def digest(self) -> str:
        """SHA-256 over its JSON form, in hex: two are equal exactly when their digests are."""
        return digest(self.to_json())

    def apply(self, columns: Columns) -> NDArray[np.float32]:
        """The matrix of these patients, [n, width], without NaN.

        Raises:
            DataError: a feature has no column.
        """
        for feature in self.features:
            if feature.name not in columns:
                raise DataError(
                    f"each feature of {self.spec} must have a column, found none for {feature.name}. "
                    f"{did_you_mean(feature.name, columns)}"
                )
        single, n = self._single, len(columns[self.features[0].name])
        widths = [len(feature.outputs(drop_first=self.drop_first)) for feature in single]
        ends = np.cumsum([0, *widths])
        rows = np.empty((n, ends[-1] + len(single) * self.indicators), dtype=np.float32)
        absent = rows[:, ends[-1] :]
        scaled = {place: each for place, each in enumerate(single) if isinstance(each, Scaled)}
        if scaled:
            places = list(scaled)
            values, missing = _standardised(list(scaled.values()), columns)
            rows[:, ends[places]] = values.T
            if self.indicators:
                absent[:, places] = missing.T
        for place, feature in enumerate(single):
            if isinstance(feature, OneHot):
                block, unknown = feature.encode(columns[feature.name], drop_first=self.drop_first)
                rows[:, ends[place] : ends[place + 1]] = block
                if self.indicators:
                    absent[:, place] = unknown
        if not self._series:
            return rows
        stepped = np.concatenate([each.encode(columns[each.name]) for each in self._series], axis=2)
        return np.hstack([rows, stepped.reshape(n, -1)])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; floats keep every bit."""
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Preprocessor:
        """The inverse of `to_json`.

        Raises:
            SettingError: it is not a preprocessor's JSON.
        """
        return read(Preprocessor, found, where="the preprocessor")


def _standardised(features: list[Scaled], columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """[features, n] their values as a model reads them, and where there is none: all at once, for a table has many."""
    values = np.array([columns[feature.name] for feature in features], dtype=np.float64)
    logs = [place for place, feature in enumerate(features) if feature.transform == "log"]
    values[logs] = transformed(values[logs], "log")
    missing = ~np.isfinite(values)
    mean, sd = np.array([[each.mean, each.sd] for each in features]).T[:, :, None]
    return np.where(missing, 0.0, values - mean) / sd, missing


def _fitted(feature: Feature, mean: float, sd: float) -> Scaled | Series:
    if feature.kind == "series":
        return Series(name=feature.name, mean=mean, sd=sd, steps=feature.steps, transform=feature.transform)
    return Scaled(name=feature.name, mean=mean, sd=sd, transform=feature.transform)


def _expected(feature: Feature) -> tuple[float, float]:
    """The mean and deviation that a numeric feature's bins, or else its range, suggest, after its transform."""
    edges, span = (feature.bins, 4) if len(feature.bins) > 1 else (feature.range or (), 6)
    if not edges:
        raise SettingError(
            f"{feature.name} must have bins or a range where no patient may be asked for a mean, found neither. Give "
            "it one in the feature spec."
        )
    scale = transformed(np.array(edges), feature.transform)
    return float(np.median(scale)), float(scale[-1] - scale[0]) / span
