"""CSV: one row a patient, one column a variable, one file a hospital."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.settings import settings
from fedhealth.core.split import PARTS
from fedhealth.core.table import Table
from fedhealth.core.task import days_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.task import Task

CHUNK_ROWS = 65_536
YES = ("1", "true", "yes", "y")


@settings
class CsvSource:
    """A CSV file in UTF-8, read chunk by chunk.

    Attributes:
        path: from the hospital's folder, or from an environment variable: `${NAME}/…`.
        delimiter: one character.
        header: the columns' names, for a file whose first row is already a patient.
        missing: cells that mean "no value", whatever the column.
        patient: the column of pseudonyms; empty numbers the rows, which is stable only
            while the file is.
        split: the column that says train, validation or test; empty splits by hash.
        consent: the column that says 1, true, yes or y where the patient allows research
            use, anything else being a no; empty where all do.
    """

    path: str = field(metadata={"example": "patients.csv"})
    delimiter: str = ","
    header: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("",)
    patient: str = ""
    split: str = ""
    consent: str = ""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise SettingError(f"`delimiter` must be one character, found {self.delimiter!r}. Try ',' or ';'.")

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a file draws nothing)
        """The file's patients; a variable's column has the local name in the manifest's `codes`, or its own.

        Raises:
            DataError: the file is missing, empty or no CSV; a column is missing; a row has
                too few or too many cells, or no pseudonym; a split has another name.
        """
        try:
            return self._table(self._file(folder), spec, task, manifest)
        except OSError as error:
            raise DataError(
                f"source.path of {folder.name} must name a readable file, found {error.strerror}. "
                "Correct the path or the rights."
            ) from None

    def check(self, folder: Path) -> str:
        """What is there, in words; no patient is read.

        Raises:
            DataError: the file is missing, or can't be read.
        """
        try:
            with self._file(folder).open("rb") as file:
                file.read(1)
        except OSError as error:
            raise DataError(
                f"source.path of {folder.name} must name a readable file, found {error.strerror}. "
                "Correct the path or the rights."
            ) from None
        return "csv, its file can be read"

    def _table(self, path: Path, spec: FeatureSpec, task: Task, manifest: SiteManifest) -> Table:
        follow_up = task.follow_up
        outcomes = (task.outcome,) if follow_up is None else (task.outcome, follow_up.time)
        local = {name: manifest.codes.get(name, name) for name in (*outcomes, *spec.names)}
        own = {"source.patient": self.patient, "source.split": self.split, "source.consent": self.consent}
        local |= {name: column for name, column in own.items() if column}
        numeric = {*outcomes, *(feature.name for feature in spec.features if feature.kind != "categorical")}
        numbers, words = self._columns(path, local, numeric)
        outcome = numbers[task.outcome]
        n = len(outcome)
        patients = words.get("source.patient", np.array([f"row-{i}" for i in range(n)], dtype=object))
        if nameless := sum(patient is None for patient in patients):
            raise DataError(
                f"{path}: each patient must have a pseudonym, found {nameless} of {n} rows without. "
                "Fill the column in, or remove source.patient from site.yaml."
            )
        consent = words.get("source.consent", np.full(n, YES[0], dtype=object))
        return Table(
            patients=patients.astype(np.str_),
            columns={name: numbers[name] if name in numeric else words[name] for name in spec.names},
            outcome=np.where(np.isfinite(outcome), outcome > task.positive_above, np.nan),
            consent=np.array([str(word).lower() in YES for word in consent], dtype=np.bool_),
            split=_checked_split(words["source.split"], path) if self.split else None,
            days=None
            if follow_up is None
            else numbers[follow_up.time] * days_in(manifest.units.get(follow_up.time, follow_up.unit)),
        )

    def _file(self, folder: Path) -> Path:
        """The file's path, with a leading environment variable filled in."""
        root, path = folder, self.path
        if variable := re.match(r"\$\{(\w+)\}/?", path):
            value, path = os.environ.get(variable[1]), path[variable.end() :]
            if not value:
                raise DataError(
                    f"the data of {folder.name} must be under {variable[1]}, found that variable unset. "
                    f"Set it to the folder that holds {path}."
                )
            root = Path(value)
        file = root / path
        if not file.is_file():
            raise DataError(f"source.path of {folder.name} must name a file, found none at {file}. Correct the path.")
        return file

    def _columns(
        self, path: Path, local: dict[str, str], numeric: set[str]
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.object_]]]:
        """The columns of numbers and the columns of words, by variable, each [n]."""
        numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in local if name in numeric}
        words: dict[str, list[NDArray[np.object_]]] = {name: [] for name in local if name not in numeric}
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(csv.reader(file, delimiter=self.delimiter, strict=True), path)
            header = [name.strip() for name in list(self.header) or next(rows, [])]
            places = _places(header, local, path)
            complete = _complete(rows, len(header), path)
            while chunk := list(islice(complete, CHUNK_ROWS)):
                cells = list(zip(*chunk, strict=True))  # by column
                for name, parts in numbers.items():
                    parts.append(self._numbers(cells[places[name]]))
                for name, texts in words.items():
                    texts.append(self._words(cells[places[name]]))
        if not next(iter(numbers.values())):
            raise DataError(f"{path} must hold patients, found a header and no row. Export the table again.")
        return (
            {name: np.concatenate(parts) for name, parts in numbers.items()},
            {name: np.concatenate(texts) for name, texts in words.items()},
        )

    def _numbers(self, cells: Iterable[str]) -> NDArray[np.float64]:
        """The cells as numbers, [n]: NaN where missing, infinite where a cell holds something else."""
        return np.array([np.nan if (cell := raw.strip()) in self.missing else _number(cell) for raw in cells])

    def _words(self, cells: Iterable[str]) -> NDArray[np.object_]:
        """The cells as words, [n]: None where missing."""
        return np.array([None if (cell := raw.strip()) in self.missing else cell for raw in cells], dtype=object)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.inf


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """The rows that are not blank."""
    try:
        yield from (cells for cells in reader if cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be CSV in UTF-8, found a {type(error).__name__}. Export it again.") from None


def _complete(rows: Iterator[list[str]], width: int, path: Path) -> Iterator[list[str]]:
    """The rows, each with as many cells as the header: a row that lacks one has its values under wrong names."""
    for place, cells in enumerate(rows, start=1):
        if len(cells) != width:
            raise DataError(
                f"{path}: each row must have {width} cells, found {len(cells)} in row {place}. Quote or export it again."
            )
        yield cells


def _places(header: list[str], local: dict[str, str], path: Path) -> dict[str, int]:
    """Where each variable's column stands."""
    if not header:
        raise DataError(f"{path} must hold patients, found an empty file. Export the table again.")
    # A file without a header would show its first patient wherever the names are listed.
    numbers = sum(np.isfinite(_number(name)) for name in header)
    if numbers:
        raise DataError(
            f"{path} must begin with the names of its columns, found {numbers} that are numbers. "
            "Add a header to the file, or name the columns under source.header in site.yaml."
        )
    for name, column in local.items():
        if header.count(column) != 1:
            remedy = f"Correct {name}" if name.startswith("source.") else f"Add `{name}: <its column>` under codes"
            raise DataError(
                f"{path} must have one column {column!r} for {name}, found {header.count(column)}. "
                f"{remedy} in site.yaml. {did_you_mean(column, header)}"
            )
    return {name: header.index(column) for name, column in local.items()}


def _checked_split(words: NDArray[np.object_], path: Path) -> NDArray[np.str_]:
    wrong = sum(word not in PARTS for word in words)
    if wrong:
        raise DataError(
            f"{path}: the split column must say one of {', '.join(PARTS)}, found {wrong} of {len(words)} rows that "
            "don't. Correct them, or remove source.split from site.yaml."
        )
    return words.astype(np.str_)
