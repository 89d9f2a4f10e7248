"""A gated recurrent network over a patient's hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Gru:
    """A GRU (Cho 2014, arXiv:1406.1078) whose last state, with the columns that have no time, gives the logit.

    Attributes:
        steps: of the series, which stand at the end of a row.
        static: columns before them.
        hidden: units of the state.
        dropout: the share of the state that is dropped in training.
    """

    learns: ClassVar[Literal["event", "time to event"]] = "event"

    steps: int = 1
    static: int = 0
    hidden: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 <= self.dropout < 1:
            raise SettingError(
                f"`hidden` must be at least 1 and `dropout` in [0, 1), found {self.hidden} and {self.dropout}. Try 32 and 0."
            )

    @property
    def narrowest(self) -> int:
        """The columns of a row with one channel."""
        return self.static + self.steps

    def network(self, width: int) -> nn.Module:
        """The layers from [n, width] to [n, 1] logits, in torch's own initialisation.

        Raises:
            SettingError: the width is not that of `static` columns and `steps` steps.
        """
        from fedhealth.models.row_of_steps import OverTime, Recurrent

        def body(across: int) -> nn.Module:
            return Recurrent(across, self.hidden, self.dropout)

        return OverTime(width, self.static, self.steps, body, self.hidden)
