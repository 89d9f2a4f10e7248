"""The ledger: what every patient of a hospital has spent, over all studies, kept by the hospital.

One SQLite file, one row an event, written before anything leaves. There is no way to take a
row back: what crashed after its charge is spent. A cohort's events are composed together,
whichever studies they came from. A cohort's name stands for a set of patients, and cohorts
are taken to share nobody: sets that overlap must go by one name. Nor does it know of other
hospitals: a patient of two has spent what both ledgers say, composed.

The cap holds for events that were settled beforehand. Whoever settles a later study by what an
earlier one showed can pass it a little, since each history was judged alone: by 5 % of epsilon
where a Gaussian's outcome decides between two events of equal price. A filter by Rényi bounds has
no such gap (Feldman and Zrnic 2021, arXiv 2008.11193), and charges a settled plan more.

Each row carries the hash of the one before, and a small file beside the ledger, its head, says
how many rows there are and what the last one's hash is. What that finds:

- an edited, deleted, inserted or reordered row, rows missing at the end, a missing ledger or
  head: always, where whoever did it did not also compute the hashes anew;
- where the ledger has a key: also that, since every hash and the head are made with the key.

What it does not find: without a key, someone who writes rows and head anew. With one, a row cut
off that was written just before a crash, when the head had not yet followed; and an older
ledger put back whole with its own older head. Only a copy kept elsewhere tells: `verify`
takes a row's number and hash noted there, the anchor. Deleting ledger and head together looks
like a hospital that never took part, unless there is an anchor.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from fedhealth.core.errors import FedHealthError, Refused, SettingError
from fedhealth.core.privacy_event import as_json, event_from
from fedhealth.core.study import canonical
from fedhealth.privacy.ledger_head import GENESIS, Anchor, Head, broken, draft_of, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fedhealth.core.privacy_event import Event, View
    from fedhealth.privacy.guarantee import Guarantee

log = logging.getLogger(__name__)

#: How long to wait for another process that is charging.
PATIENCE_S = 60.0
#: Why SQLite may fail without anything being wrong with what is stored.
_PASSING = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR",
            "SQLITE_PERM", "SQLITE_NOMEM"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that is to leave.

    Attributes:
        study: the study's name.
        digest: the digest of its config.
        what: what leaves, such as "train" or "query.moments".
        event: the privacy event it is.
        view: from whom the event's guarantee protects.
        cohort: the name of the set of patients it was computed from.
    """

    study: str
    digest: str
    what: str
    event: Event
    view: View
    cohort: str


class Row(NamedTuple):
    """An entry as it is stored: numbered from 1, timed, and tied to the row before."""

    number: int
    study: str
    digest: str
    what: str
    event: str
    view: View
    cohort: str
    at: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """One hospital's ledger.

    Attributes:
        path: the SQLite file; made, with its folder, by the first charge.
        key: what the hashes are made with; whoever lacks it can't write a row that verifies.
            It must be given from the first row on.
        clock: the time of day, with its zone.
    """

    path: Path
    key: bytes | None = field(default=None, repr=False)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def charge(self, entry: Entry, *, epsilon_cap: float, delta: float, most: int | None = None) -> Guarantee:
        """What still holds for the cohort's patients once the entry has left; it is spent from here on.

        Reading, judging and writing is one transaction: of two processes at once the second
        sees what the first has spent. Where the clock has been set back, a row takes the time
        of the row before, and the log says so; no price depends on the time.

        Args:
            entry: what is to leave.
            epsilon_cap: the hospital's bound for a patient over all studies; infinity for none.
            delta: the delta at which the cap is meant.
            most: how often the study may let this out; None for no limit.

        Raises:
            Refused: the cap would be passed, or the study's own plan. Nothing was written.
            IntegrityError: the ledger is not as it was written.
            SettingError: the cap or the delta is out of range.
        """
        from fedhealth.privacy.guarantee import guarantee

        if not epsilon_cap > 0:
            raise SettingError(f"`policy.epsilon_cap` must be above 0, found {epsilon_cap}. Raise it in site.yaml.")
        if not self._exists():
            self._create()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = self._verified(connection)
            past = [row for row in rows if row.cohort == entry.cohort]
            if most is not None and sum((row.digest, row.what) == (entry.digest, entry.what) for row in past) >= most:
                raise _over_the_plan(entry, most)
            events = [*events_of(past), entry.event]
            after = guarantee(events, delta=delta, views=[*(row.view for row in past), entry.view])
            if after.epsilon > epsilon_cap:
                raise _over_the_cap(entry, events_of(past), after, epsilon_cap)
            row = self._row(entry, rows[-1] if rows else None)
            connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(Row._fields))})", row)  # noqa: S608
            # A trigger or a constraint that was put into the file may have undone it without a word.
            columns = ", ".join(Row._fields)
            kept = connection.execute(f"SELECT {columns} FROM events ORDER BY number DESC LIMIT 1").fetchone()  # noqa: S608
            if kept != row:
                raise broken(self.path, f"row {row.number} not kept as it was charged")
            connection.execute("COMMIT")
            # Another process may have added a row since; the head takes the last one, under the lock again.
            connection.execute("BEGIN IMMEDIATE")
            last = connection.execute("SELECT number, hash FROM events ORDER BY number DESC LIMIT 1").fetchone()
            self._head.write(Anchor(*last))
            connection.execute("ROLLBACK")
        return after

    def rows(self) -> list[Row]:
        """Every row in order, after verification; none where nothing was ever charged.

        Raises:
            IntegrityError: the ledger is not as it was written.
        """
        if not self._exists():
            return []
        with self._open() as connection:
            connection.execute("BEGIN")
            return self._verified(connection)

    def verify(self, anchor: Anchor | None = None) -> Anchor | None:
        """The last row's number and hash, once all rows are found to be as they were written; None without rows.

        Args:
            anchor: an earlier answer of this, kept elsewhere; the row must still be there.

        Raises:
            IntegrityError: the ledger is not as it was written.
        """
        rows = self.rows()
        hashes = [GENESIS, *(row.hash for row in rows)]
        if anchor is not None and (len(rows) < anchor.number or hashes[anchor.number] != anchor.hash):
            raise broken(self.path, f"another history than the anchor's row {anchor.number}")
        return Anchor(rows[-1].number, rows[-1].hash) if rows else None

    def spent(self, cohort: str, *, delta: float) -> Guarantee:
        """What holds for a cohort's patients after all that was charged.

        Raises:
            IntegrityError: the ledger is not as it was written.
        """
        from fedhealth.privacy.guarantee import guarantee

        past = [row for row in self.rows() if row.cohort == cohort]
        return guarantee(events_of(past), delta=delta, views=[row.view for row in past])

    @property
    def _head(self) -> Head:
        return Head(self.path, self.key)

    def _exists(self) -> bool:
        if self.path.exists():
            return True
        if not self._head.path.exists() or not self._head.read().number:
            return False
        # Looked for again: another process may have made both in between.
        if not self.path.exists():
            raise broken(self.path, "its head alone")
        return True

    def _create(self) -> None:
        """An empty ledger, after its head; whichever process is first."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._head.begin()
        draft = draft_of(self.path)
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            kinds = ("INTEGER PRIMARY KEY", *["TEXT NOT NULL"] * (len(Row._fields) - 1))
            columns = ", ".join(f"{name} {kind}" for name, kind in zip(Row._fields, kinds, strict=True))
            connection.execute(f"CREATE TABLE events ({columns})")
        place(draft, self.path)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if any(name.startswith(passing) for passing in _PASSING):
                raise FedHealthError(
                    f"the ledger must be readable and writable within {PATIENCE_S:.0f} s, found {error} at {self.path}. "
                    "Free it, or mend its folder's rights or space."
                ) from None
            raise broken(self.path, f"what SQLite can't read ({error})") from None

    def _verified(self, connection: sqlite3.Connection) -> list[Row]:
        # The head first: whatever another process adds after is more than it says, never less.
        head = self._head.read()
        rows: list[Row] = []
        previous, at = GENESIS, ""
        for found in connection.execute(f"SELECT {', '.join(Row._fields)} FROM events ORDER BY number"):  # noqa: S608
            row = Row(*found)
            if row.number != len(rows) + 1:
                raise broken(self.path, f"row {row.number} where row {len(rows) + 1} must stand")
            if not all(isinstance(part, str) for part in found[1:]) or row.hash != self._hash(row):
                raise broken(self.path, f"row {row.number} edited")
            if row.previous != previous or row.at < at:
                raise broken(self.path, f"row {row.number} out of its order")
            rows.append(row)
            previous, at = row.hash, row.at
        if len(rows) < head.number:
            raise broken(self.path, f"{len(rows)} rows where its head counts {head.number}")
        if head.number and rows[head.number - 1].hash != head.hash:
            raise broken(self.path, f"row {head.number} not the one its head names")
        return rows

    def _row(self, entry: Entry, last: Row | None) -> Row:
        now = self.clock().astimezone(UTC).isoformat(timespec="microseconds")
        if last is not None and now < last.at:
            log.warning("the clock was set back: it says %s, the ledger's last row %s", now, last.at)
            now = last.at
        row = Row(
            number=last.number + 1 if last else 1,
            study=entry.study,
            digest=entry.digest,
            what=entry.what,
            event=as_json(entry.event),
            view=entry.view,
            cohort=entry.cohort,
            at=now,
            previous=last.hash if last else GENESIS,
            hash="",
        )
        return row._replace(hash=self._hash(row))

    def _hash(self, row: Row) -> str:
        return self._head.sealed(canonical({"row": row[:-1]}))


def events_of(rows: Sequence[Row]) -> list[Event]:
    """The events of rows, in order."""
    known = {text: event_from(text) for text in {row.event for row in rows}}
    return [known[row.event] for row in rows]


def _over_the_plan(entry: Entry, most: int) -> Refused:
    return Refused(
        "study_spent",
        rule=f"a study must let {entry.what} out as often as its epsilon was worked out for, here {most} times",
        found="one more",
        remedy="End the study here; a request that was cut short counts.",
    )


def _over_the_cap(entry: Entry, past: list[Event], after: Guarantee, epsilon_cap: float) -> Refused:
    from fedhealth.privacy.accountant import epsilon
    from fedhealth.privacy.guarantee import rounded_up

    spent, asked = (rounded_up(epsilon(events, after.delta)) for events in (past, [entry.event]))
    return Refused(
        "budget_spent",
        rule=f"a patient's epsilon must stay within policy.epsilon_cap {epsilon_cap:g} over all studies",
        found=f"{spent} spent and {asked} asked for {entry.what}; together {after}",
        remedy="Ask for more noise or fewer rounds, or raise the cap in site.yaml; what is spent stays spent.",
    )
