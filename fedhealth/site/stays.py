"""Stays: one a patient, as a record system has them, and what became of the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.table import Quarantined, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.task import Task
    from fedhealth.site.records import Fold

DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S


@dataclass(frozen=True, slots=True)
class Person:
    """Who was there. Moments are seconds since 1970, NaN where unknown; `death` is None while alive.

    `seen_until` is the last moment at which the record system knows of the person.
    """

    birth: float = np.nan
    female: float = np.nan
    death: float | None = None
    seen_until: float = np.nan
    consent: bool = True


@dataclass(frozen=True, slots=True)
class Visit:
    """From when to when a person was in hospital, in seconds since 1970; `end` is NaN while they are."""

    person: str
    name: str
    start: float
    end: float


def moment_of(as_of: date | None) -> float:
    """The end of that day, in seconds since 1970; of today for none."""
    day = as_of or datetime.now(UTC).date()
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + DAY_S


@dataclass(frozen=True, slots=True)
class Stays:
    """The stay of each patient that is predicted from, in the order of their pseudonyms.

    Attributes:
        visits: one a patient.
        people: by pseudonym.
        outcome: [n] by the task's event, NaN where it can't be known.
        days: [n] to the death or to the end of follow-up; None where the task has no follow-up.
        prior: [n] stays that began in the year before.
        quarantine: visits that could not be used.
    """

    visits: tuple[Visit, ...]
    people: Mapping[str, Person]
    outcome: NDArray[np.float64]
    days: NDArray[np.float64] | None
    prior: NDArray[np.float64]
    quarantine: tuple[Quarantined, ...] = ()
    place: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        visits: Iterable[Visit],
        people: Mapping[str, Person],
        task: Task,
        *,
        index: Literal["first", "last"],
        as_of: float,
    ) -> Stays:
        """The first or the last stay of each person, begun by `as_of`, with what came of it.

        A visit without a person, without a beginning, that ends before it begins or begins after
        `as_of` is quarantined.
        """
        _check_event(task)
        by_person: dict[str, list[Visit]] = {}
        quarantine = []
        for visit in visits:
            fault = _fault(visit, people, as_of)
            if fault:
                quarantine.append(Quarantined(f"visit {visit.name}", fault))
            else:
                by_person.setdefault(visit.person, []).append(visit)
        chosen, outcome, days, prior = [], [], [], []
        for name in sorted(by_person, key=_in_order):
            each = sorted(by_person[name], key=lambda visit: (visit.start, _in_order(visit.name)))
            visit = each[0 if index == "first" else -1]
            chosen.append(visit)
            outcome.append(_outcome(task, visit, each, people[name], as_of))
            prior.append(sum(visit.start - 365 * DAY_S <= other.start < visit.start for other in each))
            days.append((_last_seen(visit, people[name], as_of) - visit.start) / DAY_S)
        return cls(
            visits=tuple(chosen),
            people=people,
            outcome=np.array(outcome, dtype=np.float64),
            days=None if task.follow_up is None else np.array(days, dtype=np.float64),
            prior=np.array(prior, dtype=np.float64),
            quarantine=tuple(quarantine),
            place={visit.person: at for at, visit in enumerate(chosen)},
        )

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def starts(self) -> NDArray[np.float64]:
        """[n] when each stay began."""
        return np.array([visit.start for visit in self.visits], dtype=np.float64)

    def hours(self, rows: NDArray[np.int64], moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hours from the beginning of the stays `rows` to the moments; NaN for no stay and after the day of its end.

        What came after a stay may follow from its outcome.
        """
        starts = np.append(self.starts, np.nan)[rows]
        last = np.array([*(_day(visit.end) + 1 for visit in self.visits), np.nan])[rows] * DAY_S
        return np.where(moments >= last, np.nan, moments - starts) / 3600

    def table(self, spec: FeatureSpec, fold: Fold, known: Mapping[str, NDArray[np.float64]]) -> Table:
        """The table of these patients.

        Args:
            spec: names the columns.
            fold: has what records say.
            known: by feature whose origin is a condition, [n] whether it was known.
        """
        people = [self.people[visit.person] for visit in self.visits]
        columns: dict[str, NDArray[np.float64] | NDArray[np.object_]] = {}
        for feature in spec.features:
            if feature.origin == "age":
                births = np.array([person.birth for person in people])
                columns[feature.name] = np.floor((self.starts - births) / YEAR_S)
            elif feature.origin == "female":
                columns[feature.name] = np.array([person.female for person in people])
            elif feature.origin == "prior_stays":
                columns[feature.name] = self.prior
            elif feature.origin == "stay_days":
                columns[feature.name] = np.array([_day(visit.end) - _day(visit.start) for visit in self.visits])
            elif feature.name in known:
                columns[feature.name] = known[feature.name]
            elif feature.kind == "categorical":
                columns[feature.name] = np.full(len(self), None, dtype=object)
            else:
                columns[feature.name] = fold.column(feature)
        return Table(
            patients=np.array([visit.person for visit in self.visits], dtype=np.str_),
            columns=columns,
            outcome=self.outcome,
            consent=np.array([person.consent for person in people], dtype=np.bool_),
            days=self.days,
            in_spec_units=True,
            quarantine=self.quarantine,
            records=fold.passed_over,
            samples=fold.samples,
        )


def _check_event(task: Task) -> None:
    if task.event == "column":
        raise SettingError(
            f"task {task.name} must say by `event` what its outcome is where a record system is read, found a column. "
            "Write event: death_in_stay, death or readmission, or export a table."
        )
    if (task.event == "death") != (task.follow_up is not None):
        raise SettingError(
            f"task {task.name} must have a follow_up where its event is a death and nowhere else, found event "
            f"{task.event} {'with' if task.follow_up else 'without'} one. Correct configs/task/{task.name}.yaml."
        )


def _in_order(name: str) -> tuple[int, str]:
    """Numbers by size and before words."""
    return (int(name), "") if name.isascii() and name.isdecimal() else (1 << 62, name)


def _fault(visit: Visit, people: Mapping[str, Person], as_of: float) -> str:
    """Why a visit can't be used; empty where it can."""
    if visit.person not in people:
        return "visit_without_patient"
    if np.isnan(visit.start):
        return "visit_without_start"
    if visit.start > as_of:
        return "date_in_future"
    return "visit_ends_before_start" if visit.end < visit.start else ""


def _outcome(task: Task, visit: Visit, each: list[Visit], person: Person, as_of: float) -> float:
    """1 where the task's event came, 0 where it did not, NaN where nobody can know yet."""
    if person.death is not None and not person.death <= as_of:
        return np.nan  # dated in the future, or known without its day
    if task.event == "death":
        return float(person.death is not None)
    if np.isnan(visit.end):
        return np.nan
    # A death is often dated by the day alone, and then lies before the hour of the visit's end and its start.
    died_inside = person.death is not None and _day(visit.start) <= _day(person.death) <= _day(visit.end)
    if task.event == "death_in_stay":
        return float(died_inside)
    until = visit.end + task.within_days * DAY_S
    if died_inside:
        return np.nan
    if any(visit.end < other.start <= until for other in each):
        return 1.0
    return 0.0 if until <= as_of else np.nan


def _last_seen(visit: Visit, person: Person, as_of: float) -> float:
    """The death, or the last moment at which the person is known to have lived."""
    if person.death is not None:
        return max(person.death, visit.start)
    known = [moment for moment in (visit.end, person.seen_until, visit.start) if not np.isnan(moment)]
    return min(max(known), as_of)


def _day(moment: float) -> float:
    return moment // DAY_S
