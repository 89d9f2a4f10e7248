"""The audit: every known mutation alarms, a right mechanism does not, and each bound is checked against an oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import MUTATIONS, Reference
from scipy.stats import binom

from fedhealth.core.errors import SettingError
from fedhealth.core.privacy_event import Gaussian
from fedhealth.privacy import audit
from fedhealth.privacy.accountant import epsilon

pytestmark = pytest.mark.slow

DELTA, ROUNDS, CANARIES, RECORDS = 1e-6, 4, 500, 8


def findings(mechanism, seed):
    """All five tests on one mechanism of noise multiplier 5 over 4 rounds, which claims what 4 Gaussians cost."""
    rng = np.random.default_rng(seed)
    claim = epsilon([Gaussian(noise_multiplier=mechanism.noise_multiplier, count=ROUNDS)], DELTA)
    return [sensitivity_of(mechanism, rng), *noise_of(mechanism), *canaries_of(mechanism, rng, claim)]


def sensitivity_of(mechanism, rng):
    pairs = []
    for patient in audit.worst_patients(20, rng):
        others = rng.standard_normal((5, len(patient), 20))
        pairs.append((mechanism.clipped_sum(np.concatenate([others, patient[None]])), mechanism.clipped_sum(others)))
    return audit.sensitivity(*map(np.array, zip(*pairs, strict=True)), bound=mechanism.clip_bound)


def noise_of(mechanism):
    zeros = np.zeros((1, 1, 60_000))
    noise = np.array([mechanism.release(zeros) for _ in range(3)])
    expected = mechanism.noise_multiplier * mechanism.clip_bound
    return audit.noise_scale(noise, expected=expected), audit.repeated_noise(noise)


def canaries_of(mechanism, rng, claim):
    """A canary a coordinate: its gradient lies along it, far longer than the clip; a coin decides who is in."""
    included = rng.random(CANARIES) < 0.5
    inside = np.flatnonzero(included)
    gradients = np.zeros((len(inside), RECORDS, CANARIES), dtype=np.float32)
    gradients[np.arange(len(inside)), :, inside] = 10.0
    scores = sum(mechanism.release(gradients) for _ in range(ROUNDS))
    return (
        audit.gaussian_canaries(scores, included, epsilon=claim, delta=DELTA),
        audit.guessed_canaries(scores, included, guesses=200, epsilon=claim, delta=DELTA),
    )


#: What each mutation must set off at least.
SEEN = {
    "NoClipping": {"sensitivity", "Gaussian canaries", "guessed canaries"},
    "NoNoise": {"noise scale", "repeated noise", "Gaussian canaries", "guessed canaries"},
    "ClipPerRecord": {"sensitivity", "Gaussian canaries", "guessed canaries"},
    "QuarterNoise": {"noise scale", "Gaussian canaries"},
    "HalfVariance": {"noise scale"},
    "ClipAtTwice": {"sensitivity"},
    "ClipTheBatch": {"sensitivity", "Gaussian canaries"},
    "SharesForAll": {"noise scale"},
    "SameNoise": {"repeated noise"},
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_mutation_sets_off_the_tests_that_can_see_it(mutation, seed):
    alarms = {finding.test for finding in findings(mutation(seed), seed) if finding.is_alarm}
    assert alarms >= SEEN[mutation.__name__]


def test_every_mutation_is_seen_by_some_test():
    assert set(SEEN) == {mutation.__name__ for mutation in MUTATIONS}
    assert all(SEEN.values())


@pytest.mark.slow
def test_a_right_mechanism_sets_off_nothing_in_a_hundred_runs():
    alarms = [
        str(finding) for seed in range(100) for finding in findings(Reference(1000 + seed), seed) if finding.is_alarm
    ]
    assert alarms == []


def test_two_percent_less_noise_is_seen_and_half_a_percent_is_not():
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(200_000)
    assert audit.noise_scale(noise, expected=1 / 0.98).is_alarm
    assert audit.noise_scale(noise, expected=0.98).is_alarm
    assert not audit.noise_scale(noise, expected=1.005).is_alarm


def test_two_percent_too_wide_a_clip_is_seen():
    moved = np.array([[0.0, 0.51], [0.3, 0.4]])
    assert audit.sensitivity(moved, np.zeros((2, 2)), bound=0.5).is_alarm
    assert audit.sensitivity(moved, np.zeros((2, 2)), bound=0.5).measured == pytest.approx(1.02)
    assert not audit.sensitivity(moved, np.zeros((2, 2)), bound=0.51).is_alarm


def test_what_can_not_be_measured_is_an_alarm():
    assert audit.sensitivity(np.full((1, 2), np.nan), np.zeros((1, 2)), bound=1.0).is_alarm
    assert "ALARM" in str(audit.Finding("x", math.nan, 1.0))
    assert "passes" in str(audit.Finding("x", 1.0, 1.0))


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_noise_that_comes_again_is_found_at_any_lag(lag):
    noise = np.random.default_rng(lag).standard_normal((8, 500))
    assert not audit.repeated_noise(noise).is_alarm
    noise[lag] = noise[0] + 0.5 * noise[lag]
    assert audit.repeated_noise(noise).is_alarm


def test_the_mu_of_canaries_is_bounded_from_below():
    rng = np.random.default_rng(5)
    wrong, tight = 0, []
    for _ in range(400):
        included = rng.random(400) < 0.5
        found = audit.gaussian_mu_bound(1.5 * included + rng.standard_normal(400), included, error=0.05)
        wrong += found > 1.5
        tight.append(found)
    # 5 % of 400 is 20; more than 38 has a chance below 1e-4, and so has fewer than 7.
    assert 7 <= wrong <= 38
    assert np.mean(tight) > 1.25


# The paper prints these: appendix D, and section 7 for the run on CIFAR-10.
@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_one_run_bound_is_the_papers(canaries, guesses, correct, delta, published):
    found = audit.one_run_bound(canaries=canaries, guesses=guesses, correct=correct, delta=delta, error=0.05)
    assert found == pytest.approx(published, abs=1e-3)


def test_without_delta_the_p_value_is_a_binomial_tail():
    # 9 or 10 right of 10 coin flips: 11 / 1024. At epsilon ln 3 a guess is right three times in four.
    coins = audit.one_run_p_value(canaries=10, guesses=10, correct=9, epsilon=0.0, delta=0.0)
    assert coins == pytest.approx(11 / 1024)
    thirds = audit.one_run_p_value(canaries=50, guesses=2, correct=2, epsilon=math.log(3), delta=0.0)
    assert thirds == pytest.approx(9 / 16)


@pytest.mark.parametrize("eps", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("m", [20, 100, 200])
def test_randomised_response_exceeds_its_bound_as_often_as_said_and_hardly_less(eps, m):
    right, error = 1 / (1 + math.exp(-eps)), 0.05
    bounds = [audit.one_run_bound(canaries=m, guesses=m, correct=v, delta=0.0, error=error) for v in range(m + 1)]
    too_high = sum(binom.pmf(v, m, right) for v in range(m + 1) if bounds[v] > eps + 1e-9)
    # Nothing is lost on randomised response: as near to the error as whole numbers of guesses come.
    assert too_high <= error < too_high + max(binom.pmf(np.arange(m + 1), m, right))


@pytest.mark.parametrize(("eps", "delta", "m"), [(1.0, 1e-3, 200), (0.5, 0.01, 50), (2.0, 1e-5, 1000)])
def test_randomised_response_that_fails_with_delta_stays_below_the_p_value(eps, delta, m):
    right = 1 / (1 + math.exp(-eps))
    v = np.arange(m + 1)
    # Each canary told outright with the chance delta; or all of them together with it.
    each = binom.sf(v - 1, m, right + delta * (1 - right))
    all_at_once = (1 - delta) * binom.sf(v - 1, m, right) + delta
    said = [audit.one_run_p_value(canaries=m, guesses=m, correct=int(k), epsilon=eps, delta=delta) for k in v]
    assert np.all(np.maximum(each, all_at_once) <= np.array(said) + 1e-12)


@pytest.mark.parametrize("guesses", [0, 3, 12])
def test_guesses_must_be_even_and_about_canaries(guesses):
    with pytest.raises(SettingError, match="guesses"):
        audit.guessed_canaries(np.zeros(10), np.zeros(10, dtype=bool), guesses=guesses, epsilon=1.0, delta=DELTA)


def test_too_little_noise_to_judge_is_refused():
    with pytest.raises(SettingError, match="150,000"):
        audit.noise_scale(np.zeros(1000), expected=1.0)
    with pytest.raises(SettingError, match="2 rounds"):
        audit.repeated_noise(np.zeros((1, 10)))
