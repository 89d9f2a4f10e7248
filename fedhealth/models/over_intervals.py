"""A network whose hazard has a logit of its own in each interval of time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class OverIntervals(nn.Module):
    """From [n, width] to [n, 1], a patient's mean logit over the intervals; `logits` spreads it over them."""

    def __init__(self, width: int, hidden: tuple[int, ...], intervals: int, interval_days: float) -> None:
        super().__init__()
        self.interval_days = interval_days
        self.baseline = nn.Parameter(torch.full((intervals,), -3.0))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((width, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.score = nn.Sequential(*layers, nn.Linear((width, *hidden)[-1], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1] mean logits."""
        score: torch.Tensor = self.score(x) + self.baseline.mean()
        return score

    def logits(self, mean: torch.Tensor) -> torch.Tensor:
        """[n, intervals] the logits of the hazards, from the mean ones, [n]."""
        return mean[:, None] + (self.baseline - self.baseline.mean())
