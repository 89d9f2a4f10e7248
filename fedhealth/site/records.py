"""Records: dated values of many kinds, folded into one row a patient.

OMOP tables, FHIR resources and long tables all hold records: at that moment, that code, that
value. What becomes of them is decided here once, by the feature spec, so that a hospital gets
the same cohort from whichever of these it has. Records come in batches, of which only the
fold is kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Conversion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedhealth.core.features import Feature
    from fedhealth.core.manifest import SiteManifest

#: Values of a feature that are kept as they came, to look at what unit they are likely in.
SAMPLE = 2_000
#: Why a record behind a feature was not used.
UNKNOWN_UNIT = "unknown_unit"
UNREADABLE = "not_a_number"
IMPLAUSIBLE = "out_of_range"


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of records, each array [n].

    Attributes:
        row: of the stay it belongs to; one outside the stays is left out.
        code: its place among the codes that were asked for (`Fold.codes`).
        hour: since the stay began.
        value: NaN where there is none, infinite where there is something that is no number.
        unit: the places of its unit among `units`; None where no record has one.
        units: as the source spells them; an empty one is the hospital's own.
    """

    row: NDArray[np.int64]
    code: NDArray[np.int64]
    hour: NDArray[np.float64]
    value: NDArray[np.float64]
    unit: NDArray[np.int64] | None = None
    units: Sequence[str] = ()


class Fold:
    """Records on their way to one value a patient and feature.

    Of records at one moment the `last` and the `first` take the largest, so that the order in
    which records come decides nothing; a `mean` adds them in the order they come. A record that
    is out of range is left out and counted where the feature's `on_bad` is null, and is
    otherwise folded, for the rule to apply to the patient.
    """

    def __init__(
        self, features: Iterable[Feature], codes: Mapping[str, Sequence[str]], manifest: SiteManifest, stays: int
    ) -> None:
        """Fold nothing yet; `codes` are those of each feature, `stays` how many rows there will be."""
        self.features = tuple(feature for feature in features if codes[feature.name])
        self.codes = tuple(sorted({code for feature in self.features for code in codes[feature.name]}))
        place = {code: at for at, code in enumerate(self.codes)}
        self._wanted = {
            f.name: np.array([place[code] for code in codes[f.name]], dtype=np.int64) for f in self.features
        }
        self._manifest, self._stays = manifest, stays
        self._kept = {feature.name: _Kept.none(stays * feature.steps) for feature in self.features}
        self.faults: dict[str, Counter[str]] = {feature.name: Counter() for feature in self.features}
        self.samples: dict[str, NDArray[np.float64]] = {}
        self.seen = 0

    def add(self, batch: Records) -> None:
        """Fold a batch in."""
        self.seen += len(batch.row)
        inside = (batch.row >= 0) & (batch.row < self._stays)
        by_code = np.argsort(batch.code, kind="stable")
        edges = np.searchsorted(batch.code[by_code], np.arange(len(self.codes) + 1))
        for feature in self.features:
            mine = [by_code[edges[at] : edges[at + 1]] for at in self._wanted[feature.name]]
            rows = np.sort(np.concatenate(mine)) if mine else np.empty(0, dtype=np.int64)
            rows = rows[inside[rows]]
            low, high = feature.window_h
            rows = rows[(batch.hour[rows] >= low) & (batch.hour[rows] < high) & ~np.isnan(batch.value[rows])]
            if len(rows):
                self._fold(feature, batch, rows)

    @property
    def passed_over(self) -> dict[str, dict[str, int]]:
        """By feature, how many of its records were left out, by reason; a feature of which none was is not named."""
        return {name: dict(found) for name, found in self.faults.items() if found}

    def column(self, feature: Feature) -> NDArray[np.float64]:
        """[stays] the feature's values in the spec's unit, or [stays, steps] a series; NaN where there is none.

        A count is 0 where there is none, and NaN where the hospital has no such records.
        """
        kept = self._kept.get(feature.name)
        if kept is None:
            return np.full((self._stays, feature.steps) if feature.kind == "series" else self._stays, np.nan)
        if feature.aggregate == "count":
            found = kept.count.astype(np.float64)
        elif feature.aggregate == "mean":
            found = np.divide(kept.value, kept.count, out=np.full(len(kept.value), np.nan), where=kept.count > 0)
        else:
            found = kept.value
        return found.reshape(self._stays, feature.steps) if feature.kind == "series" else found

    def _fold(self, feature: Feature, batch: Records, rows: NDArray[np.int64]) -> None:
        value, faults = self._converted(feature, batch, rows), self.faults[feature.name]
        is_unit, is_number = ~np.isnan(value), ~np.isinf(value)
        usable = is_unit & is_number
        if len(self.samples.get(feature.name, ())) < SAMPLE:
            known = self.samples.get(feature.name, np.empty(0))
            self.samples[feature.name] = np.concatenate([known, value[usable]])[:SAMPLE]
        low, high = (0.0, 1.0) if feature.kind == "binary" else feature.range or (-np.inf, np.inf)
        if feature.aggregate == "count":
            low, high = -np.inf, np.inf
        is_plausible = (value >= low) & (value <= high)
        for code, bad in ((UNKNOWN_UNIT, ~is_unit), (UNREADABLE, ~is_number), (IMPLAUSIBLE, usable & ~is_plausible)):
            if found := int(bad.sum()):
                faults[code] += found
        if feature.on_bad == "null":
            usable &= is_plausible
        rows, value = rows[usable], value[usable]
        cell = batch.row[rows]
        if feature.kind == "series":
            step = np.floor((batch.hour[rows] - feature.window_h[0]) / feature.step_h).astype(np.int64)
            cell = cell * feature.steps + np.minimum(step, feature.steps - 1)
        self._kept[feature.name].take(feature.aggregate, cell, batch.hour[rows], value)

    def _converted(self, feature: Feature, batch: Records, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values in the spec's unit; NaN where the record's unit is none that the spec knows."""
        local = local_unit(self._manifest, feature)
        value = batch.value[rows]
        if feature.aggregate == "count":
            return value
        if batch.unit is None:
            return _in_unit(value, feature.conversion(local))
        found = np.full(len(rows), np.nan)
        unit = batch.unit[rows]
        for at in np.unique(unit).tolist():
            here = unit == at
            try:
                found[here] = _in_unit(value[here], feature.conversion(batch.units[at] or local))
            except SettingError:
                continue  # counted as of an unknown unit
        return found


def _in_unit(value: NDArray[np.float64], conversion: Conversion) -> NDArray[np.float64]:
    found: NDArray[np.float64] = value * conversion.factor + conversion.offset
    return found


@dataclass(slots=True)
class _Kept:
    """What is kept of a feature's records, by cell; each [cells]."""

    count: NDArray[np.int64]
    value: NDArray[np.float64]
    hour: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def none(cls, cells: int) -> _Kept:
        return cls(np.zeros(cells, dtype=np.int64), np.full(cells, np.nan))

    def take(
        self, aggregate: str, cell: NDArray[np.int64], hour: NDArray[np.float64], value: NDArray[np.float64]
    ) -> None:
        np.add.at(self.count, cell, 1)
        if aggregate == "count":
            return
        if aggregate == "mean":
            self.value[cell] = np.where(np.isnan(self.value[cell]), 0.0, self.value[cell])
            np.add.at(self.value, cell, value)
        elif aggregate in ("min", "max"):
            # fmin and fmax pass over the NaN of a cell without a value.
            (np.fmin if aggregate == "min" else np.fmax).at(self.value, cell, value)
        else:
            self._take_end(-1.0 if aggregate == "first" else 1.0, cell, hour, value)

    def _take_end(
        self, sign: float, cell: NDArray[np.int64], hour: NDArray[np.float64], value: NDArray[np.float64]
    ) -> None:
        """Keep the latest record of each cell, or where `sign` is -1 the earliest."""
        if not len(self.hour):
            self.hour = np.full(len(self.value), -np.inf)
        when = sign * hour
        order = np.lexsort((value, when, cell))
        end = np.flatnonzero(np.append(np.diff(cell[order]) > 0, True))
        if not len(order):
            return
        best = order[end]
        at = cell[best]
        is_later = (when[best] > self.hour[at]) | ((when[best] == self.hour[at]) & (value[best] > self.value[at]))
        at, best = at[is_later], best[is_later]
        self.hour[at], self.value[at] = when[best], value[best]


def coded(
    features: Iterable[Feature], manifest: SiteManifest, *, by: Literal["loinc", "omop", "snomed"]
) -> dict[str, tuple[str, ...]]:
    """By feature, the codes of its records: the hospital's own, parted by a bar, or the spec's `loinc`, `omop` or `snomed`.

    An empty word among the hospital's says that it has no such records.

    Raises:
        SettingError: a required feature has none.
    """
    found = {}
    for feature in features:
        own = local_codes(manifest, feature)
        codes = tuple(map(str, getattr(feature, by))) if own is None else own
        if not codes and feature.required:
            raise SettingError(
                f"{manifest.name}: a required feature must have a code by which its records are known, found none for "
                f"{feature.name}. Give it one under codes in site.yaml, or {by} in the feature spec."
            )
        found[feature.name] = codes
    return found


def local_codes(manifest: SiteManifest, feature: Feature) -> tuple[str, ...] | None:
    """A feature's codes at this hospital, by its own name or that of its records; None where it names none."""
    own = manifest.codes.get(feature.name, manifest.codes.get(feature.record))
    return None if own is None else tuple(part.strip() for part in own.split("|") if part.strip())


def local_unit(manifest: SiteManifest, feature: Feature) -> str:
    """The unit in which the hospital has a feature, by its own name or that of its records."""
    return manifest.units.get(feature.name, manifest.units.get(feature.record, feature.unit))


def check_found(rows: int, site: str, what: str) -> None:
    """Refuse a source in which nobody is.

    Raises:
        DataError: there are no rows.
    """
    if not rows:
        raise DataError(
            f"{site}: the source must hold {what}, found none. Check what the source block of site.yaml asks for."
        )
