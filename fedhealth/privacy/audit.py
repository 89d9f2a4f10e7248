"""The audit: does a mechanism do what its guarantee says? Attacks and measurements on what it lets out.

Pure functions from what was observed to a `Finding`. No one of them finds every fault:

| test | sees | does not see |
|---|---|---|
| `sensitivity` | clipping that is missing, too wide, per record or per batch | anything about noise |
| `noise_scale` | noise off by 2 %, in a sum over hospitals too | whether the sum was clipped |
| `repeated_noise` | noise that comes again in a later round | a seed that somebody knows |
| `gaussian_canaries` | the whole run at once, clipping and noise together | faults below its own statistics |
| `guessed_canaries` | gross faults, with no assumption about the mechanism | the rest |

None of them proves privacy, and none sees a generator that can be predicted. A right mechanism
raises an alarm less than once in a million tests, by `guessed_canaries` less than once in a thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from fedhealth.core.errors import SettingError
from fedhealth.privacy.gaussian import epsilon_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How likely a right mechanism raises an alarm, in each test that knows the noise, and in the one that knows nothing.
ERROR, ERROR_OF_GUESSES = 1e-6, 1e-3
#: The share by which a noise or a sensitivity may be off before it alarms.
TOLERANCE = 0.01
#: With fewer coordinates a right noise would seem off by `TOLERANCE` too often, and one off by twice that pass.
FEWEST = 150_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test measured, and the most that a right mechanism shows."""

    test: str
    measured: float
    allowed: float

    @property
    def is_alarm(self) -> bool:
        """Whether the mechanism breaks its guarantee; what can't be measured does."""
        return not self.measured <= self.allowed

    def __str__(self) -> str:
        verdict = "ALARM" if self.is_alarm else "passes"
        return f"{self.test}: {verdict}, measured {self.measured:.4g}, allowed {self.allowed:.4g}"


def sensitivity(with_patient: NDArray[np.floating], without: NDArray[np.floating], *, bound: float) -> Finding:
    """How far one patient moves the sum before noise, over how far it may.

    Args:
        with_patient: [pairs, d] sums without noise, each with a patient more than its partner; the patients
            should be the worst there can be (see `worst_patients`).
        without: [pairs, d] the same sums without that patient.
        bound: the L2 sensitivity that the noise was made for.
    """
    moved = np.linalg.norm(with_patient.astype(np.float64) - without, axis=1)
    return Finding("sensitivity", float(moved.max()) / bound, 1 + TOLERANCE)


def worst_patients(d: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Gradients [records, d] of patients for whom a wrong clip shows: huge, tiny, many records, all pulling one way."""
    patients = []
    for records in (1, 8, 100):
        for size in (1e-3, 1.0, 1e6):
            one = rng.standard_normal(d)
            same = np.broadcast_to(one, (records, d))
            patients += [size * same, size * rng.standard_normal((records, d))]
    return patients


def noise_scale(noise: NDArray[np.floating], *, expected: float) -> Finding:
    """How far the noise's standard deviation is off, as a share.

    Args:
        noise: at least 150,000 coordinates of what leaves for a sum of zeros.
        expected: the standard deviation that the guarantee was worked out for.

    Raises:
        SettingError: there are too few coordinates to tell 2 % from nothing.
    """
    if noise.size < FEWEST:
        raise SettingError(
            f"a noise's scale must be measured on at least {FEWEST:,} coordinates, found {noise.size:,}. Draw more rounds."
        )
    spread = math.sqrt(float(np.square(noise, dtype=np.float64).mean()))
    return Finding("noise scale", abs(spread / expected - 1), TOLERANCE)


def repeated_noise(noise: NDArray[np.floating]) -> Finding:
    """The largest correlation between any two rounds' noise, in standard errors.

    Args:
        noise: [rounds, d] what leaves for sums of zeros, round by round.

    Raises:
        SettingError: there is one round only.
    """
    rounds, d = noise.shape
    if rounds < 2:
        raise SettingError(f"noise may repeat over 2 rounds or more, found {rounds}. Draw more.")
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    allowed = float(norm.isf(ERROR / (rounds * (rounds - 1))))
    if not lengths.all():
        return Finding("repeated noise", math.inf, allowed)
    each = noise / lengths
    alike = np.abs(each @ each.T)[np.triu_indices(rounds, 1)] * math.sqrt(d)
    return Finding("repeated noise", float(alike.max()), allowed)


def gaussian_canaries(
    scores: NDArray[np.floating], included: NDArray[np.bool_], *, epsilon: float, delta: float
) -> Finding:
    """A lower bound on epsilon from canaries in one run, if noise and the rest are near normal.

    A canary in the run has its score shifted by mu standard deviations. A mechanism that loses
    no more than (epsilon, delta) shifts none by more than the mu whose Gaussian costs as much.

    Args:
        scores: [canaries] what leaves, summed over rounds, along each canary's own direction.
        included: [canaries] whether it took part, by a fair coin of its own.
        epsilon: what the mechanism claims, at `delta`.
        delta: the claim's.
    """
    mu = gaussian_mu_bound(scores, included)
    return Finding("Gaussian canaries", epsilon_of(mu, delta), epsilon)


def gaussian_mu_bound(scores: NDArray[np.floating], included: NDArray[np.bool_], *, error: float = ERROR) -> float:
    """A lower bound on the canaries' shift in standard deviations, wrong with the chance `error`.

    The difference of two means over the pooled deviation, less its normal quantile: its
    variance is 1/n + 1/m + mu² / 2(n + m), for n and m canaries (Hedges and Olkin 1985, p. 86).
    """
    inside, outside = scores[included].astype(np.float64), scores[~included].astype(np.float64)
    n, m = len(inside), len(outside)
    pooled = math.sqrt((inside.var() * n + outside.var() * m) / (n + m - 2))
    shift = float(inside.mean() - outside.mean())
    mu = shift / pooled if pooled else math.copysign(math.inf, shift)
    if math.isinf(mu):
        return mu
    return float(mu - norm.isf(error) * math.sqrt(1 / n + 1 / m + mu**2 / (2 * (n + m))))


def guessed_canaries(
    scores: NDArray[np.floating], included: NDArray[np.bool_], *, guesses: int, epsilon: float, delta: float
) -> Finding:
    """A lower bound on epsilon from how often an attacker guesses right who was in, whatever the mechanism.

    The highest scores are guessed to be in and the lowest out, `guesses` in all, fixed beforehand.

    Args:
        scores: [canaries] what leaves, summed over rounds, along each canary's own direction.
        included: [canaries] whether it took part, by a fair coin of its own.
        guesses: how many canaries the attacker speaks about; an even number.
        epsilon: what the mechanism claims, at `delta`.
        delta: the claim's; with 2 * canaries * delta above a thousandth the test sees little.

    Raises:
        SettingError: `guesses` is not even, or more than the canaries.
    """
    if guesses % 2 or not 0 < guesses <= len(scores):
        raise SettingError(
            f"`guesses` must be even and at most the canaries {len(scores)}, found {guesses}. Try a tenth."
        )
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    found = one_run_bound(canaries=len(scores), guesses=guesses, correct=correct, delta=delta)
    return Finding("guessed canaries", found, epsilon)


def one_run_bound(*, canaries: int, guesses: int, correct: int, delta: float, error: float = ERROR_OF_GUESSES) -> float:
    """The epsilon below which so many right guesses are less likely than `error`."""

    def excess(epsilon: float) -> float:
        return (
            one_run_p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta) - error
        )

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))


def one_run_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely at least `correct` of `guesses` are right under (epsilon, delta)-DP, at most.

    Every canary is in or out by its own fair coin, all in one run (Steinke, Nasr and Jagielski
    2023, arXiv 2305.08846, theorem 5.2 and corollary 5.4): with f(v) the chance that randomised
    response under epsilon is right v times or more, at most
    f(v) + 2 m delta max_i (f(v - i) - f(v)) / i for i from 1 to v.
    """
    right = 1 / (1 + math.exp(-epsilon))
    tail = binom.sf(np.arange(correct, -1, -1) - 1, guesses, right)  # f(v), f(v - 1), ..., f(0)
    if correct == 0:
        return 1.0
    steepest = float(((tail[1:] - tail[0]) / np.arange(1, correct + 1)).max())
    return min(1.0, float(tail[0]) + 2 * canaries * delta * steepest)
