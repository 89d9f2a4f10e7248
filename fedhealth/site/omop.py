"""OMOP: a cohort from the tables of the Common Data Model 5.4, in whichever database they are.

    person, death, observation_period ─┐
    visit_occurrence ──────────────────┴→ Stays ─┐
    measurement ─────────────────────→ Fold ─────┴→ Table
    condition_occurrence, concept_ancestor ──────┘

The statements are the same for every database: built from expressions, values bound, never
pasted. The database sorts, selects and casts; what is worked out of the rows is worked out
here, so that two databases with the same rows give the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.settings import settings
from fedhealth.core.units import OMOP_UNITS
from fedhealth.site.records import Fold, Records, check_found, coded
from fedhealth.site.stays import Person, Stays, Visit, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement, Select, TableClause

    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task

Batch = dict[str, "NDArray[Any]"]

#: What is read, by table and column, with the type that CDM 5.4 gives it.
TABLES: dict[str, dict[str, Literal["integer", "float", "date", "datetime", "text"]]] = {
    "person": {
        "person_id": "integer",
        "gender_concept_id": "integer",
        "year_of_birth": "integer",
        "month_of_birth": "integer",
        "day_of_birth": "integer",
    },
    "visit_occurrence": {
        "visit_occurrence_id": "integer",
        "person_id": "integer",
        "visit_concept_id": "integer",
        "visit_start_date": "date",
        "visit_start_datetime": "datetime",
        "visit_end_date": "date",
        "visit_end_datetime": "datetime",
    },
    "death": {"person_id": "integer", "death_date": "date", "death_datetime": "datetime"},
    "observation_period": {"person_id": "integer", "observation_period_end_date": "date"},
    "measurement": {
        "measurement_id": "integer",
        "person_id": "integer",
        "measurement_concept_id": "integer",
        "measurement_date": "date",
        "measurement_datetime": "datetime",
        "value_as_number": "float",
        "unit_concept_id": "integer",
        "unit_source_value": "text",
    },
    "condition_occurrence": {
        "person_id": "integer",
        "condition_concept_id": "integer",
        "condition_start_date": "date",
        "condition_start_datetime": "datetime",
    },
    "concept_ancestor": {"ancestor_concept_id": "integer", "descendant_concept_id": "integer"},
    "observation": {"person_id": "integer", "observation_concept_id": "integer"},
}
FEMALE, MALE = 8532, 8507


class Database(Protocol):
    """What a database with OMOP's tables offers."""

    def columns(self, table: str) -> list[str]:
        """The columns of a table; empty where there is no such table."""
        ...

    def batches(self, statement: Select[Any]) -> Iterator[Batch]:
        """The rows of a statement as they come, by column: numbers with NaN for null, and words with None.

        Raises:
            DataError: the database refuses, or is lost on the way.
        """
        ...


@settings
class OmopSettings:
    """What every OMOP source is told.

    Attributes:
        schema: of the tables.
        visits: the concepts of the visits that count as a stay: inpatient, and emergency room and inpatient.
        index: which of a patient's stays is predicted from.
        as_of: the day after which nothing is known, as 2024-12-31; none for today, which gives
            another cohort tomorrow.
        objections: concepts of OBSERVATION by which a patient forbids research use.
    """

    schema: str = ""
    visits: tuple[int, ...] = (9201, 262)
    index: Literal["first", "last"] = "first"
    as_of: date | None = None
    objections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.visits:
            raise SettingError("`visits` must name at least one concept, found none. Use 9201 for inpatient visits.")


def read_cdm(
    database: Database, source: OmopSettings, *, spec: FeatureSpec, task: Task, manifest: SiteManifest
) -> Table:
    """The table of a database's patients.

    Raises:
        DataError: a table or column is missing, nobody is in it, or the database is lost.
        SettingError: a code is no concept's number, or the task does not say its event.
    """
    return _Reading(database, source, manifest).table(spec, task)


@dataclass(frozen=True)
class _Reading:
    """One reading of a database for one study."""

    database: Database
    source: OmopSettings
    manifest: SiteManifest

    def table(self, spec: FeatureSpec, task: Task) -> Table:
        coming = [f for f in spec.features if f.kind != "categorical" and f.origin in ("record", "condition")]
        codes = coded(coming, self.manifest, by="omop")
        measured = [f for f in coming if f.origin == "record" and codes[f.name]]
        conditions = [f for f in coming if f.origin == "condition" and codes[f.name]]
        self._check(bool(measured), bool(conditions))
        as_of = moment_of(self.source.as_of)
        people = self._people()
        stays = Stays.of(self._visits(), people, task, index=self.source.index, as_of=as_of)
        check_found(len(stays), self.manifest.name, f"a visit of concept {list(self.source.visits)}")
        fold = Fold(measured, codes, self.manifest, len(stays))
        concepts = np.array([_concept(code, self.manifest) for code in fold.codes], dtype=np.int64)
        for batch in self._measurements(concepts, fold.features) if len(concepts) else ():
            fold.add(_as_records(batch, stays, concepts))
        return stays.table(spec, fold, self._conditions(conditions, codes, stays))

    def _check(self, with_measurements: bool, with_conditions: bool) -> None:
        unused = {
            "measurement": not with_measurements,
            "condition_occurrence": not with_conditions,
            "concept_ancestor": not with_conditions,
            "observation": not self.source.objections,
        }
        for table, columns in TABLES.items():
            if unused.get(table):
                continue
            found = self.database.columns(table)
            if not found:
                raise DataError(
                    f"{self.manifest.name}: the database must have the table {table}, found none"
                    f"{f' in schema {self.source.schema}' if self.source.schema else ''}. "
                    "Correct source.schema, or grant the right to read it."
                )
            for column in columns:
                if column not in found:
                    raise DataError(
                        f"{self.manifest.name}: {table} must have the column {column} of CDM 5.4, found none. "
                        f"{did_you_mean(column, found)}"
                    )

    def _people(self) -> dict[str, Person]:
        from sqlalchemy import func, select

        person, death, period = self._of("person"), self._of("death"), self._of("observation_period")
        died = {
            int(who): float(when)
            for batch in self.database.batches(
                select(death.c.person_id, func.min(_moment(death, "death")).label("moment")).group_by(death.c.person_id)
            )
            for who, when in zip(batch["person_id"], batch["moment"], strict=True)
        }
        last = _day(func.max(period.c.observation_period_end_date))
        seen = {
            int(who): float(when)
            for batch in self.database.batches(
                select(period.c.person_id, last.label("moment")).group_by(period.c.person_id)
            )
            for who, when in zip(batch["person_id"], batch["moment"], strict=True)
        }
        objecting = self._objecting()
        people: dict[str, Person] = {}
        for batch in self.database.batches(
            select(*(person.c[name] for name in TABLES["person"])).order_by(person.c.person_id)
        ):
            for number, sex, *born in zip(*(batch[name].tolist() for name in TABLES["person"]), strict=True):
                name = str(int(number))
                if name in people:
                    raise DataError(
                        f"{self.manifest.name}: each person must have one row in person, found two of one. "
                        "Load the table again."
                    )
                people[name] = Person(
                    birth=_birth(*born),
                    female={FEMALE: 1.0, MALE: 0.0}.get(sex, math.nan),
                    death=died.get(int(number)),
                    seen_until=seen.get(int(number), math.nan),
                    consent=int(number) not in objecting,
                )
        return people

    def _objecting(self) -> set[int]:
        from sqlalchemy import select

        if not self.source.objections:
            return set()
        observation = self._of("observation")
        wanted = observation.c.observation_concept_id.in_(self.source.objections)
        return {
            int(who)
            for batch in self.database.batches(select(observation.c.person_id).where(wanted).distinct())
            for who in batch["person_id"]
        }

    def _visits(self) -> Iterator[Visit]:
        from sqlalchemy import select

        visit = self._of("visit_occurrence")
        statement = (
            select(
                visit.c.visit_occurrence_id,
                visit.c.person_id,
                _moment(visit, "visit_start").label("start"),
                _moment(visit, "visit_end").label("end"),
            )
            .where(visit.c.visit_concept_id.in_(self.source.visits))
            .order_by(visit.c.visit_occurrence_id)
        )
        for batch in self.database.batches(statement):
            for number, who, start, end in zip(*(column.tolist() for column in batch.values()), strict=True):
                person = "" if math.isnan(who) else str(int(who))
                yield Visit(person=person, name=str(int(number)), start=start, end=end)

    def _measurements(self, concepts: NDArray[np.int64], features: tuple[Feature, ...]) -> Iterator[Batch]:
        """The measurements of the days round each person's stays; the hours are looked at later."""
        from sqlalchemy import Double, cast, func, select

        measured, visit = self._of("measurement"), self._of("visit_occurrence")
        before = math.floor(min(feature.window_h[0] for feature in features) / 24) - 1
        after = math.ceil(max(feature.window_h[1] for feature in features) / 24) + 1
        is_near = (
            select(visit.c.visit_occurrence_id)
            .where(
                visit.c.person_id == measured.c.person_id,
                visit.c.visit_concept_id.in_(self.source.visits),
                measured.c.measurement_date.between(
                    visit.c.visit_start_date + before, visit.c.visit_start_date + after
                ),
            )
            .exists()
        )
        statement = (
            select(
                measured.c.person_id,
                measured.c.measurement_concept_id,
                _moment(measured, "measurement").label("moment"),
                cast(measured.c.value_as_number, Double).label("value"),
                func.coalesce(measured.c.unit_concept_id, 0).label("unit_concept_id"),
                func.coalesce(measured.c.unit_source_value, "").label("unit_source_value"),
            )
            .where(measured.c.measurement_concept_id.in_(concepts.tolist()), is_near)
            .order_by(measured.c.measurement_id)
        )
        yield from self.database.batches(statement)

    def _conditions(
        self, features: list[Feature], codes: Mapping[str, tuple[str, ...]], stays: Stays
    ) -> dict[str, NDArray[np.float64]]:
        """[n] by feature, whether such a condition, or one beneath it, began by the end of the window."""
        from sqlalchemy import func, select

        if not features:
            return {}
        asked = {f.name: {_concept(code, self.manifest) for code in codes[f.name]} for f in features}
        ancestor = self._of("concept_ancestor")
        above = set().union(*asked.values())
        beneath: dict[int, set[int]] = {concept: {concept} for concept in above}
        for batch in self.database.batches(
            select(ancestor.c.ancestor_concept_id, ancestor.c.descendant_concept_id).where(
                ancestor.c.ancestor_concept_id.in_(sorted(above))
            )
        ):
            for high, low in zip(*(column.tolist() for column in batch.values()), strict=True):
                beneath[int(high)].add(int(low))
        condition = self._of("condition_occurrence")
        statement = (
            select(
                condition.c.person_id,
                condition.c.condition_concept_id,
                func.min(_moment(condition, "condition_start")).label("moment"),
            )
            .where(condition.c.condition_concept_id.in_(sorted(set().union(*beneath.values()))))
            .group_by(condition.c.person_id, condition.c.condition_concept_id)
        )
        meant = [(f, set().union(*(beneath[concept] for concept in asked[f.name]))) for f in features]
        found = {feature.name: np.zeros(len(stays)) for feature in features}
        for batch in self.database.batches(statement):
            for who, concept, moment in zip(*(column.tolist() for column in batch.values()), strict=True):
                row = stays.place.get(str(int(who)))
                if row is None:
                    continue
                hour = (moment - stays.visits[row].start) / 3600
                for feature, concepts in meant:
                    if int(concept) in concepts and hour < feature.window_h[1]:
                        found[feature.name][row] = 1.0
        return found

    def _of(self, table: str) -> TableClause:
        from sqlalchemy import column
        from sqlalchemy import table as named

        return named(table, *(column(name) for name in TABLES[table]), schema=self.source.schema or None)


def _moment(table: TableClause, what: str) -> ColumnElement[float]:
    """Seconds since 1970 of a column's moment or, where that is null, of the beginning of its day."""
    from sqlalchemy import DateTime, Double, cast, extract, func

    day, moment = table.c[f"{what}_date"], table.c[f"{what}_datetime"]
    return cast(extract("epoch", func.coalesce(cast(moment, DateTime), cast(day, DateTime))), Double)


def _day(day: ColumnElement[Any]) -> ColumnElement[float]:
    from sqlalchemy import DateTime, Double, cast, extract

    return cast(extract("epoch", cast(day, DateTime)), Double)


def _concept(code: str, manifest: SiteManifest) -> int:
    if not code.isdecimal():
        raise SettingError(
            f"{manifest.name}: a code of an OMOP source must be a concept_id, found {code!r}. Correct it under codes."
        )
    return int(code)


def _birth(year: float, month: float, day: float) -> float:
    """Seconds since 1970 of a birthday; the middle of the year or month where no more is known."""
    try:
        known = datetime(
            int(year),
            7 if math.isnan(month) else int(month),
            (1 if math.isnan(month) else 15) if math.isnan(day) else int(day),
            tzinfo=UTC,
        )
    except ValueError:
        return math.nan
    return known.timestamp()


def _as_records(batch: Batch, stays: Stays, concepts: NDArray[np.int64]) -> Records:
    people, person = np.unique(batch["person_id"], return_inverse=True)
    rows = np.array([stays.place.get(str(int(who)), -1) for who in people], dtype=np.int64)[person]
    order = np.argsort(concepts)
    concept = batch["measurement_concept_id"].astype(np.int64)
    code = order[np.searchsorted(concepts, concept, sorter=order)]
    named, unit_concept = np.unique(batch["unit_concept_id"].astype(np.int64), return_inverse=True)
    spelt, unit_word = np.unique(batch["unit_source_value"].astype(np.str_), return_inverse=True)
    units = [OMOP_UNITS.get(int(number), word) for number in named for word in spelt.tolist()]
    return Records(
        row=rows,
        code=code,
        hour=stays.hours(rows, batch["moment"]),
        value=batch["value"],
        unit=unit_concept * len(spelt) + unit_word,
        units=units,
    )
