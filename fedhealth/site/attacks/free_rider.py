"""Free rider: the hospital takes the model and gives nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained


@settings
class FreeRider:
    """It sends the weights back as they came, and claims all its patients (Fraboni 2021, arXiv:2006.11901).

    One that hides by a little noise is attack=gaussian with a small sigma.

    Attributes:
        sites: the hospitals that attack.
    """

    sites: tuple[str, ...] = ()

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """How the hospitals attacked."""
        return "sending the model back as it came, as if trained on all their patients"

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's idle update."""
        return method.idle(trainer, received, memory)
