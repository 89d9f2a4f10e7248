"""What events cost together: epsilon for a delta, by privacy loss distributions.

The unit is one patient with all records, added or removed, or whatever else the events' sums are over. Every value errs upwards: the
distribution is discretised so that it dominates the true one (Doroshenko et al. 2022,
arXiv 2207.04380). That costs less than 0.1 % of epsilon, and more only where a step loses less
than a thousandth, as with a noise multiplier a thousand times the sampling rate.

Gaussian noise is accounted as continuous; `privacy.noise` says what its lattice adds.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

from fedhealth.core.errors import SettingError
from fedhealth.core.privacy_event import MOST_TIMES, Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.privacy.gaussian import mu_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedhealth.core.privacy_event import Event

#: How a figure from here is named wherever it is printed.
METHOD = "PLD composition (dp-accounting)"
SMALLEST_DELTA = 1e-10
#: What convolving a step with itself takes off delta by rounding, at most: 2e-17 a step were seen, at a million steps.
ROUNDING = 2.0**-54
#: A grid this many times finer than the typical loss of one step is within 0.1 %.
FINER = 20
#: No grid is coarser than the first, nor, since it would take minutes, finer than the second.
COARSEST, FINEST = 2.0**-8, 2.0**-14
#: A loss beyond this is no bound in earnest, and would take all memory to work out.
MOST = 5000.0
#: How near a solved noise multiplier comes, as a share of itself.
TOLERANCE = 1e-4
#: How much of a target may go to what leaves beside training.
LARGEST_SHARE = 0.95


def epsilon(events: Iterable[Event], delta: float) -> float:
    """The epsilon that holds with `delta` after all the events; infinite after an unbounded one, or in the thousands.

    Infinite too where there are more than ten million steps, or so many that their rounding is as large as
    `delta`: two million at 1e-10.

    Raises:
        SettingError: `delta` is out of range.
    """
    check_delta(delta)
    total = _Total(events)
    if total.is_unbounded:
        return math.inf
    left = delta - ROUNDING * sum(total.sampled.values())
    return _epsilon(tuple(sorted(total.sampled.items())), total.mu, total.width(), left) if left > 0 else math.inf


def rdp_epsilon(events: Iterable[Event], delta: float) -> float:
    """The same by Rényi DP (Mironov 2017, arXiv 1702.07476), for comparison: valid too, and larger.

    Raises:
        SettingError: `delta` is out of range.
    """
    check_delta(delta)
    total = _Total(events)
    if total.is_unbounded:
        return math.inf
    accountant = RdpAccountant()
    for (noise, rate), count in total.sampled.items():
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
    if total.mu:
        accountant.compose(dp_event.GaussianDpEvent(1 / total.mu))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def noise_multiplier(
    *, epsilon_target: float, delta: float, sampling_rate: float, steps: int, beside: tuple[Event, ...] = ()
) -> float:
    """The least noise multiplier, to a ten-thousandth, with which `steps` sampled sums cost at most `epsilon_target`.

    What leaves `beside` them is part of the target. Solved once in a process for the same plan.

    Raises:
        SettingError: a value is out of range, no noise multiplier up to a million is enough, or
            nothing is left of the target for the sums.
    """
    if not 0 < epsilon_target < math.inf:
        raise SettingError(f"`epsilon` must be above 0 and finite, found {epsilon_target}. Try 2.")
    taken = epsilon(beside, delta)
    if taken > LARGEST_SHARE * epsilon_target:
        raise SettingError(
            f"`epsilon` must leave something for training, found {epsilon_target:g} where counts and scores alone cost "
            f"{taken:.3g}. Raise it, or privacy.statistics_noise and evaluation_noise, or evaluate less often."
        )

    def excess(log_noise: float) -> float:
        event = PoissonSampledGaussian(noise_multiplier=math.exp(log_noise), sampling_rate=sampling_rate, count=steps)
        return math.log(min(max(epsilon([event, *beside], delta), 1e-9), 1e9) / epsilon_target)

    # Epsilon falls a little faster than the noise grows, so one step of this length mostly brackets the solution.
    near = math.log(_first_guess(epsilon_target, delta, sampling_rate, steps))
    first = excess(near)
    step = math.copysign(0.01 + min(abs(first), 1.0), first)
    far, last = near + step, excess(near + step)
    while first * last > 0:
        if far > math.log(1e6):
            raise SettingError(
                f"`epsilon` must be reachable with a noise multiplier below a million, found {epsilon_target} over "
                f"{steps} steps. Raise it, or plan fewer steps."
            )
        near, first, step = far, last, 2 * step
        far, last = near + step, excess(near + step)
    found = float(brentq(excess, near, far, xtol=TOLERANCE / 2))
    while excess(found) > 0:
        found += TOLERANCE / 2
    return math.exp(found)


def check_delta(delta: float) -> None:
    """Refuse a delta that is no small chance.

    Raises:
        SettingError: it is not in [1e-10, 1).
    """
    if not SMALLEST_DELTA <= delta < 1:
        raise SettingError(
            f"`delta` must lie in [{SMALLEST_DELTA:g}, 1), found {delta}. Use less than one over the number of patients."
        )


class _Total:
    """Events put together: sampled sums by kind, all others as one Gaussian, for which the squares of 1/noise add."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.sampled: Counter[tuple[float, float]] = Counter()
        self.is_unbounded = False
        squares = []
        for event in events:
            match event:
                case PoissonSampledGaussian() if event.sampling_rate < 1:
                    self.sampled[event.noise_multiplier, event.sampling_rate] += event.count
                case PoissonSampledGaussian() | Gaussian():
                    squares.append(event.count / event.noise_multiplier**2)
                case Unbounded():
                    self.is_unbounded = True
        self.mu = math.sqrt(math.fsum(squares))
        typical = math.fsum(n * _loss(*kind) for kind, n in self.sampled.items()) + self.mu**2 / 2
        largest = max((1 / (2 * noise**2) for noise, _ in self.sampled), default=0.0)
        self.is_unbounded |= max(typical, largest) > MOST or sum(self.sampled.values()) > MOST_TIMES

    def width(self) -> float:
        """The grid's width: a power of two, so that a history that grows keeps finding its distributions cached."""
        steps = sum(self.sampled.values()) + (self.mu > 0)
        squares = math.fsum(n * _square_loss(noise, rate) for (noise, rate), n in self.sampled.items()) + self.mu**2
        if not squares:
            return COARSEST
        return min(COARSEST, max(FINEST, 2.0 ** math.floor(math.log2(math.sqrt(squares / steps) / FINER))))


def _loss(noise: float, rate: float) -> float:
    """One step's typical loss: many small ones with much noise, a rare large one with little."""
    return (rate / noise) ** 2 / 2 + rate * max(0.0, 1 / (2 * noise**2) + math.log(rate))


def _square_loss(noise: float, rate: float) -> float:
    """The same of its square."""
    return (rate / noise) ** 2 + rate * max(0.0, 1 / (2 * noise**2) + math.log(rate)) ** 2


@lru_cache(maxsize=256)
def _epsilon(sampled: tuple[tuple[tuple[float, float], int], ...], mu: float, width: float, delta: float) -> float:
    """Kept, since hospitals of one study mostly have one history."""
    parts = [_composed(noise, rate, count, width) for (noise, rate), count in sampled]
    if mu:
        parts.append(_gaussian(1 / mu, width))
    if not parts:
        return 0.0
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return float(whole.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _composed(noise: float, rate: float, count: int, width: float) -> pld.PrivacyLossDistribution:
    return _sampled(noise, rate, width).self_compose(count)


@lru_cache(maxsize=64)
def _sampled(noise: float, rate: float, width: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=width)


@lru_cache(maxsize=64)
def _gaussian(noise: float, width: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(noise, value_discretization_interval=width)


def _first_guess(epsilon_target: float, delta: float, rate: float, steps: int) -> float:
    """A noise multiplier near the solution, by the central limit of sampled Gaussians.

    Many steps tend to one Gaussian of mu = q sqrt(T (exp(1/σ²) - 1)) (Bu et al. 2020, arXiv
    1911.11607, section 3). It only starts the search.
    """
    return 1 / math.sqrt(math.log1p((mu_of(epsilon_target, delta) / rate) ** 2 / steps))
