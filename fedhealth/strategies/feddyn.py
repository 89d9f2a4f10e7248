"""FedDyn: a dynamic regulariser that makes the hospitals' optima agree with the federation's."""

from __future__ import annotations

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays, Pull
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, SumServer, Trained, Trainer


@settings
class FedDyn(Method):
    """FedDyn (Acar 2021, arXiv:2111.04263, algorithm 1).

    A hospital minimises L_k(w) - <g_k, w> + (alpha/2) |w - v|^2, v being the weights that
    came, and keeps g_k, its gradient at the last optimum. Hospitals are weighted by their
    patients.

    Attributes:
        alpha: strength of the regulariser, above 0.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise SettingError(f"strategy: `alpha` must be above 0, found {self.alpha}. Try 0.1.")

    def server(self) -> SumServer:
        """The coordinator's half."""
        return FedDynServer(self.alpha)

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """Training on the regularised loss; the new g_k stays at the hospital."""
        start = received.weights
        own = memory or {name: np.zeros_like(start[name]) for name in trainer.names.trained}
        pull = Pull(strength=self.alpha, anchor=start, shift={name: -gradient for name, gradient in own.items()})
        fitted = trainer.fit(start, pull=pull)
        kept = {name: gradient - self.alpha * (fitted.weights[name] - start[name]) for name, gradient in own.items()}
        return Trained(fitted.weights, trainer.size, {"loss": fitted.loss}, memory=kept)


class FedDynServer(SumServer):
    """The mean of the weights less h / alpha, h being the mean of all hospitals' g_k."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.h: Arrays = {}

    def update(self, mean: Arrays, total: float) -> Arrays:
        """Algorithm 1's last two lines; hospitals that were not asked keep their g_k."""
        share = self.share_of(total)
        before = self.h or {name: np.zeros(array.shape) for name, array in self.weights.items()}
        self.h = {
            name: before[name] - self.alpha * share * (mean[name] - weight) for name, weight in self.weights.items()
        }
        return {name: mean[name] - self.h[name] / self.alpha for name in self.weights}
