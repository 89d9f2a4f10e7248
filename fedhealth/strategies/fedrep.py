"""FedRep: the head is fitted to the shared body first, then the body to the head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.strategies.layers import KeepsLayers
from fedhealth.strategies.method import Received, Trained, Trainer

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.pull import Arrays
    from fedhealth.core.training import LocalTraining


@settings
class FedRep(KeepsLayers):
    """FedRep (Collins 2021, arXiv:2102.07078, algorithm 1).

    Attributes:
        personal_layers: patterns of the weights that stay at the hospital; empty for the last layer.
        head_epochs: passes over the patients that fit the head before the body moves.
    """

    personal_layers: tuple[str, ...] = ()
    head_epochs: int = 1

    def __post_init__(self) -> None:
        if self.head_epochs < 1:
            raise SettingError(
                f"strategy: `head_epochs` must be at least 1, found {self.head_epochs}. Use fedper for 0."
            )

    def kept(self, names: NetworkNames) -> frozenset[str]:
        """The named layers, or the head."""
        return names.matching(self.personal_layers) if self.personal_layers else names.head

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """Two: the head, which shapes the body, and the body."""
        return (replace(training, epochs=self.head_epochs, steps=None), training)

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The head with the body held, then the body with the head held."""
        kept = self.kept(trainer.names)
        start = self.personal(trainer, received, memory)
        head = trainer.fit(start, only=kept, epochs=self.head_epochs, purpose="head batches")
        body = trainer.fit(head.weights, only=frozenset(trainer.names.trained) - kept)
        return self.parted(trainer, body.weights, body.loss)
