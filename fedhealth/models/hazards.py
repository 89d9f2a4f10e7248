"""Discrete-time hazards: a network for when, in intervals, that trains by mini-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.models.mlp import WIDEST

if TYPE_CHECKING:
    from torch import nn


@settings
class Hazards:
    """The chance of the event in each interval of those who reach it, by a network (Gensheimer 2019, doi:10.7717/peerj.6257).

    The logit of a patient's hazard in an interval is the interval's own, one for all hospitals,
    and a score of fully connected layers. Each patient's loss is theirs alone, so hospitals train
    by mini-batches, where Cox's compares patients; in return hospitals share one baseline.

    Attributes:
        hidden: widths of the layers, each followed by a ReLU; none for a linear score.
        intervals: how many; what comes after the last counts as survived.
        interval_days: how long each is.
    """

    learns: ClassVar[Literal["event", "time to event"]] = "time to event"
    #: Whether a patient's loss depends on no other's.
    is_by_patient: ClassVar[bool] = True

    hidden: tuple[int, ...] = (32,)
    intervals: int = 12
    interval_days: float = 30.4375

    def __post_init__(self) -> None:
        if any(not 1 <= width <= WIDEST for width in self.hidden):
            raise SettingError(
                f"`hidden` must list widths of at least 1 and at most {WIDEST:,}, found {list(self.hidden)}. Try [32], or []."
            )
        if self.intervals < 1 or not self.interval_days > 0:
            raise SettingError(
                f"`intervals` and `interval_days` must be above 0, found {self.intervals} and {self.interval_days:g}. "
                "Try 12 of 30.4375 days, a year."
            )

    def network(self, width: int) -> nn.Module:
        """The layers from [n, width] to [n, 1], the mean logit over the intervals."""
        from fedhealth.models.over_intervals import OverIntervals

        return OverIntervals(width, self.hidden, self.intervals, self.interval_days)
