"""Methods that leave some layers at the hospital, told apart by which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.strategies.method import Method, Received, Trained, Trainer

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.pull import Arrays
    from fedhealth.core.training import LocalTraining


class KeepsLayers(Method):
    """A method whose `kept` weights never leave the hospital; the others are averaged."""

    __slots__ = ()

    def kept(self, names: NetworkNames) -> frozenset[str]:
        """The weights that stay at the hospital."""
        raise NotImplementedError

    def shared(self, names: NetworkNames) -> frozenset[str]:
        """The others."""
        return frozenset(names.all) - self.kept(names)

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """Something must stay, and something must travel."""
        del training
        kept = self.kept(names)
        method = type(self).__name__.lower()
        if not kept:
            raise SettingError(
                f"{method} must keep some layers at the hospital, found none in this model. {self.remedy()}"
            )
        if not frozenset(names.trained) - kept:
            raise SettingError(
                f"{method} must share some layers, found that it keeps all of this model's. "
                "Choose a deeper model, such as model=mlp."
            )

    def remedy(self) -> str:
        """What to do where no layer would stay."""
        return "Name them in strategy.personal_layers."

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """Training of all layers; the hospital's own are kept."""
        fitted = trainer.fit(self.personal(trainer, received, memory))
        return self.parted(trainer, fitted.weights, fitted.loss)

    def parted(self, trainer: Trainer, weights: Arrays, loss: float) -> Trained:
        """What leaves and what stays of all weights."""
        kept = self.kept(trainer.names)
        return Trained(
            {name: array for name, array in weights.items() if name not in kept},
            trainer.size,
            {"loss": loss},
            memory={name: array for name, array in weights.items() if name in kept},
        )

    def personal(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Arrays:
        """The shared layers as they came, with the hospital's own, which start as everybody's.

        A hospital that was never asked to train has no layers of its own yet: it is evaluated
        with untrained ones.
        """
        return {**trainer.first_weights(), **received.weights, **(memory or {})}
