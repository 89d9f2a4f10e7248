"""The negative log partial likelihood as a loss that torch can differentiate."""

from __future__ import annotations

import torch

from fedhealth.core.risk_sets import LOWEST, RiskSets, strata


def partial_likelihood(score: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """The loss by patient, in float64: minus the log partial likelihood over n, Efron's with ties.

    The risk sets are of the patients given. A mini-batch's are smaller than the hospital's,
    and what is minimised then is another function; so a hospital trains on all at once.

    Args:
        score: [n] log hazard ratios.
        outcome: [n, 3] event, time and stratum (`core.risk_sets.Outcome`).
    """
    found, total = outcome.cpu().numpy(), score.new_zeros((), dtype=torch.float64)
    for rows in strata(found):
        sets = RiskSets.of(found[rows, 0], found[rows, 1])
        order, events, at_risk, tied, share = (
            torch.from_numpy(part).to(score.device)
            for part in (sets.order, sets.events, sets.at_risk, sets.tied, sets.share)
        )
        own = score[torch.from_numpy(rows).to(score.device)].double()
        # The largest score is taken off before the exponential and given back after the logarithm.
        top = own.detach().max()
        weight = torch.exp(torch.clamp(own - top, min=LOWEST))
        through = torch.cumsum(weight[order], 0)[at_risk - 1]
        dead = torch.zeros_like(through).index_add(0, tied, weight[events])
        total = total + (torch.log(through - share * dead[tied]) + top - own[events]).sum()
    return total / len(found)
