"""Quality: a source's table brought to the feature spec, and a count of what was wrong.

Harmonising is the spec's word alone: its units, its missing codes, its plausible ranges.
The report stays at the hospital and holds counts, never a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhealth.core.errors import DataError, Refused, SettingError
from fedhealth.core.features import AS_IT_IS
from fedhealth.core.table import Quarantined, Table

if TYPE_CHECKING:
    from fedhealth.core.features import Conversion, Feature, FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.preprocessor import Column


#: The share of patients without a good value from which a hospital takes no part, of a required feature.
MOST_BAD = 0.2


@dataclass(frozen=True, slots=True)
class FeatureQuality:
    """How many patients' values were missing or bad, before anything was mended.

    Attributes:
        missing: no value, or one of the spec's missing codes.
        unreadable: something that is not a number, in a column of numbers.
        implausible: outside the spec's range or levels.
        rejected: bad, and the patient left out for it.
        records: where a patient has many records, those that were passed over, by reason.
    """

    missing: int
    unreadable: int
    implausible: int
    rejected: int
    records: dict[str, int] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """Patients without a good value."""
        return self.missing + self.unreadable + self.implausible


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What became of a hospital's rows.

    Attributes:
        rows: patients the source had and who may be used.
        unknown_outcome: left out, since nobody knows how they fared.
        rejected: left out, since a feature with on_bad=reject was bad.
        kept: patients in the cohort.
        features: by feature, over the patients with a known outcome.
        positive: patients of the cohort with the event.
        quarantine: what was left out, where it stands and why; it names patients, and stays here.
    """

    rows: int
    unknown_outcome: int
    rejected: int
    kept: int
    features: dict[str, FeatureQuality]
    positive: int = 0
    quarantine: tuple[Quarantined, ...] = ()


def harmonise(table: Table, spec: FeatureSpec, manifest: SiteManifest) -> tuple[Table, QualityReport]:
    """The table in the spec's units and ranges, and what was missing or bad in it.

    Raises:
        DataError: a patient appears twice; a column of numbers holds none; a time is none; no patient is left.
        SettingError: the manifest names a unit the spec does not know.
    """
    doubled = _doubled(table.patients)
    if doubled:
        raise DataError(
            f"{manifest.name}: each patient must have one row, found {doubled} rows too many. "
            "Export one row a patient, or correct source.patient."
        )
    known = table.rows(np.isfinite(table.outcome))
    _check_times(known.days, manifest.name)
    columns: dict[str, Column] = {}
    counts: dict[str, FeatureQuality] = {}
    quarantine = list(table.quarantine)
    keep = np.ones(len(known), dtype=np.bool_)
    for feature in spec.features:
        checked = _checked(feature, known, manifest)
        columns[feature.name] = checked.column
        rejected = 0
        if feature.on_bad == "reject":
            is_rejected = checked.unreadable | checked.implausible
            rejected = int(np.count_nonzero(is_rejected))
            keep &= ~is_rejected
            quarantine += [
                Quarantined(f"patient {patient}", f"{feature.name}_{'not_a_number' if unreadable else 'out_of_range'}")
                for patient, unreadable in zip(
                    known.patients[is_rejected], checked.unreadable[is_rejected], strict=True
                )
            ]
        counts[feature.name] = FeatureQuality(
            missing=int(np.count_nonzero(checked.missing)),
            unreadable=int(np.count_nonzero(checked.unreadable)),
            implausible=int(np.count_nonzero(checked.implausible)),
            rejected=rejected,
            records=table.records.get(feature.name, {}),
        )
    kept = int(np.count_nonzero(keep))
    report = QualityReport(
        rows=len(table),
        unknown_outcome=len(table) - len(known),
        rejected=len(keep) - kept,
        kept=kept,
        features=counts,
        positive=int(np.count_nonzero(known.outcome[keep] == 1)),
        quarantine=tuple(quarantine),
    )
    if report.kept == 0:
        raise DataError(
            f"{manifest.name}: at least one patient must have a known outcome and no rejected value, found none of "
            f"{report.rows} ({report.unknown_outcome} without an outcome, {report.rejected} rejected). "
            "Check the outcome column, the units and the ranges."
        )
    return replace(known, columns=columns, in_spec_units=True).rows(keep), report


def _doubled(patients: NDArray[np.str_]) -> int:
    """How many rows are of a patient who has one already."""
    if not len(patients):
        return 0
    # Sorting words is slow and takes their memory again. Words that are equal have equal sums of their letters, each
    # times a random odd number; only where sums meet are the words themselves asked.
    letters = np.ascontiguousarray(patients).view(np.uint32).reshape(len(patients), -1)
    sums = np.zeros(len(patients), dtype=np.uint64)
    for place, weight in enumerate(_weights(letters.shape[1])):
        sums += letters[:, place].astype(np.uint64) * weight
    sums.sort()
    return len(patients) - len(np.unique(patients)) if (sums[1:] == sums[:-1]).any() else 0


@lru_cache(maxsize=16)
def _weights(letters: int) -> NDArray[np.uint64]:
    """[letters] odd numbers of chance, the same each time."""
    drawn = np.random.default_rng(0).integers(1, 1 << 62, size=letters, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)


def check_fit(report: QualityReport, spec: FeatureSpec, manifest: SiteManifest) -> None:
    """Take part only with data that the study can mean.

    Raises:
        Refused: of a required feature more than a fifth of the patients have no good value.
    """
    patients = report.rows - report.unknown_outcome
    for feature in spec.features:
        bad = report.features[feature.name].bad
        if feature.required and bad > MOST_BAD * patients:
            raise Refused(
                "data_not_fit",
                rule=f"{manifest.name}: {feature.name} must have a good value for {1 - MOST_BAD:.0%} of the patients",
                found=f"none for {bad} of {patients}",
                remedy="Look into it: fedhealth site inspect-data.",
            )


def check_schema(spec: FeatureSpec, manifest: SiteManifest) -> None:
    """Take part only where the columns mean what the study means by them.

    Raises:
        Refused: the hospital's data is of another version of the feature spec.
    """
    if spec.schema_version != manifest.schema_version:
        raise Refused(
            "schema_differs",
            rule=f"{manifest.name}: schema_version must be the feature spec's {spec.schema_version}",
            found=str(manifest.schema_version),
            remedy="Bring the data to it, then change schema_version in site.yaml.",
        )


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


def _checked(feature: Feature, table: Table, manifest: SiteManifest) -> _Checked:
    column = table.columns[feature.name]
    if feature.kind == "categorical":
        return _checked_words(feature, column)
    conversion = AS_IT_IS if table.in_spec_units else conversion_here(feature, manifest)
    return _checked_numbers(feature, np.asarray(column, dtype=np.float64), conversion, manifest)


def conversion_here(feature: Feature, manifest: SiteManifest) -> Conversion:
    """How the hospital's unit of a feature becomes the spec's.

    Raises:
        SettingError: the manifest names a unit that the spec does not know.
    """
    try:
        return feature.conversion(manifest.units.get(feature.name, feature.unit))
    except SettingError as error:
        raise SettingError(f"{manifest.name}: {error}") from None


def _checked_numbers(
    feature: Feature, local: NDArray[np.float64], conversion: Conversion, manifest: SiteManifest
) -> _Checked:
    """The numbers in range; of a series a patient is missing without any number, and bad with one bad number."""
    unreadable = np.isinf(local)
    is_readable = not unreadable.any()
    if not is_readable and not np.isfinite(local).any():
        raise DataError(
            f"{manifest.name}: {feature.name} must be a column of numbers, found {int(unreadable.sum())} cells that "
            "are none and no number. Name the right column under `codes` in site.yaml."
        )
    missing = np.isnan(local)
    if feature.missing:
        missing |= np.isin(local, [float(code) for code in feature.missing])
    # Of ten million patients a copy is 80 MB, and most columns need none.
    values = local
    if feature.missing or not is_readable or conversion != AS_IT_IS:
        values = np.where(missing | unreadable, np.nan, local * conversion.factor + conversion.offset)
    low, high = (0.0, 1.0) if feature.kind == "binary" else feature.range or (-np.inf, np.inf)
    implausible: NDArray[np.bool_] = (values < low) | (values > high)
    if feature.kind == "binary":
        implausible |= (values > low) & (values < high)
    column = values
    if implausible.any():
        is_clipped = feature.kind != "binary" and feature.on_bad == "clip"
        column = np.clip(values, low, high) if is_clipped else np.where(implausible, np.nan, values)
    if column.ndim == 1:
        return _Checked(column, missing, unreadable, implausible)
    by_patient: list[NDArray[np.bool_]] = [found.max(axis=1) for found in (unreadable, implausible)]
    return _Checked(column, missing.min(axis=1), *by_patient)


def _checked_words(feature: Feature, column: Column) -> _Checked:
    missing = np.array([word is None or word in feature.missing for word in column], dtype=np.bool_)
    implausible = ~missing & np.array([word not in feature.levels for word in column], dtype=np.bool_)
    words = column.astype(object)
    words[missing | implausible] = None
    return _Checked(words, missing, np.zeros_like(missing), implausible)
