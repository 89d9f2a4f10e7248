"""Gradient descent at the server, with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from fedhealth.core.pull import Arrays


@settings
class Sgd:
    """FedAvgM's step (Hsu 2019, arXiv:1909.06335): v = momentum v + (new - old), then old + rate v."""

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise SettingError(f"`learning_rate` must be above 0, found {self.learning_rate}. Use 1 for a whole step.")
        if not 0 <= self.momentum < 1:
            raise SettingError(f"`momentum` must lie in [0, 1), found {self.momentum}. Try 0.9 or 0.")

    def step(self, old: Arrays, new: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """The next model, and the velocity by weight."""
        velocity: Arrays = {
            name: self.momentum * memory.get(name, np.zeros(array.shape)) + (new[name].astype(np.float64) - array)
            for name, array in old.items()
        }
        return {name: array + self.learning_rate * velocity[name] for name, array in old.items()}, velocity
