"""Engines: how a hospital's share of the training is carried out.

An engine is a `@settings` class with the verbs `fit`, `gradient`, `score` and `predict`. `plain` is the
ordinary loop; it is slow, obvious, and the oracle of every faster one. `batched` takes the same steps for
many hospitals at once (`site.kernels`), and gives each bit for bit what it gets alone. Under `privacy=dp_sgd`
`site.private_engine` takes the place of either; where the study's is `batched`, for many hospitals at once too, and
where it is `native`, those of small networks in C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.pull import Pull
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining


class Engine(Protocol):
    """What every file of this room offers."""

    def fit(
        self,
        network: nn.Module,
        x: NDArray[np.float32],
        y: Outcome,
        training: LocalTraining,
        rng: np.random.Generator,
        *,
        pull: Pull | None = None,
        only: Collection[str] | None = None,
    ) -> tuple[float, int]:
        """The mean training loss and the steps taken, after changing the network's weights in place.

        `pull` is added to each mini-batch's gradient; of the parameters only those in
        `only` move, all where it is None.
        """
        ...

    def gradient(
        self, network: nn.Module, x: NDArray[np.float32], y: Outcome
    ) -> tuple[float, Mapping[str, NDArray[np.floating]]]:
        """The mean loss of these patients and its gradient by parameter; nothing is changed."""
        ...

    def score(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] what the network gives: logits, or log hazard ratios where the model learns times."""
        ...

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        ...
