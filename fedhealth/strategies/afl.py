"""Agnostic federated learning: the model whose worst hospital fares best."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, SumServer, Trained, Trainer

TILT, LEVEL = "tilt:own", "tilt:level"

#: A hospital whose share underflows still counts as having answered.
_LEAST = 1e-30

if TYPE_CHECKING:
    from fedhealth.core.training import LocalTraining


@settings
class Afl(Method):
    """Agnostic federated learning (Mohri 2019, arXiv:1902.00146), by exponentiated gradient.

    It seeks min over weights of the max over mixtures of the hospitals' losses. The mixture
    moves as in group DRO (Sagawa 2020, arXiv:1911.08731, algorithm 1): hospital k's share is
    proportional to exp(rate times the sum of its losses so far). Each hospital keeps that
    sum itself and weights its own update by it, so the coordinator needs the mean alone.
    For rounds that it missed, the loss that it finds on its return stands: else the mixture
    would lean to whoever is asked most.

    Attributes:
        rate: how fast the mixture leans to the hospitals that fare worst.
    """

    rate: float = 0.1
    is_by_patients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise SettingError(f"strategy: `rate` must be above 0, found {self.rate}. Try 0.1; fedavg leans to nobody.")

    def server(self) -> SumServer:
        """The coordinator's half."""
        return AflServer()

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: it sends the loss of the weights that came."""
        del training
        return ()

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """FedAvg's training, weighted by how badly this hospital has fared."""
        untrained, fitted = self.idle(trainer, received, memory), trainer.fit(received.weights)
        return replace(untrained, arrays={**untrained.arrays, **fitted.weights}, metrics={"loss": fitted.loss})

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The weights as they came, weighted as training would be."""
        loss, _ = trainer.gradient(received.weights)
        before, counted = (0.0, 0) if memory is None else (float(memory["tilt"][0]), int(memory["round"][0]))
        round_ = int(received.config["server-round"])
        tilt = before + self.rate * loss * (round_ - counted)
        share = math.exp(min(tilt - float(received.arrays[LEVEL][0]), 20.0))
        return Trained(
            {**received.weights, TILT: np.array([tilt])},
            max(share, _LEAST),
            {"loss": loss},
            memory={"tilt": np.array([tilt]), "round": np.array([round_])},
        )


class AflServer(SumServer):
    """The mean under the mixture, and the level that keeps its shares near 1."""

    def __init__(self) -> None:
        super().__init__()
        self.level = 0.0

    def beside(self, weights: Arrays) -> Arrays:
        """What each hospital takes off its sum of losses before the exponential."""
        del weights
        return {LEVEL: np.array([self.level])}

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """The weights and the hospital's tilt."""
        return {**super().replies(weights), TILT: (1,)}

    def update(self, mean: Arrays, total: float) -> Arrays:
        """The mean; any level would do, it cancels in the shares."""
        del total
        self.level = float(mean[TILT][0])
        return {name: mean[name] for name in self.weights}
