"""Wide tables: one row a patient, one column a variable, in a file of any format.

Which columns are wanted, under which local names, and how they become a `Table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError, did_you_mean
from fedhealth.core.sensitivity import guessed
from fedhealth.core.split import PARTS
from fedhealth.core.table import Table
from fedhealth.core.task import days_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.preprocessor import Column, Columns
    from fedhealth.core.task import Task

#: What says, in a column of consent, that the patient allows research use; anything else is a no.
YES = ("1", "true", "yes", "y")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that a study needs of a wide table.

    Attributes:
        local: by variable, the column's local name. The pseudonym, the split and the consent are
            the variables `source.patient`, `source.split` and `source.consent`, where there are such.
        numeric: the variables that are numbers.
    """

    spec: FeatureSpec
    task: Task
    manifest: SiteManifest
    local: dict[str, str]
    numeric: frozenset[str]

    @classmethod
    def by(
        cls,
        spec: FeatureSpec,
        task: Task,
        manifest: SiteManifest,
        *,
        patient: str,
        split: str = "",
        consent: str = "",
        with_features: bool = True,
    ) -> Wanted:
        """The columns by the manifest's `codes`, or by the variables' own names; those of the features where asked for.

        A feature whose local name is empty is one that the hospital has not.

        Raises:
            DataError: a feature's column is a direct identifier or free text.
        """
        outcomes = (task.outcome,) if task.follow_up is None else (task.outcome, task.follow_up.time)
        features = spec.features if with_features else ()
        local = {name: manifest.codes.get(name, name) for name in (*outcomes, *(each.name for each in features))}
        local = {name: column for name, column in local.items() if column or name in outcomes}
        _check_sensitivity({each.name: local[each.name] for each in features if each.name in local}, patient, manifest)
        own = {"source.patient": patient, "source.split": split, "source.consent": consent}
        local |= {name: column for name, column in own.items() if column}
        numeric = {*outcomes, *(feature.name for feature in features if feature.kind != "categorical")}
        return cls(spec, task, manifest, local, frozenset(numeric))

    def check(self, columns: Sequence[str], path: Path) -> None:
        """Refuse a table that lacks a wanted column or has two of that name.

        Raises:
            DataError: naming the variable, its column and the nearest there is.
        """
        for name, column in self.local.items():
            if columns.count(column) != 1:
                remedy = f"Correct {name}" if name.startswith("source.") else f"Add `{name}: <its column>` under codes"
                raise DataError(
                    f"{path} must have one column {column!r} for {name}, found {columns.count(column)}. "
                    f"{remedy} in site.yaml. {did_you_mean(column, columns) if len(columns) <= 200 else ''}".rstrip()
                )

    def table(
        self,
        numbers: Mapping[str, NDArray[np.float64]],
        words: Mapping[str, NDArray[np.object_]],
        path: Path,
        columns: Columns | None = None,
    ) -> Table:
        """The table of these columns, by variable, each [n]; without pseudonyms its rows are numbered.

        The features' columns may come from elsewhere, as `columns`.

        Raises:
            DataError: a patient has no pseudonym, or a split has another name.
        """
        follow_up, outcome = self.task.follow_up, numbers[self.task.outcome]
        n = len(outcome)
        consent = words.get("source.consent")
        return Table(
            patients=_pseudonyms(words["source.patient"], path) if "source.patient" in words else numbered(n),
            columns=self._features(numbers, words, n) if columns is None else dict(columns),
            outcome=np.where(np.isfinite(outcome), outcome > self.task.positive_above, np.nan),
            consent=np.ones(n, dtype=np.bool_)
            if consent is None
            else np.array([str(word).lower() in YES for word in consent], dtype=np.bool_),
            split=_checked_split(words["source.split"], path) if "source.split" in words else None,
            days=None
            if follow_up is None
            else numbers[follow_up.time] * days_in(self.manifest.units.get(follow_up.time, follow_up.unit)),
        )

    def _features(
        self, numbers: Mapping[str, NDArray[np.float64]], words: Mapping[str, NDArray[np.object_]], n: int
    ) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for feature in self.spec.features:
            if feature.name in self.local:
                columns[feature.name] = numbers[feature.name] if feature.name in self.numeric else words[feature.name]
            elif feature.kind == "categorical":
                columns[feature.name] = np.full(n, None, dtype=object)
            else:
                columns[feature.name] = np.full(n, np.nan)
        return columns


def numbered(n: int) -> NDArray[np.str_]:
    """[n] names for rows that have none: stable only while the file is."""
    return np.array([f"row-{i}" for i in range(n)], dtype=np.str_)


def _check_sensitivity(local: Mapping[str, str], patient: str, manifest: SiteManifest) -> None:
    """Refuse to read what tells who a patient is, or words that may tell anything, as a feature."""
    for name, column in local.items():
        # A spec's own name was reviewed with the spec; a local one only by whoever wrote the manifest.
        known = manifest.sensitivity.get(column, "measure" if column == name else guessed(column))
        if known in ("identifier", "text") or column == patient:
            what = "free text" if known == "text" else "a direct identifier"
            raise DataError(
                f"{manifest.name}: a feature's column must be neither a direct identifier nor free text, found {what} in "
                f"{column!r} for {name}. Name another column under codes, or what this one is under sensitivity, in site.yaml."
            )


def _pseudonyms(found: NDArray[np.object_], path: Path) -> NDArray[np.str_]:
    nameless = int((found == "").sum()) + sum(patient is None for patient in (found if found.dtype == object else ()))
    if nameless:
        raise DataError(
            f"{path}: each patient must have a pseudonym, found {nameless} of {len(found)} rows without. "
            "Fill the column in, or remove source.patient from site.yaml."
        )
    return found.astype(np.str_, copy=False)


def _checked_split(words: NDArray[np.object_], path: Path) -> NDArray[np.str_]:
    wrong = sum(word not in PARTS for word in words)
    if wrong:
        raise DataError(
            f"{path}: the split column must say one of {', '.join(PARTS)}, found {wrong} of {len(words)} rows that "
            "don't. Correct them, or remove source.split from site.yaml."
        )
    return words.astype(np.str_)
