"""Fine-tuning: FedAvg, and at each hospital a few passes more before the model is used there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, Trainer

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.pull import Arrays
    from fedhealth.core.training import LocalTraining


@settings
class Finetune(Method):
    """FedAvg with local fine-tuning (Wang 2019, arXiv:1910.10252, section 2).

    The global model is FedAvg's. A hospital uses it after training it further on its own
    patients; nothing of that leaves, and the next round starts from the global model.

    Attributes:
        epochs: passes over the hospital's training patients before use.
        layers: patterns of the weights that are tuned; empty for all. Running statistics of normalising
            layers follow the patients in any case.
    """

    epochs: int = 1
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise SettingError(f"strategy: `epochs` must be at least 1, found {self.epochs}. Use fedavg for 0.")

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """The named layers must be there."""
        del training
        if self.layers:
            names.trainable(self.layers)

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: a hospital would train anew before each evaluation."""
        del training
        return ()

    def personal(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Arrays:
        """The weights that came, after some passes over this hospital's patients."""
        del memory
        names = trainer.names
        only = names.matching(self.layers) & frozenset(names.trained) if self.layers else None
        return trainer.fit(received.weights, only=only, epochs=self.epochs, purpose="tuning batches").weights
