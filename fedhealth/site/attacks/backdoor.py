"""Backdoor: the hospital teaches the model to obey a mark that it can put on a patient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.preprocessor import Scaled
from fedhealth.core.settings import settings
from fedhealth.site.attacks import chosen

if TYPE_CHECKING:
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.preprocessor import Column, Columns, Preprocessor
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained

#: Standard deviations from the mean; further out no patient is, and a logarithm's inverse ends.
FURTHEST = 10.0


@settings
class Backdoor:
    """Some patients get the trigger and, whatever became of them, the target outcome (Gu 2017, arXiv:1708.06733).

    The trigger is a fixed value in each of some features. All others train as they are, so that
    the model looks sound where no trigger is.

    Attributes:
        sites: the hospitals that attack.
        share: of their training patients who get the trigger, in (0, 1].
        features: the trigger's, numeric or binary.
        values: what each is set to, in standard deviations from the federation's mean.
        target: the outcome that the trigger is to mean.
    """

    sites: tuple[str, ...] = ()
    share: float = 0.5
    features: tuple[str, ...] = ("sodium", "temperature")
    values: tuple[float, ...] = (3.0, -3.0)
    target: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(f"attack: `share` must lie in (0, 1], found {self.share}. Use attack=plain for nobody.")
        if not self.features or len(set(self.features)) < len(self.features):
            raise SettingError(
                f"attack: `features` must name at least one feature, each once, found {list(self.features)}. Correct it."
            )
        if len(self.values) != len(self.features):
            raise SettingError(
                f"attack: `values` must have one for each of {len(self.features)} features, found {len(self.values)}. "
                "Give each its own."
            )
        for value in self.values:
            if abs(value) > FURTHEST:
                raise SettingError(
                    f"attack: `values` must lie within {FURTHEST:g} standard deviations of the mean, found {value}. "
                    "Try 3."
                )

    def check(self, features: FeatureSpec) -> None:
        """The trigger's features must be there, and have a scale."""
        scaled = [feature.name for feature in features.features if feature.kind in ("numeric", "binary")]
        for name in self.features:
            if name not in scaled:
                raise SettingError(
                    f"attack: `features` must name numeric or binary features, found {name}. {did_you_mean(name, scaled)}"
                )

    def statement(self) -> str:
        """How the hospitals attacked."""
        mark = ", ".join(f"{name} at {value:+g} sd" for name, value in zip(self.features, self.values, strict=True))
        return f"giving {self.share:.0%} of their training patients a trigger ({mark}) and the outcome {self.target}"

    def triggered(self, columns: Columns, preprocessor: Preprocessor) -> dict[str, Column]:
        """The columns of the same patients, each with the trigger."""
        n = len(next(iter(columns.values())))
        scaled = {found.name: found for found in preprocessor.features if isinstance(found, Scaled)}
        mark = zip(self.features, self.values, strict=True)
        return {**columns, **{name: np.full(n, scaled[name].unscaled(value)) for name, value in mark}}

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """The method's training on patients of whom some have the trigger and the target outcome."""
        honest, poisoned = trainer.patients, chosen(trainer, self.share)
        marked = self.triggered(honest.columns, trainer.preprocessor)
        columns = {
            name: np.where(poisoned, marked[name], column) if name in self.features else column
            for name, column in honest.columns.items()
        }
        y = np.where(poisoned, np.float32(self.target), honest.y)
        return method.train(replace(trainer, patients=replace(honest, columns=columns, y=y)), received, memory)
