"""CSV: one row a patient, one column a variable, one file a hospital."""

from __future__ import annotations

import csv
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.settings import settings
from fedhealth.site.files import allowed
from fedhealth.site.wide import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task

CHUNK_ROWS = 65_536


@settings
class CsvSource:
    """A CSV file in UTF-8, read chunk by chunk.

    Attributes:
        path: from the hospital's folder, or from an environment variable: `${NAME}/…`; and not out of it.
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
        wanted = Wanted.by(spec, task, manifest, patient=self.patient, split=self.split, consent=self.consent)
        path = allowed(folder, self.path, manifest)
        try:
            numbers, words = self._columns(path, wanted)
        except OSError as error:
            raise DataError(
                f"source.path of {folder.name} must name a readable file, found {error.strerror}. "
                "Correct the path or the rights."
            ) from None
        return wanted.table(numbers, words, path)

    def _columns(
        self, path: Path, wanted: Wanted
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.object_]]]:
        """The columns of numbers and the columns of words, by variable, each [n]."""
        local = wanted.local
        numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in local if name in wanted.numeric}
        words: dict[str, list[NDArray[np.object_]]] = {name: [] for name in local if name not in wanted.numeric}
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(csv.reader(file, delimiter=self.delimiter, strict=True), path)
            header = [name.strip() for name in list(self.header) or next(rows, [])]
            places = _places(header, wanted, path)
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


def _places(header: list[str], wanted: Wanted, path: Path) -> dict[str, int]:
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
    wanted.check(header, path)
    return {name: header.index(column) for name, column in wanted.local.items()}
