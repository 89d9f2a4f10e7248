"""Ditto: a global model, and beside it each hospital's own, held near it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays, Pull
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, Trained, Trainer

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.training import LocalTraining


@settings
class Ditto(Method):
    """Ditto (Li 2021, arXiv:2012.04221, algorithm 1): FedAvg, and a personal model trained beside it.

    Attributes:
        strength: of the proximal term that holds the personal model to the global one
            (lambda in the paper); 0 is training alone, large is the global model.
        personal_layers: patterns of the weights that may become personal; empty for all.
            The others are the global model's.
    """

    strength: float = 0.1
    personal_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise SettingError(f"strategy: `strength` must be 0 or more, found {self.strength}. Try 0.1.")

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """The named layers must be there."""
        del training
        if self.personal_layers:
            names.trainable(self.personal_layers)

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """Two: the global model, and the personal one, whose scores leave."""
        return (training, training)

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """FedAvg's training, which leaves, and the personal model's, which stays."""
        fitted = trainer.fit(received.weights)
        own = trainer.fit(
            self.personal(trainer, received, memory),
            pull=Pull(strength=self.strength, anchor=received.weights),
            only=self._moving(trainer.names),
            purpose="personal batches",
        )
        kept = {name: own.weights[name] for name in self._kept(trainer.names)}
        return Trained(fitted.weights, trainer.size, {"loss": fitted.loss}, memory=kept)

    def personal(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Arrays:
        """The hospital's own model, which starts as the global one."""
        del trainer
        return {**received.weights, **(memory or {})}

    def _kept(self, names: NetworkNames) -> frozenset[str]:
        return names.matching(self.personal_layers) if self.personal_layers else frozenset(names.all)

    def _moving(self, names: NetworkNames) -> frozenset[str]:
        return self._kept(names) & frozenset(names.trained)
