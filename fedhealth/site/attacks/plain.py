"""Plain: no attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained


@settings
class Plain:
    """Every hospital is honest."""

    sites: ClassVar[tuple[str, ...]] = ()

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """Nothing to say."""
        return ""

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's own."""
        return method.train(trainer, received, memory)
