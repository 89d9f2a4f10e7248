"""Logistic regression: one weight a feature, readable by a clinician."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Logistic:
    """Logistic regression, started at zero, where its loss is the same for every seed."""

    learns: ClassVar[Literal["event", "time to event"]] = "event"

    def network(self, width: int) -> nn.Module:
        """A linear layer from [n, width] to [n, 1] logits."""
        import torch

        layer = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        return layer
