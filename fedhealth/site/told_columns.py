"""Told columns: what a hospital told in tables without noise, so that no second table can be subtracted from the first.

Two tables of one column, one of them with a patient more, or cut at another place, or beside
another column, give by their difference what neither shows: often one patient. So do two tables
beside one column, whose totals over their rows are that column's. So without noise a column is cut
in one way, of one set of patients with the same values, and the rows of one table, over all studies.
The same table again is the same answer, and allowed; all else is refused, and may be asked with
noise, where every answer is charged.

Where of some row a few patients have no value in the column beside, they follow once another table
tells how many the row is of. So such a column is not told beside another as well, in either order.

A column is known by all that it is read from, and not by its name: two features of one record, over
two windows or with two names, are one. A code that stands for another beneath it is not known to.

What is kept is, by name and code, a hash of the column's cells, one of the patients' values in it, and
one of the table whose rows it is. They lie beside the privacy ledger, whose place outlives studies. Whoever
deletes the file has the hospital forget. It knows of exact tables alone, not of what training or scores gave away.
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
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.study import Study
    from fedhealth.evaluation.tables import Axis, OneTable, TableLayout
    from fedhealth.site.cohort import Cohort


@dataclass(frozen=True, slots=True)
class Column:
    """What was told of one column.

    Attributes:
        cells: a hash of how it is cut.
        values: a hash of who is counted, and what they have in it.
        rows: a hash of the table whose rows it is; empty for none.
        is_beside: whether it stands beside another, whose table then gives its totals.
        has_few: whether few patients of one of its rows have no value in the column beside.
    """

    cells: str
    values: str
    rows: str
    is_beside: bool
    has_few: bool

    def joined(self, asked: Column, name: str) -> Column:
        """What is told of it once `asked` is, too.

        Raises:
            Refused: that would be of others, or in another table.
        """
        found = Column(
            asked.cells, asked.values, self.rows or asked.rows,
            self.is_beside or asked.is_beside, self.has_few or asked.has_few,
        )  # fmt: skip
        if self.values != asked.values:
            why = "told of other patients or values"
        elif self.cells != asked.cells or (asked.rows and found.rows != asked.rows):
            why = "told in another table"
        elif found.is_beside and found.has_few:
            why = "told beside another, whose table tells how many each row is of and so how few of it have no value"
        else:
            return found
        raise Refused(
            "told_before",
            rule="without noise a column must be told in one table and of one set of patients",
            found=f"{name} {why}",
            remedy="Ask for the same table of the same patients, or with --epsilon.",
        )


FIELDS = frozenset(asdict(Column("", "", "", is_beside=False, has_few=False)))


@dataclass(frozen=True, slots=True)
class ToldColumns:
    """The file of one hospital."""

    path: Path

    def admit(self, layout: TableLayout, cohort: Cohort, *, reads: Mapping[str, Iterable[str]], floor: int) -> None:
        """Note that these tables are told of this cohort; from here on no others of their columns are.

        Args:
            layout: of the tables.
            cohort: of the hospital.
            reads: by column, what it is read from (`reads_of`).
            floor: the least number of patients of a cell.

        Raises:
            Refused: one of the columns was told otherwise before. Nothing is noted.
            IntegrityError: the file is not as it was written.
        """
        everyone = cohort.everyone
        rows = {table.column: table for table in layout.tables}
        beside = {axis.column for table in layout.tables for axis in table.axes[1:]}
        axes = {axis.column: axis for table in layout.tables for axis in table.axes}
        with self._alone():
            told = self._read()
            for name, axis in axes.items():
                table = rows.get(name)
                has_few = table is not None and table.holds_few(
                    everyone.columns, everyone.y, everyone.days, floor=floor
                )
                asked = Column(
                    _cells(axis), _values(axis, cohort), _table(table) if table else "", name in beside, has_few
                )
                for word in reads[name]:
                    told[word] = told.get(word, asked).joined(asked, name)
            write_private(self.path, canonical({word: asdict(column) for word, column in told.items()}).encode())

    def _read(self) -> dict[str, Column]:
        if not self.path.exists():
            return {}
        try:
            found = json.loads(self.path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(
            isinstance(one, dict) and set(one) == FIELDS for one in found.values()
        ):
            raise IntegrityError(
                f"{self.path} must be as it was written, found no record of told columns in it. Put back a copy."
            )
        return {word: Column(**column) for word, column in found.items()}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process reads and writes the file; a lock ends with its holder."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = self.path.with_suffix(".lock")
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def reads_of(study: Study, manifest: SiteManifest) -> dict[str, frozenset[str]]:
    """By column of a study's tables, what it is read from at a hospital: names and codes, the study's and its own.

    An outcome and its times are also known by the event that a record system is asked for.
    """
    task = study.task
    event = () if task.event == "column" else (task.event,)
    found = {feature.name: feature.reads for feature in study.features.features}
    found[task.outcome] = frozenset({task.outcome, *event})
    if task.follow_up is not None:
        found[task.follow_up.time] = frozenset({task.follow_up.time, *(f"time to {word}" for word in event)})
    return {name: frozenset(filter(None, words | _local(words, manifest))) for name, words in found.items()}


def _local(words: frozenset[str], manifest: SiteManifest) -> set[str]:
    """The hospital's own codes of these names: a column of its table, or codes that a bar parts."""
    own = [manifest.codes[word] for word in words if word in manifest.codes]
    return {*own, *(part.strip() for code in own for part in code.split("|"))}


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
