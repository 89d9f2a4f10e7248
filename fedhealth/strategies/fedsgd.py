"""FedSGD: one gradient of all hospitals' patients a round, and one step on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays
from fedhealth.core.settings import settings
from fedhealth.strategies.method import COIN, Method, Received, SumServer, Trained, Trainer, prefixed, unprefixed

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.training import LocalTraining

GRADIENT = "gradient"


@settings
class FedSgd(Method):
    """FedSGD (McMahan 2017, arXiv:1602.05629, section 2, algorithm 1 with one step): hospitals send a gradient and no weights.

    Without privacy it is of all their training patients, so the round is a step of gradient descent on
    the pooled patients, exactly. Under `privacy=distributed` it is a sum over patients drawn by secret coins,
    each one's gradient clipped, and the step that of DP-SGD with one curator.

    Attributes:
        learning_rate: of the coordinator's step; a `server_optimiser` may go on from there.
    """

    learning_rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise SettingError(
                f"strategy: `learning_rate` must be above 0 and finite, found {self.learning_rate}. Try 0.5."
            )

    def server(self) -> FedSgdServer:
        """The coordinator's half."""
        return FedSgdServer(self.learning_rate)

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """Nothing moves but by a gradient."""
        del training
        if set(names.all) - set(names.trained):
            raise SettingError(
                "fedsgd moves weights by their gradient and nothing else, found batch normalisation, which has running "
                "statistics. Use model.normalisation=layer."
            )

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: it sends a gradient."""
        del training
        return ()

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The gradient at the weights that came."""
        del memory
        loss, gradient = trainer.gradient(received.weights)
        return Trained(prefixed(GRADIENT, gradient), trainer.size, {"loss": loss})

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """No gradient, as if the model fitted; a hospital that has not trained claims the loss of a coin."""
        del memory
        zero = {name: received.weights[name] * 0 for name in trainer.names.trained}
        return Trained(prefixed(GRADIENT, zero), trainer.size, {"loss": COIN})


class FedSgdServer(SumServer):
    """A step against the mean gradient.

    Attributes:
        learning_rate: of the step.
        divisor: what turns what comes into a mean over patients: 1, or the expected patients of a noisy sum.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.divisor = 1.0

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """The gradient of each weight."""
        return {f"{GRADIENT}:{name}": array.shape for name, array in weights.items()}

    def update(self, mean: Arrays, total: float) -> Arrays:
        """The weights after the step."""
        del total
        gradient = unprefixed(GRADIENT, mean)
        return {
            name: array - self.learning_rate * gradient[name] / self.divisor for name, array in self.weights.items()
        }
