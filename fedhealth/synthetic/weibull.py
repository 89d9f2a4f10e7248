"""Times to an event by a Weibull proportional hazards law, and when follow-up ends before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.synthetic.physiology import Column


@settings
class Weibull:
    """The event's time T of a patient with score s: P(T <= t) = 1 - exp(-exp(s) (t / scale)^shape).

    So the hazard of everyone has one shape, and scores multiply it (Bender 2005,
    doi:10.1002/sim.2059). exp(s) is the cumulative hazard at `scale_days`.

    Follow-up ends at a random loss of constant rate, and for everybody on the day when the
    register is read: `open_days` after the last patient of the year came.

    Attributes:
        shape: below 1 where the danger falls with time.
        scale_days: see above.
        lost_a_year: share lost to follow-up in a year.
        open_days: from the last admission to the reading of the register.
    """

    shape: float
    scale_days: float
    lost_a_year: float
    open_days: float

    def risk(self, score: Column, days: float) -> NDArray[np.float64]:
        """[n] the true probability of an event within so many days."""
        return np.asarray(-np.expm1(-np.exp(score.astype(np.float64)) * (days / self.scale_days) ** self.shape))

    def follow(
        self, score: Column, when: Column, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """[n] whether the event was seen, and [n] the whole days until it or the end of follow-up.

        Args:
            score: [n] the log of the cumulative hazard at `scale_days`.
            when: [n] the admission, from -0.5 at the year's beginning to 0.5 at its end.
            rng: draws event and loss.
        """
        n, year = len(score), 365.25
        until = self.scale_days * (rng.standard_exponential(n) / np.exp(score.astype(np.float64))) ** (1 / self.shape)
        lost = rng.standard_exponential(n) * (year / -np.log1p(-self.lost_a_year))
        end = np.minimum(lost, self.open_days + year * (0.5 - when.astype(np.float64)))
        # A death within the first day is of day 1; who is lost on a day was seen through the day before.
        day, last = np.ceil(until), np.floor(end)
        return day <= last, np.minimum(day, last)
