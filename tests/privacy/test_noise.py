"""The noise: the table digit by digit, the draws by statistics against an exact sampler, the lattice by arithmetic.

Draws come from the operating system, so every statistic is random: a threshold is passed by chance
less than once in a million runs.
"""

from __future__ import annotations

import math
import random

import cks
import mpmath
import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, norm

from fedhealth.core.errors import DataError, SettingError
from fedhealth.privacy import noise
from fedhealth.privacy.alias_table import CENTRE, COLUMNS, MASS_BITS, SIGMA, alias_table, masses
from fedhealth.privacy.noise import (
    STRETCH,
    WIDE_SIGMA,
    NoiseSource,
    Words,
    narrow,
    noisy,
    noisy_rows,
    step_of,
    stretch_for,
    stretched,
    wide,
)

BY_CHANCE = 1e-6
REST_BITS = 96


def height(x, sigma=SIGMA):
    return mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2))


@pytest.fixture(autouse=True, scope="module")
def digits():
    with mpmath.workdps(80):
        yield


def test_the_masses_are_a_gaussians_to_113_bits():
    found = masses()
    # By Poisson summation, to within exp(-2 pi² sigma²).
    whole = SIGMA * mpmath.sqrt(2 * mpmath.pi)
    for x in (0, 1, -1, 17, -1024, 3000, 9999, -16383, 16383):
        assert abs(found[x + CENTRE] / mpmath.mpf(2) ** 128 - height(x) / whole) < mpmath.mpf(2) ** -113


def test_the_masses_add_up_and_are_the_same_on_both_sides():
    found = masses()
    assert sum(found) == 2**128
    assert found[0] == 0
    assert found[1:CENTRE] == found[:CENTRE:-1]


def test_the_columns_hold_every_mass_exactly():
    table, held = alias_table(), [0] * COLUMNS
    for column in range(COLUMNS):
        threshold = (int(table.packed[column]) >> 15 << REST_BITS) | table.rest[column]
        held[column] += threshold
        held[int(table.packed[column]) & (COLUMNS - 1)] += (1 << MASS_BITS) - threshold
    assert held == masses()


class Scripted:
    """Words that were written down before."""

    def __init__(self, *words):
        self.left = np.array(words, dtype=np.uint32)

    def next(self, n):
        taken, self.left = self.left[:n], self.left[n:]
        return taken


def test_a_draw_below_the_threshold_is_the_columns_own_and_from_it_on_the_alias():
    table = alias_table()
    column = 100 + int(np.flatnonzero(table.packed[100:] >> 15)[0])  # neither empty nor full
    packed = int(table.packed[column])
    assert table.rest[column]
    top, own, alias = packed >> 15, column - CENTRE, (packed & (COLUMNS - 1)) - CENTRE

    def drawn(high, rest=0):
        words = [(rest >> shift) & 0xFFFFFFFF for shift in (0, 32, 64)]
        return int(noise._draw([Scripted(high << 15 | column, *words)], 1)[0, 0])

    assert drawn(top - 1) == own
    assert drawn(top + 1) == alias
    assert drawn(top, table.rest[column] - 1) == own
    assert drawn(top, table.rest[column]) == alias


def edges(bins, sigma):
    """Whole numbers that cut a Gaussian into bins of about the same chance."""
    return np.unique(np.rint(norm.ppf(np.arange(1, bins) / bins) * sigma)).astype(int)


def chance_of(draws, bins=200):
    """How likely draws at least this far from the masses are."""
    cuts = edges(bins, SIGMA)
    share = np.array([float(x) for x in masses()]) / 2.0**128
    expected = np.add.reduceat(share, np.concatenate([[0], cuts + CENTRE])) * len(draws)
    found = np.bincount(np.searchsorted(cuts, draws, side="right"), minlength=len(expected))
    return chi2.sf(((found - expected) ** 2 / expected).sum(), len(expected) - 1)


def test_draws_follow_the_masses():
    assert chance_of(narrow(1_000_000, NoiseSource())) > BY_CHANCE


def test_the_test_of_draws_would_see_one_percent_less_noise():
    wrong = np.rint(np.random.default_rng(3).normal(0, 0.99 * SIGMA, 1_000_000)).astype(int)
    assert chance_of(wrong) < BY_CHANCE


def test_draws_can_not_be_told_from_the_exact_samplers():
    rng, cuts = random.Random(7), edges(12, SIGMA)
    slow = [cks.discrete_gaussian(SIGMA, rng) for _ in range(3000)]
    fast = narrow(300_000, NoiseSource())
    counts = [
        np.bincount(np.searchsorted(cuts, draws, side="right"), minlength=len(cuts) + 1) for draws in (slow, fast)
    ]
    assert chi2_contingency(counts).pvalue > BY_CHANCE


@pytest.mark.parametrize("z", [0, 1, 7, 239, 240, 241, -1_000_003])
def test_two_stretched_draws_are_one_wide_discrete_gaussian(z):
    near = round(STRETCH * z / (1 + STRETCH**2))
    mass = mpmath.fsum(height(z - STRETCH * j) * height(j) for j in range(near - 60, near + 61))
    sigma = SIGMA * mpmath.sqrt(1 + STRETCH**2)
    # Heights, not masses: by Poisson summation each sum is sigma * sqrt(2 pi).
    expected = height(z, sigma) / (sigma * mpmath.sqrt(2 * mpmath.pi)) * (SIGMA * mpmath.sqrt(2 * mpmath.pi)) ** 2
    assert abs(mass / expected - 1) < mpmath.mpf(2) ** -117


def test_wide_draws_have_a_gaussians_moments_and_do_not_depend_on_the_one_before():
    n = 2_000_000
    z = wide(n, NoiseSource()) / WIDE_SIGMA
    far = norm.isf(BY_CHANCE / 2)
    assert abs(z.mean()) < far / math.sqrt(n)
    assert abs((z**2).mean() - 1) < far * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < far * math.sqrt(96 / n)
    assert abs((z[1:] * z[:-1]).mean()) < far / math.sqrt(n)


@pytest.mark.parametrize("stretch", [1, 2, 15, STRETCH])
def test_stretched_draws_have_their_variance_and_every_remainder_alike(stretch):
    """Without the draw that is not stretched they would be multiples, and low bits would tell what they hide."""
    (drawn,) = stretched(48_000, [Words(bytes([stretch % 251]) * 32)], stretch)
    expected = SIGMA**2 * (1 + stretch**2)
    assert np.mean(drawn.astype(float) ** 2) == pytest.approx(expected, rel=5 * math.sqrt(2 / 48_000))
    cells = max(stretch, 2)
    found = np.bincount(drawn % cells, minlength=cells)
    assert chi2.sf(((found - 48_000 / cells) ** 2).sum() / (48_000 / cells), cells - 1) > 1e-4


@pytest.mark.parametrize(("sigma", "expected"), [(0.0, 1), (1024.0, 1), (1500.0, 2), (WIDE_SIGMA, 480), (1e9, 480)])
def test_a_stretch_is_the_least_that_is_wide_enough_from_one_on(sigma, expected):
    assert stretch_for(sigma) == expected


@pytest.mark.parametrize("n", [0, 1, 32_767, 32_768, 32_769])
def test_any_number_of_draws_can_be_had(n):
    assert narrow(n, NoiseSource()).shape == wide(n, NoiseSource()).shape == (n,)


def test_many_sums_get_the_noise_that_each_gets_alone():
    totals = np.random.default_rng(1).normal(size=(5, 40_000))
    multipliers, sensitivities = [1.0, 0.5, 2.0, 1.0, 3.0], [1.0, 0.1, 1.0, 7.0, 2.0]
    one, other = ([NoiseSource(insecure_seed=seed) for seed in range(5)] for _ in range(2))
    for _ in range(2):
        found = noisy_rows(totals, noise_multipliers=multipliers, sensitivities=sensitivities, sources=one)
        for row, total, multiplier, sensitivity, source in zip(
            found, totals, multipliers, sensitivities, other, strict=True
        ):
            alone = noisy(total, noise_multiplier=multiplier, sensitivity=sensitivity, source=source)
            np.testing.assert_array_equal(row, alone)


def test_noise_never_comes_twice():
    source = NoiseSource()
    draws = [wide(50, source), wide(50, source), wide(50, NoiseSource())]
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert source.is_secure


def test_only_an_insecure_seed_gives_the_same_noise_again_and_says_so():
    source, again = NoiseSource(insecure_seed=5), NoiseSource(insecure_seed=5)
    first, second = wide(50, source), wide(50, source)
    assert np.array_equal(first, wide(50, again))
    assert np.array_equal(second, wide(50, again))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, wide(50, NoiseSource(insecure_seed=6)))
    assert not source.is_secure


def test_what_leaves_lies_on_a_lattice_that_does_not_depend_on_the_data():
    rng = np.random.default_rng(2)
    step = step_of(0.8, 1.5, 1000)
    for total in (np.zeros(1000), rng.normal(size=1000), 1e5 + 1e-9 * rng.normal(size=1000)):
        left = noisy(total, noise_multiplier=0.8, sensitivity=1.5, source=NoiseSource())
        assert np.array_equal(np.rint(left / step) * step, left)


def test_floating_point_noise_would_not_lie_on_one_lattice():
    rng = np.random.default_rng(2)
    left = 1e5 + 1e-9 * rng.normal(size=1000) + 1.2 * rng.normal(size=1000)
    step = step_of(0.8, 1.5, 1000)
    assert not np.array_equal(np.rint(left / step) * step, left)


def test_the_noise_is_added_to_the_rounded_sum_exactly():
    total = np.random.default_rng(4).normal(size=(7, 5)) * 30
    settings = {"noise_multiplier": 2.0, "sensitivity": 1.0}
    step = step_of(2.0, 1.0, 35)
    left = noisy(total, source=NoiseSource(insecure_seed=1), **settings)
    drawn = wide(35, NoiseSource(insecure_seed=1)).reshape(7, 5)
    assert np.array_equal(np.rint(left / step).astype(int) - drawn, np.rint(total / step).astype(int))


def test_the_noise_is_the_multiplier_times_the_sensitivity_with_rounding():
    d, multiplier, clip = 400_000, 4.0, 0.5
    left = noisy(np.zeros(d), noise_multiplier=multiplier, sensitivity=clip, source=NoiseSource())
    step = step_of(multiplier, clip, d)
    # By hand: the noise is 491,521 steps, and the rounded sum moves by clip / step + sqrt(d) steps at most.
    assert multiplier * (clip / step + math.sqrt(d)) == pytest.approx(WIDE_SIGMA, rel=1e-4)
    off = left.std() / (multiplier * (clip + step * math.sqrt(d))) - 1
    assert abs(off) < norm.isf(BY_CHANCE / 2) / math.sqrt(2 * d) + 1e-4


def test_rounded_neighbours_stay_within_the_sensitivity_that_the_noise_covers():
    rng = np.random.default_rng(6)
    for d in (1, 10, 1000):
        step = step_of(1.0, 1.0, d)
        total = rng.normal(size=d) * 100
        patient = rng.normal(size=d)
        patient /= np.linalg.norm(patient)
        moved = np.rint((total + patient) / step) - np.rint(total / step)
        assert np.linalg.norm(moved) <= WIDE_SIGMA  # one multiplier's worth of noise, in steps


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.5, 2.0, 4.0])
def test_the_lattice_costs_a_billionth_of_delta_at_most(eps):
    """The hockey-stick divergence of discrete Gaussians a sensitivity apart, summed, against the continuous one."""
    sigma, shift = WIDE_SIGMA, round(WIDE_SIGMA)
    x = np.arange(-12 * shift, 13 * shift, dtype=np.float64)
    log_p, log_q = -((x - shift) ** 2) / (2 * sigma**2), -(x**2) / (2 * sigma**2)
    parts = np.exp(log_p) * np.maximum(0.0, -np.expm1(eps + log_q - log_p))
    found = math.fsum(parts) / (sigma * math.sqrt(2 * math.pi))
    mu = shift / sigma
    exact = norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)
    assert found == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_sum_that_no_clipping_leaves_is_refused_without_its_value(value):
    with pytest.raises(DataError) as refusal:
        noisy([0.0, value], noise_multiplier=1.0, sensitivity=1.0, source=NoiseSource())
    assert "1e+300" not in str(refusal.value)
    assert "nan" not in str(refusal.value)


@pytest.mark.parametrize(
    ("multiplier", "sensitivity", "size", "words"),
    [(0.0, 1.0, 1, "noise_multiplier"), (math.nan, 1.0, 1, "noise_multiplier"), (1.0, 0.0, 1, "sensitivity"),
     (1.0, math.inf, 1, "sensitivity"), (100.0, 1.0, 10_000_000, "coordinates")],
)  # fmt: skip
def test_noise_that_would_not_protect_or_would_drown_is_refused(multiplier, sensitivity, size, words):
    with pytest.raises(SettingError, match=words):
        step_of(multiplier, sensitivity, size)
