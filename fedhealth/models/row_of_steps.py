"""Networks over time: a patient's row opened into the columns that have no time and the steps that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable


class OverTime(nn.Module):
    """From [n, static + steps * channels] to [n, 1]: a body reads the steps, a linear head its summary and the rest."""

    def __init__(self, width: int, static: int, steps: int, body: Callable[[int], nn.Module], summary: int) -> None:
        """`body` makes of a number of channels what reads [n, steps, channels] to [n, summary].

        Raises:
            SettingError: a row is not `static` columns and `steps` steps of as many channels each.
        """
        super().__init__()
        across, left = divmod(width - static, steps) if steps > 0 else (0, 1)
        if static < 0 or left or across < 1:
            raise SettingError(
                f"`model.static` and `model.steps` must divide a row of {width} columns, found {static} and {steps}. Set "
                "steps to those of the series, and static to the columns before them."
            )
        self.static, self.steps, self.across = static, steps, across
        self.body = body(across)
        self.head = nn.Linear(summary + static, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1] logits."""
        summary = self.body(self.series(x))
        logit: torch.Tensor = self.head(torch.cat([summary, x[:, : self.static]], dim=1))
        return logit

    def series(self, x: torch.Tensor) -> torch.Tensor:
        """[…, steps, channels] of rows, […, width]."""
        return x[..., self.static :].reshape(*x.shape[:-1], self.steps, self.across)


class Recurrent(nn.Module):
    """The last state of a GRU over the steps."""

    def __init__(self, across: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.cell = nn.GRU(across, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, steps, across] to [n, hidden]."""
        states, _ = self.cell(x)
        last: torch.Tensor = self.dropout(states[:, -1])
        return last


class Convolved(nn.Module):
    """The mean and the greatest over time of two convolutions."""

    def __init__(self, across: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(across, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, steps, across] to [n, 2 * hidden]."""
        found = self.layers(x.transpose(1, 2))
        summary: torch.Tensor = self.dropout(torch.cat([found.mean(dim=2), found.amax(dim=2)], dim=1))
        return summary
