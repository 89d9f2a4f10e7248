"""Scaled update: the hospital sends many times what it learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.site.attacks import moved

if TYPE_CHECKING:
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained


@settings
class Scaled:
    """It trains, and sends received + factor (trained - received) (Bagdasaryan 2018, arXiv:1807.00459, eq. 3).

    With `factor` the number of hospitals, all of one size, the plain mean becomes its model but
    for what the others learned.

    Attributes:
        sites: the hospitals that attack.
        factor: what its change of the model is multiplied by, above 1.
    """

    sites: tuple[str, ...] = ()
    factor: float = 10.0

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise SettingError(f"attack: `factor` must be above 1, found {self.factor}. Try 10.")

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """How the hospitals attacked."""
        return f"sending {self.factor:g} times what training gave"

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's training, blown up."""
        honest, idle = method.train(trainer, received, memory), method.idle(trainer, received, memory)
        return moved(honest, idle, trainer.names, lambda learned: self.factor * learned)
