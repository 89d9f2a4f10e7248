"""The accountant against closed forms and against Opacus' own accountant."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from marks import slow
from scipy.optimize import brentq
from scipy.stats import norm

from fedhealth.core.errors import SettingError
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.privacy.accountant import epsilon, noise_multiplier, rdp_epsilon

DELTA = 1e-5


def sampled(noise, rate, count=1):
    return PoissonSampledGaussian(noise_multiplier=noise, sampling_rate=rate, count=count)


def gaussian_epsilon(mu, delta=DELTA):
    """One Gaussian of separation mu, exactly (Balle and Wang 2018, theorem 8)."""
    return brentq(
        lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e + norm.logcdf(-mu / 2 - e / mu)) - delta, 0, 300, xtol=1e-12
    )


def one_step_epsilon(noise, rate, delta=DELTA):
    """One sampled Gaussian, exactly: the hockey-stick divergence of N(0, σ²) and its mixture, both ways round.

    Their density ratio, mixture over noise alone, is 1 - q + q exp((2x - 1) / 2σ²) and grows with x, so
    each divergence is a difference of two tails from where the ratio passes exp(ε) or exp(-ε).
    """

    def where(ratio):
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)

    def removed(e):
        x = where(math.exp(e))
        mixture = (1 - rate) * norm.sf(x / noise) + rate * norm.sf((x - 1) / noise)
        return mixture - math.exp(e) * norm.sf(x / noise)

    def added(e):
        if math.exp(-e) <= 1 - rate:
            return 0.0
        x = where(math.exp(-e))
        mixture = (1 - rate) * norm.cdf(x / noise) + rate * norm.cdf((x - 1) / noise)
        return norm.cdf(x / noise) - math.exp(e) * mixture

    def least(divergence):
        return brentq(lambda e: divergence(e) - delta, 0, 50) if divergence(0) > delta else 0.0

    return max(least(removed), least(added))


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8, 1e-10])
def test_one_gaussian_costs_what_its_closed_form_says(noise, delta):
    exact = gaussian_epsilon(1 / noise, delta)
    found = epsilon([Gaussian(noise_multiplier=noise)], delta)
    assert exact - 1e-6 <= found <= 1.001 * exact


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.2), (1.0, 0.01), (3.0, 0.5), (10.0, 0.1)])
def test_one_sampled_gaussian_costs_what_integration_by_hand_says(noise, rate):
    exact = one_step_epsilon(noise, rate)
    assert exact - 1e-6 <= epsilon([sampled(noise, rate)], DELTA) <= 1.005 * exact


def test_gaussians_compose_to_one_whose_squared_separations_add():
    events = [Gaussian(noise_multiplier=4.0, count=3), Gaussian(noise_multiplier=2.0), sampled(5.0, 1.0, 10)]
    mu = math.sqrt(3 / 16 + 1 / 4 + 10 / 25)
    assert epsilon(events, DELTA) == pytest.approx(gaussian_epsilon(mu), rel=1e-3)


@pytest.mark.parametrize(
    ("noise", "rate", "count"), [(1.394, 0.1, 100), *slow((1.0, 0.01, 10_000), (20.0, 0.2, 5_000), (0.8, 0.01, 3_000))]
)
def test_dp_sgd_costs_what_opacus_says_to_one_percent(noise, rate, count):
    assert epsilon([sampled(noise, rate, count)], DELTA) == pytest.approx(prv([(noise, rate, count)]), rel=0.01)


@pytest.mark.slow
def test_studies_of_different_kinds_cost_together_what_opacus_says_to_one_percent():
    history = [(2.26, 0.1, 100), (1.5, 0.02, 400), (4.0, 0.3, 50)]
    assert epsilon([sampled(*part) for part in history], DELTA) == pytest.approx(prv(history), rel=0.01)


def test_six_studies_of_two_cost_less_than_half_of_twelve():
    noise = noise_multiplier(epsilon_target=2.0, delta=DELTA, sampling_rate=0.1, steps=100)
    together = epsilon([sampled(noise, 0.1, 100)] * 6, DELTA)
    assert together == pytest.approx(prv([(noise, 0.1, 600)]), rel=0.01)
    assert 5.2 < together < 5.3


def prv(history):
    """Opacus' accountant, which composes privacy loss by code of its own (Gopi et al. 2021, arXiv 2106.02848)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = history
        return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize(("noise", "rate", "count"), [(1.394, 0.1, 100), (4.0, 1.0, 20)])
def test_renyi_holds_too_and_wastes_a_little(noise, rate, count):
    events = [sampled(noise, rate, count)]
    assert 1.02 < rdp_epsilon(events, DELTA) / epsilon(events, DELTA) < 1.2


@settings(max_examples=6, deadline=None)
@given(
    some.floats(0.6, 30),
    some.floats(0.01, 1),
    some.integers(1, 200),
    some.floats(0.6, 30),
    some.sampled_from([1e-4, 1e-7]),
)
@pytest.mark.slow
def test_more_events_cost_more_and_more_noise_costs_less(noise, rate, count, other, delta):
    alone = epsilon([sampled(noise, rate, count)], delta)
    # The grid errs upwards by at most a tenth of a percent, and differs from history to history.
    assert epsilon([sampled(noise, rate, count), Gaussian(noise_multiplier=other)], delta) >= alone * 0.999
    assert epsilon([sampled(noise, rate, count + 5)], delta) >= alone * 0.999
    assert epsilon([sampled(1.2 * noise, rate, count)], delta) <= alone
    assert epsilon([sampled(noise, rate, count)], 10 * delta) <= alone


def test_what_left_without_noise_has_no_bound():
    assert epsilon([sampled(5.0, 0.1), Unbounded()], DELTA) == math.inf
    assert rdp_epsilon([Unbounded()], DELTA) == math.inf


@pytest.mark.parametrize("event", [Gaussian(noise_multiplier=1e-6), Gaussian(noise_multiplier=0.1, count=10**6),
                                   sampled(1e-3, 1e-6), sampled(0.05, 0.5, 10**6)])  # fmt: skip
def test_next_to_no_noise_is_no_bound_and_takes_no_time(event):
    assert epsilon([event], DELTA) == math.inf


@pytest.mark.parametrize("event", [Gaussian(noise_multiplier=0.03), sampled(0.1, 1e-4, 100)])
def test_little_noise_has_a_bound_all_the_same(event):
    assert 50 < epsilon([event], DELTA) < math.inf


def test_many_steps_of_next_to_no_loss_are_never_undercut():
    # The central limit of a million tiny steps is one Gaussian of mu = q sqrt(T (exp(1/σ²) - 1)).
    noise, rate, count = 200.0, 0.01, 10**6
    limit = gaussian_epsilon(rate * math.sqrt(count * math.expm1(1 / noise**2)))
    assert limit <= epsilon([sampled(noise, rate, count)], DELTA) < 2 * limit


@pytest.mark.parametrize("mu", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-9, 1e-10])
def test_the_rounding_of_many_steps_undercuts_no_delta(mu, delta):
    # With a rate this near to 1 each step is a Gaussian, to 1e-12 of its loss, and so are all together.
    count = 100_000
    found = epsilon([sampled(math.sqrt(count) / mu, 1 - 1e-12, count)], delta)
    assert gaussian_epsilon(mu, delta) <= found < 1.01 * gaussian_epsilon(mu, delta)


def test_more_steps_than_delta_has_digits_for_have_no_bound():
    assert epsilon([sampled(1e5, 0.01, 3 * 10**6)], 1e-10) == math.inf
    assert epsilon([sampled(1e5, 0.01, 3 * 10**6)], 1e-8) < 1


def test_nothing_costs_nothing():
    assert epsilon([], DELTA) == 0


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"), [(2.0, 1e-5, 0.1, 100), (0.5, 1e-6, 0.02, 300), (8.0, 1e-5, 0.5, 10)]
)
def test_a_solved_noise_multiplier_spends_the_target_and_no_more(target, delta, rate, steps):
    noise = noise_multiplier(epsilon_target=target, delta=delta, sampling_rate=rate, steps=steps)
    spent = epsilon([sampled(noise, rate, steps)], delta)
    assert 0.999 * target < spent <= target


def test_without_sampling_the_solved_noise_is_the_closed_forms():
    mu = brentq(lambda m: gaussian_epsilon(m) - 1.0, 0.01, 2)
    found = noise_multiplier(epsilon_target=1.0, delta=DELTA, sampling_rate=1.0, steps=25)
    assert found == pytest.approx(5 / mu, rel=1e-3)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_must_be_a_bound(target):
    with pytest.raises(SettingError, match="`epsilon`"):
        noise_multiplier(epsilon_target=target, delta=DELTA, sampling_rate=0.1, steps=10)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 1e-11, math.nan])
def test_delta_must_be_a_small_chance(delta):
    with pytest.raises(SettingError, match="`delta`"):
        epsilon([], delta)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-6, 0.3, 1e9])
@pytest.mark.parametrize("rate", [1e-9, 0.01, 1.0])
@pytest.mark.parametrize("count", [1, 10**7])
@pytest.mark.parametrize("delta", [1e-10, 0.5])
def test_every_event_there_can_be_has_a_price(noise, rate, count, delta):
    events = [PoissonSampledGaussian(noise_multiplier=noise, sampling_rate=rate, count=count)]
    assert 0 <= epsilon(events, delta) <= math.inf
    events = [Gaussian(noise_multiplier=noise, count=count)]
    assert 0 <= epsilon(events, delta) <= math.inf


def test_more_steps_than_can_be_composed_have_no_bound():
    event = PoissonSampledGaussian(noise_multiplier=100.0, sampling_rate=0.01, count=10**7)
    assert epsilon([event, event], 1e-5) == math.inf
