"""Quality: a source's table brought to the feature spec, and a count of what was wrong.

Harmonising is the spec's word alone: its units, its missing codes, its plausible ranges.
The report stays at the hospital and holds counts, never a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.table import Table

if TYPE_CHECKING:
    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.preprocessor import Column


@dataclass(frozen=True, slots=True)
class FeatureQuality:
    """How many patients' values were missing or bad, before anything was mended.

    Attributes:
        missing: no value, or one of the spec's missing codes.
        unreadable: something that is not a number, in a column of numbers.
        implausible: outside the spec's range or levels.
        rejected: bad, and the patient left out for it.
    """

    missing: int
    unreadable: int
    implausible: int
    rejected: int


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What became of a hospital's rows.

    Attributes:
        rows: patients the source had and who may be used.
        unknown_outcome: left out, since nobody knows how they fared.
        rejected: left out, since a feature with on_bad=reject was bad.
        kept: patients in the cohort.
        features: by feature, over the patients with a known outcome.
    """

    rows: int
    unknown_outcome: int
    rejected: int
    kept: int
    features: dict[str, FeatureQuality]


def harmonise(table: Table, spec: FeatureSpec, manifest: SiteManifest) -> tuple[Table, QualityReport]:
    """The table in the spec's units and ranges, and what was missing or bad in it.

    Raises:
        DataError: a patient appears twice; a column of numbers holds none; a time is none; no patient is left.
        SettingError: the manifest names a unit the spec does not know.
    """
    doubled = len(table) - len(np.unique(table.patients))
    if doubled:
        raise DataError(
            f"{manifest.name}: each patient must have one row, found {doubled} rows too many. "
            "Export one row a patient, or correct source.patient."
        )
    known = table.rows(np.isfinite(table.outcome))
    _check_times(known.days, manifest.name)
    columns: dict[str, Column] = {}
    counts: dict[str, FeatureQuality] = {}
    keep = np.ones(len(known), dtype=np.bool_)
    for feature in spec.features:
        checked = _checked(feature, known.columns[feature.name], manifest)
        columns[feature.name] = checked.column
        is_rejected = (checked.unreadable | checked.implausible) & (feature.on_bad == "reject")
        keep &= ~is_rejected
        counts[feature.name] = FeatureQuality(
            missing=int(checked.missing.sum()),
            unreadable=int(checked.unreadable.sum()),
            implausible=int(checked.implausible.sum()),
            rejected=int(is_rejected.sum()),
        )
    report = QualityReport(
        rows=len(table),
        unknown_outcome=len(table) - len(known),
        rejected=int((~keep).sum()),
        kept=int(keep.sum()),
        features=counts,
    )
    if report.kept == 0:
        raise DataError(
            f"{manifest.name}: at least one patient must have a known outcome and no rejected value, found none of "
            f"{report.rows} ({report.unknown_outcome} without an outcome, {report.rejected} rejected). "
            "Check the outcome column, the units and the ranges."
        )
    whole = Table(known.patients, columns, known.outcome, known.consent, known.split, known.days)
    return whole.rows(keep), report


def _check_times(days: NDArray[np.float64] | None, site: str) -> None:
    """Refuse times that are none: nobody knows what to make of a patient who was followed for less than nothing."""
    if days is None:
        return
    wrong = {
        "is missing": np.isnan(days),
        "is not a number": np.isinf(days),
        "is negative": np.isfinite(days) & (days < 0),
    }
    for what, which in wrong.items():
        if found := int(which.sum()):
            raise DataError(
                f"{site}: each patient with a known outcome must have a time of 0 or more, found {found} of {len(days)} "
                f"whose time {what}. Correct the column that `task.follow_up.time` names, or leave their outcome empty."
            )


class _Checked(NamedTuple):
    """A column as the spec wants it, and which rows were not so; each [n]."""

    column: Column
    missing: NDArray[np.bool_]
    unreadable: NDArray[np.bool_]
    implausible: NDArray[np.bool_]


def _checked(feature: Feature, column: Column, manifest: SiteManifest) -> _Checked:
    if feature.kind == "categorical":
        return _checked_words(feature, column)
    return _checked_numbers(feature, column.astype(np.float64), manifest)


def _checked_numbers(feature: Feature, local: NDArray[np.float64], manifest: SiteManifest) -> _Checked:
    unreadable = np.isinf(local)
    if unreadable.any() and not np.isfinite(local).any():
        raise DataError(
            f"{manifest.name}: {feature.name} must be a column of numbers, found {int(unreadable.sum())} cells that "
            "are none and no number. Name the right column under `codes` in site.yaml."
        )
    try:
        conversion = feature.conversion(manifest.units.get(feature.name, feature.unit))
    except SettingError as error:
        raise SettingError(f"{manifest.name}: {error}") from None
    missing = np.isnan(local) | np.isin(local, [float(code) for code in feature.missing])
    values = np.where(missing | unreadable, np.nan, local * conversion.factor + conversion.offset)
    low, high = (0.0, 1.0) if feature.kind == "binary" else feature.range or (-np.inf, np.inf)
    implausible = (values < low) | (values > high)
    if feature.kind == "binary":
        implausible |= (values > low) & (values < high)
    if feature.kind == "numeric" and feature.on_bad == "clip":
        return _Checked(np.clip(values, low, high), missing, unreadable, implausible)
    return _Checked(np.where(implausible, np.nan, values), missing, unreadable, implausible)


def _checked_words(feature: Feature, column: Column) -> _Checked:
    missing = np.array([word is None or word in feature.missing for word in column], dtype=np.bool_)
    implausible = ~missing & np.array([word not in feature.levels for word in column], dtype=np.bool_)
    words = column.astype(object)
    words[missing | implausible] = None
    return _Checked(words, missing, np.zeros_like(missing), implausible)
