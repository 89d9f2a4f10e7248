"""Engines: how a hospital's share of the training is carried out.

An engine is a `@settings` class with two verbs, `fit` and `predict`. `plain` is the
ordinary loop; it is slow, obvious, and the oracle of every faster one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.study import LocalTraining


class Engine(Protocol):
    """What every file of this room offers."""

    def fit(
        self,
        network: nn.Module,
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        training: LocalTraining,
        rng: np.random.Generator,
    ) -> float:
        """The mean training loss, after changing the network's weights in place."""
        ...

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        ...
