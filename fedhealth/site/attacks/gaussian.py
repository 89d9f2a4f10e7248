"""Gaussian update: the hospital sends noise in place of what it would have learned."""

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
class Gaussian:
    """It sends received + N(0, sigma^2), fresh in each round and entry (Blanchard 2017, arXiv:1703.02757).

    Attributes:
        sites: the hospitals that attack.
        sigma: standard deviation of each entry, in the units of the weights, above 0.
    """

    sites: tuple[str, ...] = ()
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise SettingError(f"attack: `sigma` must be above 0, found {self.sigma}. Use attack=free_rider for 0.")

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """How the hospitals attacked."""
        return f"sending noise of standard deviation {self.sigma:g} in place of what training gave"

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's training, of which only the shapes are left."""
        honest, idle = method.train(trainer, received, memory), method.idle(trainer, received, memory)
        rng = trainer.rng("attack")
        return moved(honest, idle, trainer.names, lambda learned: rng.normal(0.0, self.sigma, learned.shape))
