"""The pooled fits, by other people's code and by the derivatives written out: what every strategy is held to."""

from __future__ import annotations

import numpy as np
from scipy.optimize import root
from sklearn.linear_model import LogisticRegression


def logistic_fit(x, y) -> np.ndarray:
    """[d + 1] coefficients and intercept of the unpenalised maximum likelihood over all patients."""
    found = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=200).fit(x, y)
    return np.append(found.coef_[0], found.intercept_)


def cox_fit(hospitals) -> np.ndarray:
    """[d] where the derivatives of the log partial likelihoods of all hospitals' (x, event, days) sum to 0."""
    found = root(lambda at: sum(slope(*each, at) for each in hospitals), np.zeros(hospitals[0][0].shape[1]), tol=1e-13)
    if not found.success:
        raise ArithmeticError(found.message)
    return found.x


def slope(x, event, days, at) -> np.ndarray:
    """The derivative of one hospital's log partial likelihood, day by day, with tied events by Efron's way."""
    weight, found = np.exp(x @ at), np.zeros(len(at))
    for day in np.unique(days[event == 1]):
        at_risk, dead = days >= day, (days == day) & (event == 1)
        total, of_dead = weight[at_risk] @ x[at_risk], weight[dead] @ x[dead]
        for k in range(dead.sum()):
            share = k / dead.sum()
            found -= (total - share * of_dead) / (weight[at_risk].sum() - share * weight[dead].sum())
        found += x[dead].sum(axis=0)
    return found
