"""Logistic recalibration: how outcomes follow the logit of what was predicted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.measure import Measure, not_estimable
from fedhealth.evaluation.intervals import Z, cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.evaluation.scores import ScoreSums

_FARTHEST = 4.0


def recalibration(sums: ScoreSums, *, slope: bool) -> Measure:
    """The slope, or else the intercept, of the logistic recalibration, fitted by Newton's method to the cells.

    Its interval is a normal one by the sandwich variance (White 1982, doi:10.2307/1912526),
    which stands also where the recalibration curve is no straight line.
    """
    found = cells(sums)
    logit = np.log(found.probability / (1 - found.probability))
    patients = found.positives + found.negatives
    design = np.stack([np.ones_like(logit), logit], axis=1) if slope else np.ones((len(logit), 1))
    offset = np.zeros_like(logit) if slope else logit
    coefficients, hessian, expected = _newton(design, offset, found.positives, patients)
    if np.isnan(coefficients).any():
        return not_estimable("the recalibration did not settle")
    scatter = found.positives * (1 - expected) ** 2 + found.negatives * expected**2
    inverse = np.linalg.inv(hessian)
    variance = inverse @ (design.T @ (scatter[:, None] * design)) @ inverse
    value, half = float(coefficients[-1]), Z * math.sqrt(float(variance[-1, -1]))
    return Measure(value, value - half, value + half, method="normal, sandwich variance")


def _newton(
    design: NDArray[np.float64], offset: NDArray[np.float64], positives: NDArray[np.float64], n: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The logistic fit to grouped data: coefficients [k], Hessian [k, k], fitted probability [cells].

    A step that lowers the likelihood is halved until it does not, and none moves a logit
    by more than `_FARTHEST`: from confident wrong predictions Newton's own step overflows. The coefficients are NaN where 100 steps do not settle it.
    """

    def likelihood(at: NDArray[np.float64]) -> float:
        eta = offset + design @ at
        return float(positives @ eta - n @ np.logaddexp(0, eta))

    at = np.zeros(design.shape[1])
    reached = likelihood(at)
    for _ in range(100):
        expected = 1 / (1 + np.exp(-(offset + design @ at)))
        hessian = design.T @ ((n * expected * (1 - expected))[:, None] * design)
        step = np.linalg.solve(hessian, design.T @ (positives - n * expected))
        step = step * (_FARTHEST / max(float(np.abs(design @ step).max()), _FARTHEST))
        while (following := likelihood(at + step)) < reached and np.abs(step).max() > 1e-10:
            step = step / 2
        at, reached = at + step, following
        if np.abs(step).max() <= 1e-10:
            return at, hessian, expected
    return np.full_like(at, np.nan), hessian, expected
