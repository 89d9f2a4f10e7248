"""Sign flip: the hospital sends the opposite of what it learned."""

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
class SignFlip:
    """It trains, and sends received - factor (trained - received) (Li 2019, arXiv:1811.03761).

    With `factor` the number of honest hospitals to an attacker, all of one size, the plain
    mean stands still.

    Attributes:
        sites: the hospitals that attack.
        factor: how far it goes the other way, above 0.
    """

    sites: tuple[str, ...] = ()
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise SettingError(f"attack: `factor` must be above 0, found {self.factor}. Use attack=free_rider for 0.")

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """How the hospitals attacked."""
        return f"sending {self.factor:g} times the opposite of what training gave"

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's training, turned round."""
        honest, idle = method.train(trainer, received, memory), method.idle(trainer, received, memory)
        return moved(honest, idle, trainer.names, lambda learned: -self.factor * learned)
