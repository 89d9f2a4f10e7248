"""Label flip: the hospital trains on outcomes turned round."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.site.attacks import chosen

if TYPE_CHECKING:
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained


@settings
class LabelFlip:
    """Whoever had the event trains as if without it, and the other way round (Biggio 2012, arXiv:1206.6389).

    Of an outcome with follow-up the event is flipped and the time kept.

    Attributes:
        sites: the hospitals that attack.
        share: of their training patients whose outcome is flipped, in (0, 1].
    """

    sites: tuple[str, ...] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(f"attack: `share` must lie in (0, 1], found {self.share}. Use attack=plain for nobody.")

    def check(self, features: FeatureSpec) -> None:
        """Any features will do."""

    def statement(self) -> str:
        """How the hospitals attacked."""
        return f"training with the outcome of {self.share:.0%} of their patients flipped"

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's training on the flipped outcomes."""
        honest = trainer.patients
        y = np.where(chosen(trainer, self.share), 1 - honest.y, honest.y)
        return method.train(replace(trainer, patients=replace(honest, y=y)), received, memory)
