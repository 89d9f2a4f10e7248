"""The task: what is predicted, and how the outcome is read."""

from __future__ import annotations

import math
from typing import Literal

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.settings import settings

#: Days in a unit of time. A year is the Julian one and a month its twelfth.
DAYS = {"days": 1.0, "weeks": 7.0, "months": 365.25 / 12, "years": 365.25}


@settings
class FollowUp:
    """How long each patient was followed: what makes an outcome a time to an event.

    Attributes:
        time: the column of times from the prediction to the event or, without one, to the
            last moment at which the patient is known to have had none.
        unit: of the horizon, and of the column where a hospital's `units` name no other;
            days, weeks, months or years.
        horizon: the time by which a risk is predicted.
    """

    time: str
    unit: str = "days"
    horizon: float

    def __post_init__(self) -> None:
        days_in(self.unit)
        if not 0 < self.horizon < math.inf:
            raise SettingError(
                f"`horizon` must be above 0 {self.unit}, found {self.horizon:g}. Choose the time by which the risk counts."
            )

    @property
    def horizon_days(self) -> float:
        """The horizon in days."""
        return self.horizon * days_in(self.unit)

    @property
    def horizon_title(self) -> str:
        """The horizon in words, such as `365 days`."""
        return f"{self.horizon:g} {self.unit if self.horizon != 1 else self.unit.removesuffix('s')}"


@settings
class Task:
    """An outcome to predict: whether something happens, or with `follow_up` when it does.

    A patient is positive when the outcome column, read as a number, lies above
    `positive_above`. A patient whose outcome is missing is left out. With `follow_up` the
    positive had the event at their time, and the others were censored at theirs.

    A record system has no such column. There `event` says what the outcome is: a `death` or
    a `death_in_stay`, or a `readmission` within `within_days` of going home.
    """

    name: str
    title: str
    outcome: str
    positive_above: float = 0.0
    positive_label: str = "event"
    negative_label: str = "no event"
    follow_up: FollowUp | None = None
    event: Literal["column", "death", "death_in_stay", "readmission"] = "column"
    within_days: int = 30


def days_in(unit: str) -> float:
    """How many days a unit of time has.

    Raises:
        SettingError: it is not one of `DAYS`.
    """
    if unit not in DAYS:
        raise SettingError(f"a time must come in a known unit, found {unit!r}. {did_you_mean(unit, DAYS)}")
    return DAYS[unit]
