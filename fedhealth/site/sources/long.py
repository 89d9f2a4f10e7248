"""Long tables: one row a measurement (whose, when, what, how much), and a table of outcomes beside it."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.settings import settings
from fedhealth.core.table import Quarantined
from fedhealth.site import duck
from fedhealth.site.files import allowed
from fedhealth.site.records import Fold, Records, local_codes
from fedhealth.site.wide import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task

HOURS = {"seconds": 1 / 3600, "minutes": 1 / 60, "hours": 1.0, "days": 24.0}


@settings
class LongSource:
    """A long table in CSV or Parquet, plain or gzipped, and the outcomes of its records.

    A parameter has the name in the manifest's `codes`, or its feature's own.

    Attributes:
        path: the measurements, from the hospital's folder or from an environment variable.
        outcomes: one row a record.
        record: the measurements' column that says whose.
        outcome_record: the outcomes' column that does; empty for the same name.
        time: the column of times since the stay began.
        time_unit: seconds, minutes, hours or days.
        parameter: the column that says what was measured.
        value: the column of values.
        unit: the column of units; empty where each feature has one, the manifest's or the spec's.
        missing: values that mean there is none.
        only: by parameter, the value that a record must have to be one of this hospital's.
        split: as of a CSV file, in the outcomes.
        consent: as of a CSV file, in the outcomes.
    """

    path: str = field(metadata={"example": "measurements.csv"})
    outcomes: str = field(metadata={"example": "outcomes.csv"})
    record: str = "record"
    outcome_record: str = ""
    time: str = "minute"
    time_unit: Literal["seconds", "minutes", "hours", "days"] = "minutes"
    parameter: str = "parameter"
    value: str = "value"
    unit: str = ""
    missing: tuple[float, ...] = ()
    only: dict[str, float] = field(default_factory=dict)
    split: str = ""
    consent: str = ""

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a file draws nothing)
        """The records as patients, in the order of the outcomes.

        Raises:
            DataError: a file is missing, empty or no table; a column is missing; a record has two outcomes.
            SettingError: DuckDB is not installed, or a categorical feature is asked for.
        """
        if words := [feature.name for feature in spec.features if feature.kind == "categorical"]:
            raise SettingError(
                f"a feature of a long table must be a number, found {words[0]} categorical. Use kind: binary, once a level."
            )
        path, outcomes = allowed(folder, self.path, manifest), allowed(folder, self.outcomes, manifest)
        wanted = Wanted.by(
            spec, task, manifest,
            patient=self.outcome_record or self.record, split=self.split, consent=self.consent, with_features=False,
        )  # fmt: skip
        own = {feature.name: local_codes(manifest, feature) for feature in spec.features}
        codes = {each.name: own[each.name] or (each.record or each.name,) for each in spec.features}
        codes |= {name: () for name, found in own.items() if found == ()}
        with duck.opened() as connection:
            self._check(list(duck.columns(connection, path)), path)
            wanted.check(list(duck.columns(connection, outcomes)), outcomes)
            numbers, words_found = duck.wide(connection, outcomes, wanted.local, wanted.numeric, ("",))
            if self.only:
                mine = self._mine(connection, path, words_found["source.patient"])
                numbers = {name: column[mine] for name, column in numbers.items()}
                words_found = {name: column[mine] for name, column in words_found.items()}
            records = words_found["source.patient"]
            if not len(records):
                raise DataError(f"{outcomes} must hold records of this hospital, found none. Correct source.only.")
            fold = Fold(spec.features, codes, manifest, len(records))
            lost = 0
            for batch, unmatched in self._records(connection, path, records, fold):
                lost += unmatched
                fold.add(batch)
        table = wanted.table(numbers, words_found, outcomes, {each.name: fold.column(each) for each in spec.features})
        quarantine = (Quarantined(f"{path.name}: {lost} rows", "record_without_outcome"),) if lost else ()
        return replace(table, in_spec_units=True, quarantine=quarantine, records=fold.passed_over, samples=fold.samples)

    def _check(self, columns: list[str], path: Path) -> None:
        for key in ("record", "time", "parameter", "value", "unit"):
            column = getattr(self, key)
            if column and columns.count(column) != 1:
                raise DataError(
                    f"{path} must have one column {column!r} for source.{key}, found {columns.count(column)}. "
                    f"Correct it in site.yaml. {did_you_mean(column, columns)}"
                )

    def _mine(self, connection: DuckDBPyConnection, path: Path, records: np.ndarray) -> np.ndarray:
        """[n] whether each record has the values that `only` asks for."""
        keep = np.ones(len(records), dtype=np.bool_)
        for parameter, value in self.only.items():
            having: set[str] = set()
            statement = (
                f"select distinct {duck.quoted(self.record)}::varchar as record from {duck.reading(path)} "
                f"where {duck.quoted(self.parameter)} = $1 and {duck.number(self.value)} = $2"
            )
            for batch in duck.batches(connection, statement, [parameter, value]):
                having |= set(batch["record"].tolist())
            keep &= np.array([record in having for record in records], dtype=np.bool_)
        return keep

    def _records(
        self, connection: DuckDBPyConnection, path: Path, records: np.ndarray, fold: Fold
    ) -> Iterator[tuple[Records, int]]:
        """The rows of wanted parameters, and how many of each batch are of no record here."""
        import pyarrow as pa

        connection.register("stays", pa.table({"name": records.astype(object), "place": np.arange(len(records))}))
        connection.register("codes", pa.table({"name": list(fold.codes), "place": np.arange(len(fold.codes))}))
        unit = f"{duck.quoted(self.unit)}::varchar" if self.unit else "''"
        # Where the table holds others' records too, those are nobody's fault and need not be read.
        statement = (
            "select coalesce(stays.place, -1) as row, codes.place as code, "
            f"{duck.number(self.time)} as time, {duck.number(self.value)} as value, {unit} as unit "
            f"from {duck.reading(path)} as found join codes on codes.name = found.{duck.quoted(self.parameter)} "
            f"{'' if self.only else 'left '}join stays on stays.name = found.{duck.quoted(self.record)}::varchar"
        )
        for batch in duck.batches(connection, statement):
            value = batch["value"].astype(np.float64)
            units, places = (None, ()) if not self.unit else _places(batch["unit"])
            row = batch["row"].astype(np.int64)
            yield (
                Records(
                    row=row,
                    code=batch["code"].astype(np.int64),
                    hour=batch["time"] * HOURS[self.time_unit],
                    value=np.where(np.isin(value, self.missing), np.nan, value),
                    unit=units,
                    units=places,
                ),
                int((row < 0).sum()),
            )


def _places(units: np.ndarray) -> tuple[np.ndarray, list[str]]:
    words, places = np.unique(np.array([unit or "" for unit in units], dtype=np.str_), return_inverse=True)
    return places.astype(np.int64), words.tolist()
