"""Federated Newton: the pooled fit of a linear or Cox model, from gradients and Hessians that add up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays
from fedhealth.core.risk_sets import LOWEST, RiskSets, strata
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, SumServer, Trained, Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining

#: A loss summed over patients, its gradient [d] and its Hessian [d, d].
Sums: TypeAlias = tuple[float, "NDArray[np.float64]", "NDArray[np.float64]"]

GRADIENT, HESSIAN, LOSS = "newton:gradient", "newton:hessian", "newton:loss"


@settings
class Newton(Method):
    """Newton's method over hospitals (GLORE: Wu 2012, doi:10.1136/amiajnl-2012-000862).

    The gradient and Hessian of the log-likelihood of all patients are the sums of the
    hospitals', so each round is a Newton step of the pooled fit itself, and a handful of
    rounds reach it. So they are of the log partial likelihood of a Cox model stratified by
    hospital (WebDISCO: Lu 2015, doi:10.1093/jamia/ocv083; `models.cox` says why strata).
    A step that raised the loss is halved in the next round; where other hospitals answered
    than before, their losses can't be compared and a whole step is taken.

    Attributes:
        ridge: strength of an L2 penalty on the mean loss, the intercept left out; 0 for none.
            Where the Hessian is singular, the shortest step is taken.
    """

    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise SettingError(f"strategy: `ridge` must be 0 or more, found {self.ridge}. Use 0 for none.")

    def server(self) -> SumServer:
        """The coordinator's half."""
        return NewtonServer(self.ridge)

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """The Hessian is written out for a linear model."""
        del training
        if not names.is_linear:
            raise SettingError(
                f"newton needs a linear model, found one with the weights {', '.join(names.all)}. Use model=logistic, "
                "or model=cox for a time to an event."
            )

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: it sends a gradient and a Hessian."""
        del training
        return ()

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The mean loss at the weights that came, its gradient and Hessian, in float64."""
        del memory
        sums = logistic_sums if trainer.y.ndim == 1 else cox_sums
        n, (loss, gradient, hessian) = trainer.size, sums(trainer.x, trainer.y, flat(received.weights))
        return Trained(
            {GRADIENT: gradient / n, HESSIAN: hessian / n, LOSS: np.array([loss / n])},
            n,
            {"loss": loss / n},
        )

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """No gradient, as if the model fitted; the Hessian and the loss are true."""
        found = self.train(trainer, received, memory)
        return replace(found, arrays={**found.arrays, GRADIENT: np.zeros_like(found.arrays[GRADIENT])})


class NewtonServer(SumServer):
    """A Newton step on the mean gradient and Hessian, halved while the loss rises."""

    def __init__(self, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        self.lowest, self.total = float("inf"), 0.0
        self.at: NDArray[np.float64] = np.empty(0)
        self.step: NDArray[np.float64] = np.empty(0)

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """The gradient, the Hessian and the loss."""
        d = sum(array.size for array in weights.values())
        return {GRADIENT: (d,), HESSIAN: (d, d), LOSS: (1,)}

    def update(self, mean: Arrays, total: float) -> Arrays:
        """The weights of the next step."""
        here = flat(self.weights)
        penalty = np.full(len(here), self.ridge)
        if "bias" in self.weights:
            penalty[-1] = 0.0
        loss = float(mean[LOSS][0]) + float(penalty @ here**2) / 2
        if total != self.total:
            self.lowest, self.total = float("inf"), total
        # Float32 weights move the loss by some 1e-7 of itself; that is no rise.
        if loss > self.lowest + 1e-6 * abs(self.lowest) and len(self.step):
            self.step = self.step / 2
            return shaped(self.at + self.step, self.weights)
        self.lowest, self.at = loss, here
        hessian = mean[HESSIAN] + np.diag(penalty)
        # A direction without curvature has that of the rounding, which is no direction to step in.
        cut = max(1e-12, len(here) * self.grain)
        self.step = -np.linalg.lstsq(hessian, mean[GRADIENT] + penalty * here, rcond=cut)[0]
        return shaped(here + self.step, self.weights)


def logistic_sums(x: NDArray[np.float32], y: Outcome, at: NDArray[np.float64]) -> Sums:
    """The negative log-likelihood of a logistic model at coefficients and intercept, its gradient and its Hessian."""
    design = np.hstack([x, np.ones((len(y), 1))]).astype(np.float64)
    logit = design @ at
    p = np.exp(-np.logaddexp(0, -logit))
    loss = float(np.sum(np.logaddexp(0, logit) - y * logit))
    return loss, design.T @ (p - y), (design * (p * (1 - p))[:, None]).T @ design


def cox_sums(x: NDArray[np.float32], y: Outcome, at: NDArray[np.float64]) -> Sums:
    """The negative log partial likelihood of a Cox model at coefficients, its gradient and its Hessian (Efron's ties).

    With w = exp(score), h_i the sum of 1 / denominator over the events that patient i was at
    risk of, and z_e the mean row of those at risk of event e, weighted by w: the gradient
    is x'(w h - event), and the Hessian x' diag(w h) x less the sum of z_e z_e'.
    """
    design, d = x.astype(np.float64), len(at)
    loss, gradient, hessian = 0.0, np.zeros(d), np.zeros((d, d))
    for rows in strata(y):
        own, event = design[rows], y[rows, 0]
        sets = RiskSets.of(event, y[rows, 1])
        score = own @ at
        top = float(score.max())
        weight = np.exp(np.maximum(score - top, LOWEST))
        below = sets.denominators(weight)
        hazard = weight * sets.hazard(below)
        mean = sets.denominators(weight[:, None] * own) / below[:, None]
        loss += float(np.sum(np.log(below) + top - score[sets.events]))
        gradient += own.T @ (hazard - event)
        hessian += (own * hazard[:, None]).T @ own - mean.T @ mean
    return loss, gradient, hessian


def flat(weights: Arrays) -> NDArray[np.float64]:
    """[d] the coefficients of a linear layer and then its intercept, where it has one."""
    return np.concatenate([weights[name].ravel() for name in ("weight", "bias") if name in weights]).astype(np.float64)


def shaped(coefficients: NDArray[np.float64], like: Arrays) -> Arrays:
    """The inverse of `flat`, in the shapes of `like`."""
    d = like["weight"].size
    found = {"weight": coefficients[:d].reshape(like["weight"].shape), "bias": coefficients[d:]}
    return {name: found[name] for name in like}
