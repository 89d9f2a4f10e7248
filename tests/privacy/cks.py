"""The exact discrete Gaussian sampler of Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), slow and plain.

Algorithms 1 to 3 in rational arithmetic: no real number is ever rounded. The oracle of the fast sampler.
"""

from __future__ import annotations

from fractions import Fraction


def bernoulli(p, rng):
    return rng.randrange(p.denominator) < p.numerator


def bernoulli_exp(gamma, rng):
    """True with the chance exp(-gamma), for gamma >= 0."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), rng):
            return False
        gamma -= 1
    k = 1
    while bernoulli(gamma / k, rng):
        k += 1
    return k % 2 == 1


def discrete_laplace(t, rng):
    """Mass proportional to exp(-|x| / t), for a whole t."""
    while True:
        u = rng.randrange(t)
        if not bernoulli_exp(Fraction(u, t), rng):
            continue
        v = 0
        while bernoulli_exp(Fraction(1), rng):
            v += 1
        x, is_negative = u + t * v, rng.randrange(2)
        if not (is_negative and x == 0):
            return -x if is_negative else x


def discrete_gaussian(sigma, rng):
    """Mass proportional to exp(-x² / 2 sigma²), for a whole sigma."""
    t = sigma + 1
    while True:
        y = discrete_laplace(t, rng)
        if bernoulli_exp(Fraction((abs(y) * t - sigma**2) ** 2, 2 * sigma**2 * t**2), rng):
            return y
