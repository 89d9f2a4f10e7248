"""The outcomes a simulated patient can have: one module each, found by its name.

A new task is one more file here that gives what `Outcome` names. One that also gives
`TIMES`, a `Weibull`, is a time to an event, and its terms make the log of the hazard. One that
gives `SERIES` and `STEPS` has a number each step in those of its columns.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol, cast

from fedhealth.core.errors import SettingError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from fedhealth.synthetic.patients import Patients
    from fedhealth.synthetic.physiology import Column
    from fedhealth.synthetic.weibull import Weibull


class Outcome(Protocol):
    """What a module of this folder gives.

    Attributes:
        NAME: the task's name, which is the module's.
        SEVERITY: shift of the latent severity at the time of prediction.
        INTERCEPT: the logit's constant in the average hospital.
        TERMS: how many terms the logit has.
        COLUMNS: the columns this task adds to the table.
    """

    NAME: str
    SEVERITY: float
    INTERCEPT: float
    TERMS: int
    COLUMNS: tuple[str, ...]

    def history(self, patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
        """By name of `COLUMNS`, [n] the column; what has another name is known to the terms and in no record."""

    def terms(self, patients: Patients) -> Iterator[tuple[float, Column]]:
        """Each term of the logit: its coefficient in the average hospital, and [n] its value."""


def times_of(outcome: Outcome) -> Weibull | None:
    """The law of an outcome's times; None where it has none."""
    found: Weibull | None = getattr(outcome, "TIMES", None)
    return found


def series_of(outcome: Outcome) -> dict[str, int]:
    """By column that is a series, how many steps it has."""
    return dict.fromkeys(getattr(outcome, "SERIES", ()), int(getattr(outcome, "STEPS", 0)))


@cache
def outcome_named(task: str) -> Outcome:
    """The outcome of a task.

    Raises:
        SettingError: no outcome has that name.
    """
    known = [module.name for module in iter_modules(__path__)]
    if task not in known:
        raise SettingError(f"a task must have a synthetic outcome, found {task!r}. {did_you_mean(task, known)}")
    return cast("Outcome", import_module(f"{__name__}.{task}"))
