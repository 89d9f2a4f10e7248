"""A measure: a number, how sure it is, and by which method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95 % confidence interval.

    A value that can't be estimated (one class only, nobody in a group) is NaN, with the
    reason in `note`; it is never 0.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    method: str = ""
    note: str = ""

    @property
    def is_estimable(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; NaN becomes null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{key: None if math.isnan(x) else x for key, x in numbers.items()},
            "method": self.method,
            "note": self.note,
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> Measure:
        """The inverse of `to_json`."""
        numbers = {key: math.nan if found[key] is None else float(found[key]) for key in ("value", "low", "high")}
        return Measure(**numbers, method=found["method"], note=found["note"])

    def __str__(self) -> str:
        if not self.is_estimable:
            return "not estimable"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def not_estimable(note: str) -> Measure:
    """The measure that has no value, and why."""
    return Measure(math.nan, note=note)
