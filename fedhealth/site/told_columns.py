"""Told columns: what a hospital told in tables without noise, so that no second table can be subtracted from the first.

Two tables of one column, one of them with a patient more, or cut at another place, or beside
another column, give by their difference what neither shows: often one patient. So do two tables
beside one column, whose totals over their rows are that column's. So without noise a column is cut
in one way, of one set of patients with the same values, and the rows of one table, over all studies.
The same table again is the same answer, and allowed; all else is refused, and may be asked with
noise, where every answer is charged.

What is kept is, by column, a hash of its cells, one of the patients' values in it, and one of the table
whose rows it is. They lie beside the privacy ledger, whose place outlives studies. Whoever deletes the
file has the hospital forget. It knows of exact tables alone, not of what training or scores gave away,
and of columns by name: one record under two names is two columns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedhealth.core.errors import IntegrityError, Refused
from fedhealth.core.private_file import OWNER_ONLY, write_private
from fedhealth.core.study import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedhealth.evaluation.tables import Axis, OneTable, TableLayout
    from fedhealth.site.cohort import Cohort

#: What stands for the table of a column that was never rows.
BESIDE = ""


@dataclass(frozen=True, slots=True)
class ToldColumns:
    """The file of one hospital."""

    path: Path

    def admit(self, layout: TableLayout, cohort: Cohort) -> None:
        """Note that these tables are told of this cohort; from here on no others of their columns are.

        Raises:
            Refused: one of the columns was told otherwise before. Nothing is noted.
            IntegrityError: the file is not as it was written.
        """
        tables = {table.column: _table(table) for table in layout.tables}
        axes = {axis.column: axis for table in layout.tables for axis in table.axes}
        with self._alone():
            told = self._read()
            for column, axis in axes.items():
                asked = [_cells(axis), _values(axis, cohort), tables.get(column, BESIDE)]
                before = told.get(column, asked)
                if BESIDE in (before[2], asked[2]):
                    # Its rows were never asked for, or are not now.
                    before, asked = ([*found[:2], max(before[2], asked[2])] for found in (before, asked))
                if before != asked:
                    raise Refused(
                        "told_before",
                        rule="without noise a column must be told in one table and of one set of patients",
                        found=f"{column} told "
                        + ("of other patients or values" if before[1] != asked[1] else "in another table"),
                        remedy="Ask for the same table of the same patients, or with --epsilon.",
                    )
                told[column] = asked
            write_private(self.path, canonical(told).encode())

    def _read(self) -> dict[str, list[str]]:
        if not self.path.exists():
            return {}
        try:
            found = json.loads(self.path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(isinstance(one, list) and len(one) == 3 for one in found.values()):
            raise IntegrityError(
                f"{self.path} must be as it was written, found no record of told columns in it. Put back a copy."
            )
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process reads and writes the file; a lock ends with its holder."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = self.path.with_suffix(".lock")
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _cells(axis: Axis) -> str:
    """A hash of what decides the cells; titles and labels don't."""
    parts = {key: value for key, value in asdict(axis).items() if key not in ("title", "labels")}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def _table(table: OneTable) -> str:
    """A hash of what is told of the rows, beside how each column is cut."""
    parts = {"columns": [axis.column for axis in table.axes], "range": table.range}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def _values(axis: Axis, cohort: Cohort) -> str:
    """A hash of who is counted and what they have in the column, in no order."""
    everyone = cohort.everyone
    columns = [everyone.y.tolist(), [] if everyone.days is None else everyone.days.tolist()]
    columns += [everyone.columns[axis.column].tolist()] if axis.column in everyone.columns else []
    filled = [column for column in columns if column]
    rows = sorted(repr(row) for row in zip(cohort.patients.tolist(), *filled, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
