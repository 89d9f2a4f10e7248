"""The task: what is predicted, and how the outcome is read."""

from __future__ import annotations

from fedhealth.core.settings import settings


@settings
class Task:
    """A binary outcome to predict.

    A patient is positive when the outcome column, read as a number, lies above
    `positive_above`. A patient whose outcome is missing is left out.
    """

    name: str
    title: str
    outcome: str
    positive_above: float = 0.0
    positive_label: str = "event"
    negative_label: str = "no event"
