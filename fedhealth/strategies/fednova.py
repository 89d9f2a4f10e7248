"""FedNova: updates normalised by how far each hospital could walk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays, Pull
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, SumServer, Trained, Trainer

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.training import LocalTraining

REACH = "reach:steps"


@settings
class FedNova(Method):
    """FedNova (Wang 2020, arXiv:2007.07481, eq. 8 to 10).

    A hospital with more patients takes more steps, so that plain averaging minimises
    another loss than that of all patients. Here each sends its change by step, and the
    server walks the mean number of steps along the mean direction.

    Attributes:
        mu: strength of a proximal term at the hospital; 0 for none.
    """

    mu: float = 0.0

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise SettingError(f"strategy: `mu` must be 0 or more, found {self.mu}. Use 0 for no proximal term.")

    def server(self) -> SumServer:
        """The coordinator's half."""
        return FedNovaServer()

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """The reach of the steps is known for gradient descent with momentum or a proximal term."""
        del names
        if training.optimiser != "sgd" or (training.momentum and self.mu):
            found = "adamw" if training.optimiser != "sgd" else "momentum with a proximal term"
            raise SettingError(
                f"fednova must know how far a hospital's steps reach, found {found}. Use optimiser=sgd, with "
                "momentum or strategy.mu but not both."
            )

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The change of the weights by step, and how many steps' worth it was."""
        del memory
        start = received.weights
        fitted = trainer.fit(start, pull=Pull(strength=self.mu, anchor=start) if self.mu else None)
        steps = self._reach(trainer, fitted.steps)
        change = {name: (start[name].astype(np.float64) - end) / steps for name, end in fitted.weights.items()}
        return Trained({**change, REACH: np.array([steps])}, trainer.size, {"loss": fitted.loss})

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """No change, over as many steps as training takes."""
        found = Method.idle(self, trainer, received, memory)
        change = {name: np.zeros(array.shape) for name, array in received.weights.items()}
        steps = self._reach(trainer, trainer.training.steps_for(trainer.size))
        return replace(found, arrays={**change, REACH: np.array([steps])})

    def _reach(self, trainer: Trainer, steps: int) -> float:
        return reach(steps, trainer.training.learning_rate, trainer.training.momentum, self.mu)


class FedNovaServer(SumServer):
    """The mean direction, walked for the mean reach."""

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """A change for each weight, and the reach."""
        return {**super().replies(weights), REACH: (1,)}

    def update(self, mean: Arrays, total: float) -> Arrays:
        """Eq. 8 with tau_eff the weighted mean of the hospitals' reaches."""
        del total
        return {name: weight - mean[REACH][0] * mean[name] for name, weight in self.weights.items()}


def reach(steps: int, rate: float, momentum: float, mu: float) -> float:
    """The L1 norm of the vector a_k: how many plain steps the local optimiser's steps amount to.

    The appendix of the paper: for heavy-ball momentum, and for a proximal term.
    """
    if momentum:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    if mu:
        return (1 - (1 - rate * mu) ** steps) / (rate * mu)
    return float(steps)
