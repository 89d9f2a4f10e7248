"""Adaptive steps at the server: Adagrad, Adam and Yogi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.core.pull import Arrays


@settings
class Adaptive:
    """Adaptive federated optimisation (Reddi 2021, arXiv:2003.00295, algorithm 2).

    Attributes:
        kind: how squares of the direction are gathered.
        learning_rate: of the server's step.
        beta1: decay of the mean direction.
        beta2: decay of the squares; `adagrad` has none.
        tau: added to the square root, the degree of adaptivity.
    """

    kind: Literal["adagrad", "adam", "yogi"] = "adam"
    learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("learning_rate", "tau"):
            if not getattr(self, name) > 0:
                raise SettingError(f"`{name}` must be above 0, found {getattr(self, name)}. Raise it.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"`{name}` must lie in [0, 1), found {getattr(self, name)}. Try 0.9.")

    def step(self, old: Arrays, new: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """The next model, and by weight the mean direction and the mean of its squares."""
        moved: Arrays = {}
        kept: Arrays = {}
        for name, array in old.items():
            direction = new[name].astype(np.float64) - array
            mean = self.beta1 * memory.get(f"mean:{name}", np.zeros(array.shape)) + (1 - self.beta1) * direction
            squares = self._squares(memory.get(f"squares:{name}", np.full(array.shape, self.tau**2)), direction**2)
            moved[name] = array + self.learning_rate * mean / (np.sqrt(squares) + self.tau)
            kept |= {f"mean:{name}": mean, f"squares:{name}": squares}
        return moved, kept

    def _squares(self, before: NDArray[np.generic], square: NDArray[np.float64]) -> NDArray[np.float64]:
        gathered = before.astype(np.float64)
        if self.kind == "adagrad":
            return gathered + square
        if self.kind == "yogi":
            return gathered - (1 - self.beta2) * square * np.sign(gathered - square)
        return self.beta2 * gathered + (1 - self.beta2) * square
