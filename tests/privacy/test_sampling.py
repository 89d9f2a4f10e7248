"""Poisson sampling: everybody by a coin of their own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from fedhealth.core.errors import SettingError
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.sampling import drawn, drawn_in_steps


def test_each_is_drawn_with_the_same_chance_and_how_many_are_drawn_is_binomial():
    coins = NoiseSource(insecure_seed=3).words()
    rounds = [drawn(40, 0.3, coins) for _ in range(4000)]
    each = np.bincount(np.concatenate(rounds), minlength=40)
    low, high = binom.ppf([1e-6, 1 - 1e-6], 4000, 0.3)
    assert (each >= low).all()
    assert (each <= high).all()
    counts = np.array([len(one) for one in rounds])
    # The variance tells Poisson's way from drawing a fixed number.
    assert counts.var() == pytest.approx(40 * 0.3 * 0.7, rel=0.15)


def test_a_rate_of_one_takes_everybody_and_blocks_join_without_a_seam():
    np.testing.assert_array_equal(drawn(70_001, 1.0, NoiseSource().words()), np.arange(70_001))
    assert len(drawn(0, 0.5, NoiseSource().words())) == 0


def test_two_draws_are_two_draws():
    assert not np.array_equal(drawn(1000, 0.5, NoiseSource().words()), drawn(1000, 0.5, NoiseSource().words()))


@pytest.mark.parametrize(("n", "rate", "steps"), [(0, 0.5, 3), (1, 0.5, 9), (700, 0.04, 100), (40_000, 0.1, 2)])
def test_the_draws_of_many_steps_are_the_draws_of_each(n, rate, steps):
    one, other = (NoiseSource(insecure_seed=3).words() for _ in range(2))
    found = drawn_in_steps(n, rate, one, steps)
    assert len(found) == steps
    for batch in found:
        np.testing.assert_array_equal(batch, drawn(n, rate, other))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, float("nan")])
def test_a_rate_that_is_no_chance_is_refused(rate):
    with pytest.raises(SettingError, match="sampling rate must lie in"):
        drawn(5, rate, NoiseSource().words())
