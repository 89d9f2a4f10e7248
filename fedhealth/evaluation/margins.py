"""Margins: how many patients have each value, and each pair of values, as one sum over hospitals.

A patient is one cell of every attribute: a bin of the spec's, a level, or the cell of those without a
value. Written as zeros and ones that is a row, and the sum over patients of each row with itself (the upper
triangle of the Gram matrix, without the cells of one attribute against each other, which are never both)
holds all one- and two-way counts. Nothing here depends on a patient but the counts.

How far one patient moves the counts: the patient has one cell of each of the d attributes and one of each
of their d(d-1)/2 pairs, so whoever is added or removed changes exactly d(d+1)/2 numbers by 1. In L2 that is
`sensitivity`, the same for all patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedhealth.core.features import Feature
    from fedhealth.core.preprocessor import Column, Columns
    from fedhealth.core.study import Study

#: Bins of a numeric feature whose spec has a range and no edges.
EQUAL_BINS = 8
#: The purpose under which hospitals are asked.
MARGINS = "query.margins"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One variable cut into cells.

    Attributes:
        name: of the feature, or of the outcome.
        edges: between the cells of a number; a value on an edge belongs above it.
        levels: the words, one a cell.
        has_missing: whether the last cell is of those without a value.
    """

    name: str
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    has_missing: bool = True

    @property
    def known(self) -> int:
        """How many cells hold a value."""
        return len(self.levels) or len(self.edges) + 1

    @property
    def size(self) -> int:
        """How many cells there are."""
        return self.known + self.has_missing

    def cells(self, column: Column) -> NDArray[np.int64]:
        """Each patient's cell, [n]."""
        if self.levels:
            places = {level: place for place, level in enumerate(self.levels)}
            return np.array([places.get(word, self.known) for word in column], dtype=np.int64)
        values = np.asarray(column, dtype=np.float64)
        return np.where(np.isfinite(values), np.searchsorted(self.edges, values, side="right"), self.known)


@dataclass(frozen=True)
class MarginLayout:
    """Where each count stands: the cells of every attribute, then those of every pair, in the spec's order.

    Attributes:
        attributes: the features, and the outcome last.
    """

    attributes: tuple[Attribute, ...]

    @classmethod
    def of(cls, study: Study) -> MarginLayout:
        """The layout of a study, from what is public alone.

        Raises:
            SettingError: the outcome is a time, or a feature a series or without bins and range.
        """
        if study.task.follow_up is not None:
            raise SettingError(
                f"a synthetic release must be of an event, found task {study.task.name}, whose outcome is a time. Use a "
                "task without follow_up."
            )
        # Half way, since the outcome's column is 0 or 1 by now.
        outcome = Attribute(study.task.outcome, edges=(0.5,), has_missing=False)
        return cls((*map(_attribute, study.features.features), outcome))

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes' names, in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many cells each attribute has."""
        return tuple(attribute.size for attribute in self.attributes)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each attribute's cells begin, and the number of all cells."""
        return tuple(np.cumsum([0, *self.sizes]).tolist())

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """The pairs of attributes by their places, in order."""
        return combinations(range(len(self.attributes)), 2)

    @cached_property
    def size(self) -> int:
        """How many counts there are."""
        return self.starts[-1] + sum(self.sizes[a] * self.sizes[b] for a, b in self.pairs)

    @property
    def sensitivity(self) -> float:
        """How far one patient moves the counts in L2: each one exactly so far."""
        d = len(self.attributes)
        return math.sqrt(d * (d + 1) / 2)

    def cells(self, columns: Columns, y: NDArray[np.float32]) -> NDArray[np.int64]:
        """Each patient's cell of every attribute, [n, attributes]."""
        *features, outcome = self.attributes
        found = [attribute.cells(columns[attribute.name]) for attribute in features]
        return np.column_stack([*found, outcome.cells(y.astype(np.float64))])

    def counts(self, cells: NDArray[np.int64]) -> NDArray[np.float64]:
        """How many of these patients are in each cell and pair of cells, [size]; whole numbers."""
        each = [np.bincount(cells[:, a], minlength=size) for a, size in enumerate(self.sizes)]
        both = [
            np.bincount(cells[:, a] * self.sizes[b] + cells[:, b], minlength=self.sizes[a] * self.sizes[b])
            for a, b in self.pairs
        ]
        return np.concatenate([*each, *both]).astype(np.float64)

    def one_way(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The counts by attribute, each [cells].

        Raises:
            DataError: they are another layout's.
        """
        self._check(counts)
        return [counts[start:end] for start, end in pairwise(self.starts)]

    def two_way(self, counts: NDArray[np.float64]) -> dict[tuple[int, int], NDArray[np.float64]]:
        """The counts by pair of attributes, each [cells of one, cells of the other].

        Raises:
            DataError: they are another layout's.
        """
        self._check(counts)
        found, at = {}, self.starts[-1]
        for a, b in self.pairs:
            end = at + self.sizes[a] * self.sizes[b]
            found[a, b] = counts[at:end].reshape(self.sizes[a], self.sizes[b])
            at = end
        return found

    def patients(self, counts: NDArray[np.float64]) -> float:
        """How many patients the counts are of, where each count has noise of one size.

        Every attribute's cells add up to the patients; the mean over attributes is weighted by how
        little noise that sum has.
        """
        weights = 1 / np.array(self.sizes)
        return float(np.average([cells.sum() for cells in self.one_way(counts)], weights=weights))

    def _check(self, counts: NDArray[np.float64]) -> None:
        if counts.shape != (self.size,):
            raise DataError(
                f"the margins must be {self.size} numbers, found shape {list(counts.shape)}. Give every hospital the "
                "same feature spec."
            )


def _attribute(feature: Feature) -> Attribute:
    if feature.kind == "series":
        raise SettingError(
            f"feature {feature.name}: a synthetic release must be of single values, found a series. Leave it out of the "
            "features."
        )
    if feature.kind == "categorical":
        return Attribute(feature.name, levels=feature.levels)
    if feature.kind == "binary":
        return Attribute(feature.name, edges=(0.5,))
    if feature.bins:
        return Attribute(feature.name, edges=feature.bins)
    if feature.range is None:
        raise SettingError(
            f"feature {feature.name}: a numeric feature must have bins or a range in a synthetic release, which looks at "
            "no value to find some, found neither. Give it bins."
        )
    spaced = np.geomspace if feature.transform == "log" else np.linspace
    return Attribute(feature.name, edges=tuple(spaced(*feature.range, EQUAL_BINS + 1)[1:-1].tolist()))
