"""One Gaussian mechanism in closed form (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

`mu` is the sensitivity over the noise's standard deviation: how many deviations one patient
moves what leaves. Many steps tend to one such Gaussian, whatever they are.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri


def delta_of(mu: float, epsilon: float) -> float:
    """The least delta with which a Gaussian of shift `mu` > 0 keeps within epsilon."""
    above = ndtr(mu / 2 - epsilon / mu)
    return float(above - math.exp(min(epsilon + log_ndtr(-mu / 2 - epsilon / mu), 0.0)))


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon of a Gaussian of shift `mu`; 0 where there is no shift, infinite where there is no noise."""
    if math.isinf(mu):
        return math.inf if mu > 0 else 0.0
    if mu <= 0 or delta_of(mu, 0.0) <= delta:
        return 0.0
    # There delta's first term is `delta` itself, so delta is below it.
    highest = mu**2 / 2 - mu * float(ndtri(delta))
    return float(brentq(lambda epsilon: delta_of(mu, epsilon) - delta, 0.0, highest + 1e-9))


def mu_of(epsilon: float, delta: float) -> float:
    """The largest shift with which a Gaussian keeps within epsilon at delta."""
    high = 1.0
    while delta_of(high, epsilon) < delta:
        high *= 2
    return float(brentq(lambda mu: delta_of(mu, epsilon) - delta, 1e-9, high))
