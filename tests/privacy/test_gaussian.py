"""One Gaussian in closed form, against integration of its definition."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad
from scipy.stats import norm

from fedhealth.privacy.gaussian import delta_of, epsilon_of, mu_of

CASES = [(0.1, 0.05), (0.395, 1.5), (1.0, 0.0), (1.0, 3.0), (3.0, 10.0)]


@pytest.mark.parametrize(("mu", "epsilon"), CASES)
def test_delta_is_the_mass_by_which_one_density_exceeds_the_others_multiple(mu, epsilon):
    # The shifted density is exp(epsilon) times the other at x = mu / 2 + epsilon / mu, and more beyond.
    start = mu / 2 + epsilon / mu
    mass, _ = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x), start, start + 40, epsabs=1e-14)
    assert delta_of(mu, epsilon) == pytest.approx(mass, rel=1e-6, abs=1e-13)


@pytest.mark.parametrize(("mu", "epsilon"), CASES)
def test_epsilon_and_mu_undo_delta(mu, epsilon):
    delta = delta_of(mu, epsilon)
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, abs=1e-6)
    assert mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-6)


def test_no_shift_costs_nothing_and_no_noise_everything():
    assert epsilon_of(0.0, 1e-5) == epsilon_of(-1.0, 1e-5) == epsilon_of(-math.inf, 1e-5) == 0.0
    assert epsilon_of(1e-7, 1e-3) == 0.0
    assert epsilon_of(math.inf, 1e-5) == math.inf
