"""Risk sets: who could have had each event when it happened, and the likelihood they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

#: [n] 0 or 1; or for a time to an event [n, 3]: 1 with the event, the time, and the number of the stratum.
Outcome: TypeAlias = NDArray[np.floating]

#: A score lies at most so far below the highest: exp of less is 0, and a risk set of such patients would be nobody.
LOWEST = -700.0


@dataclass(frozen=True, slots=True)
class RiskSets:
    """The events of one stratum, each with those at risk of it, by Efron's way with ties.

    The negative log partial likelihood of scores s is the sum over events e of
    log(R_e - f_e D_e) - s_e, with R_e the sum of exp(s) over those at risk, who are in
    follow-up at that time or later, and D_e that over those with an event at the same
    time (Efron 1977, doi:10.1080/01621459.1977.10480613). The k-th of d tied events, from
    0, has f = k / d. Without ties it is Cox's (1975, doi:10.1093/biomet/62.2.269).

    Attributes:
        order: [n] the patients' rows by falling time.
        events: [e] the rows of those with the event, by falling time.
        at_risk: [e] how many of `order` are at risk of each.
        tied: [e] the number of the event's time, counted from 0.
        share: [e] the f of each event.
    """

    order: NDArray[np.int64]
    events: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    tied: NDArray[np.int64]
    share: NDArray[np.float64]

    @classmethod
    def of(cls, event: NDArray[np.generic], time: NDArray[np.floating]) -> RiskSets:
        """The risk sets of [n] patients of one stratum."""
        order = np.argsort(-time, kind="stable")
        events = order[np.asarray(event)[order] == 1]
        at_risk = np.searchsorted(-time[order], -time[events], side="right")
        _, first, tied, count = np.unique(-time[events], return_index=True, return_inverse=True, return_counts=True)
        share = (np.arange(len(events)) - first[tied]) / count[tied]
        return cls(order, events, at_risk, tied, share)

    def denominators(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """[e, …] R_e - f_e D_e for [n, …] weights of the patients, exp(s) or exp(s) times something."""
        through = np.cumsum(weight[self.order], axis=0)[self.at_risk - 1]
        dead = np.zeros_like(weight, shape=(len(self.events), *weight.shape[1:]))
        np.add.at(dead, self.tied, weight[self.events])
        share = self.share.reshape(-1, *[1] * (weight.ndim - 1))
        return through - share * dead[self.tied]

    def hazard(self, denominators: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n] for each patient the sum of 1 / denominator over the events they were at risk of, ties by Efron's share."""
        n, step = len(self.order), 1 / denominators
        # Whoever stands at place k of `order` is at risk of every event whose risk set reaches beyond k.
        at_place = np.bincount(self.at_risk - 1, weights=step, minlength=n)[::-1].cumsum()[::-1]
        found = np.empty(n)
        found[self.order] = at_place
        own = np.bincount(self.tied, weights=self.share * step, minlength=1)
        found[self.events] -= own[self.tied]
        return found


def strata(outcome: Outcome) -> Iterator[NDArray[np.int64]]:
    """The rows of each stratum of [n, 3] outcomes."""
    for stratum in np.unique(outcome[:, 2]):
        yield np.flatnonzero(outcome[:, 2] == stratum)
