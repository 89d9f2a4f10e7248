"""The loss and the risk of a network whose hazard is one for each interval of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.models.over_intervals import OverIntervals


def hazard_loss(network: OverIntervals, score: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """The loss by patient: minus the log likelihood of what each went through, over n.

    A patient goes through every interval up to the event, with the event in the last of them, or
    up to the last that ended before follow-up did. What happens after the last interval is not seen.

    Args:
        network: with the intervals.
        score: [n] mean logits.
        outcome: [n, 3] event, days and stratum (`core.risk_sets.Outcome`).
    """
    logits = network.logits(score.double())
    place = torch.arange(logits.shape[1], device=score.device)
    last = torch.floor(outcome[:, 1] / network.interval_days)[:, None]
    falls_here = (outcome[:, :1] == 1) & (place == last)
    went_through = (place < last) | falls_here
    each = binary_cross_entropy_with_logits(logits, falls_here.double(), reduction="none")
    return torch.where(went_through, each, torch.zeros_like(each)).sum() / len(score)


def risk_by(network: OverIntervals, score: NDArray[np.float64], horizon_days: float) -> NDArray[np.float64]:
    """[n] the probability of an event by the horizon, from mean logits, [n].

    Within an interval the hazard is as even as it can be: a part of it survives by that power.
    After the last interval the last hazard goes on.
    """
    with torch.no_grad():
        # log(1 - hazard) of a logit is minus its softplus.
        survived = -softplus(network.logits(torch.from_numpy(score).double()))
        whole = horizon_days / network.interval_days
        shares = torch.clamp(whole - torch.arange(survived.shape[1]), 0.0, 1.0).double()
        shares[-1] += max(whole - survived.shape[1], 0.0)
        return -torch.expm1(survived @ shares).numpy()
