"""FHIR R4: a folder of bulk NDJSON or of bundles, plain or gzipped."""

from __future__ import annotations

from dataclasses import field, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.settings import settings
from fedhealth.core.table import Quarantined
from fedhealth.site import fhir
from fedhealth.site.files import allowed
from fedhealth.site.records import Fold, Records, check_found, coded
from fedhealth.site.stays import Stays, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.stays import Person, Visit

BATCH_ROWS = 50_000


@settings
class FhirSource:
    """Patients, Encounters, Observations, Conditions and Consents of a FHIR export.

    The files are read twice: who was there, then what was found. A patient of whom an active
    Consent denies anything is left out.

    Attributes:
        path: a folder or a file, from the hospital's folder or from an environment variable.
        visits: the classes of Encounter that count as a stay (v3 ActCode): inpatient, acute and not acute.
        index: which of a patient's stays is predicted from.
        as_of: the day after which nothing is known, as 2024-12-31; none for today.
    """

    path: str = field(metadata={"example": "export"})
    visits: tuple[str, ...] = ("IMP", "ACUTE", "NONAC")
    index: Literal["first", "last"] = "first"
    as_of: date | None = None

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a file draws nothing)
        """The patients of the export.

        Raises:
            DataError: there is no such export, a file breaks off, or nobody stayed.
        """
        files = fhir.Files.at(allowed(folder, self.path, manifest))
        people, visits, doubled = self._people(files)
        stays = Stays.of(visits, people, task, index=self.index, as_of=moment_of(self.as_of))
        check_found(len(stays), manifest.name, f"an Encounter of class {', '.join(self.visits)}")
        measured = [f for f in spec.features if f.origin == "record" and f.kind != "categorical"]
        conditions = [f for f in spec.features if f.origin == "condition"]
        fold = Fold(measured, coded(measured, manifest, by="loinc"), manifest, len(stays))
        known = _Known(conditions, coded(conditions, manifest, by="snomed"), stays)
        orphans = doubled
        batch = _Batch(fold.codes, stays)
        for place, resource in files.resources({"Observation", "Condition"}):
            person = fhir.who(resource.get("subject"))
            row = stays.place.get(person)
            if row is None:
                if person not in people:
                    orphans.append(Quarantined(place, "record_without_patient"))
            elif resource["resourceType"] == "Condition":
                known.take(row, resource)
            else:
                batch.take(row, resource)
                if len(batch) >= BATCH_ROWS:
                    fold.add(batch.records())
        fold.add(batch.records())
        table = stays.table(spec, fold, known.columns)
        return replace(table, quarantine=(*table.quarantine, *files.quarantine.values(), *orphans))

    def _people(self, files: fhir.Files) -> tuple[dict[str, Person], list[Visit], list[Quarantined]]:
        """Everybody by id as they came first, the visits of the wanted classes, and who came again."""
        doubled: list[Quarantined] = []
        people: dict[str, Person] = {}
        visits: list[Visit] = []
        denying: set[str] = set()
        for place, resource in files.resources({"Patient", "Encounter", "Consent"}):
            name = str(resource.get("id", ""))
            if resource["resourceType"] == "Patient" and name in people:
                doubled.append(Quarantined(place, "patient_twice"))
            elif resource["resourceType"] == "Patient":
                people[name] = fhir.person_of(resource)
            elif resource["resourceType"] == "Consent":
                denying |= {fhir.who(resource.get("patient"))} if fhir.forbids(resource) else set()
            else:
                kind, visit = fhir.visit_of(resource)
                if kind in self.visits and resource.get("status") not in fhir.VOID:
                    visits.append(visit)
        return {name: replace(each, consent=name not in denying) for name, each in people.items()}, visits, doubled


class _Batch:
    """Observations on their way to a batch of records."""

    def __init__(self, codes: Sequence[str], stays: Stays) -> None:
        self._stays = stays
        self._place = {code: at for at, code in enumerate(codes)}
        self._rows: list[tuple[int, int, float, float, int]] = []
        self._units: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, row: int, resource: fhir.Resource) -> None:
        """Keep the values of an Observation that have a wanted code."""
        when, values = fhir.observed(resource, self._place)
        for value in values:
            unit = self._units.setdefault(value.unit, len(self._units))
            self._rows += [
                (row, self._place[code], when, value.value, unit) for code in value.codes if code in self._place
            ]

    def records(self) -> Records:
        """What was kept; nothing is any more."""
        row, code, moment, value, unit = zip(*self._rows, strict=True) if self._rows else ((),) * 5
        self._rows = []
        rows = np.array(row, dtype=np.int64)
        return Records(
            row=rows,
            code=np.array(code, dtype=np.int64),
            hour=self._stays.hours(rows, np.array(moment, dtype=np.float64)),
            value=np.array(value, dtype=np.float64),
            unit=np.array(unit, dtype=np.int64),
            units=list(self._units),
        )


class _Known:
    """By feature, [n] whether a condition was known by the end of the feature's window."""

    def __init__(self, features: Iterable[Feature], codes: Mapping[str, tuple[str, ...]], stays: Stays) -> None:
        self._asked = [(feature, set(codes[feature.name])) for feature in features if codes[feature.name]]
        self._local = frozenset().union(*(codes for _, codes in self._asked))
        self._stays = stays
        self.columns = {feature.name: np.zeros(len(stays)) for feature, _ in self._asked}

    def take(self, row: int, resource: fhir.Resource) -> None:
        """Take in a Condition."""
        if set(fhir.codes_of(resource.get("verificationStatus"), "", fhir.VOID)) & fhir.VOID:
            return
        when = fhir.moment(resource.get("onsetDateTime"))
        when = fhir.moment(resource.get("recordedDate")) if np.isnan(when) else when
        hour = (when - self._stays.visits[row].start) / 3600
        found = set(fhir.codes_of(resource.get("code"), fhir.SNOMED, self._local))
        for feature, codes in self._asked:
            if codes & found and hour < feature.window_h[1]:
                self.columns[feature.name][row] = 1.0
