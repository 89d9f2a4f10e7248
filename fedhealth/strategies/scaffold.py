"""SCAFFOLD: control variates against the drift of local steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Arrays, Pull
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, SumServer, Trained, Trainer, prefixed, unprefixed

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.training import LocalTraining

CONTROL = "control"


@settings
class Scaffold(Method):
    """SCAFFOLD (Karimireddy 2020, arXiv:1910.06378, algorithm 1).

    Each local step follows the gradient plus c - c_k, where c_k estimates this hospital's
    gradient and c all hospitals'. Hospitals are weighted by their patients, so that c is
    the gradient of the loss of all patients. The server's rate is `server_optimiser`'s.

    Attributes:
        option: how c_k is renewed: "I", the gradient at the weights that came, over all
            patients; "II" (eq. 4), the mean step, which costs nothing but holds for plain
            gradient descent only.
    """

    option: Literal["I", "II"] = "II"

    def server(self) -> SumServer:
        """The coordinator's half."""
        return ScaffoldServer()

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """Option II reads the gradient off the steps, so they must be gradient steps; neither goes with clipping."""
        del names
        if training.clip_norm:
            raise SettingError(
                f"scaffold corrects a step by whole gradients, found training.clip_norm={training.clip_norm}, which "
                "cuts the step alone and turns the correction against it. Use clip_norm=null."
            )
        if self.option == "II" and (training.optimiser != "sgd" or training.momentum or training.weight_decay):
            raise SettingError(
                "scaffold's option II needs plain gradient descent, found training with "
                f"{'adamw' if training.optimiser == 'adamw' else 'momentum or decay'}. "
                "Use optimiser=sgd alone, or strategy.option=I."
            )

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """One; none under option I, whose control variate is a gradient of its own."""
        return () if self.option == "I" else (training,)

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """Steps corrected by c - c_k; the change of c_k leaves with the weights."""
        start, server = received.weights, received.beside(CONTROL)
        own = memory or {name: np.zeros_like(array) for name, array in server.items()}
        shift = {name: server[name] - own[name] for name in trainer.names.trained}
        fitted = trainer.fit(start, pull=Pull(shift=shift))
        if self.option == "I":
            _, renewed = trainer.gradient(start)
        else:
            distance = fitted.steps * trainer.training.learning_rate
            renewed = {name: (start[name] - fitted.weights[name]) / distance - shift[name] for name in shift}
        # Running statistics have no gradient; their control stays 0.
        kept = {name: renewed.get(name, array).astype(array.dtype) for name, array in own.items()}
        change = {name: kept[name] - own[name] for name in kept}
        return Trained(
            {**fitted.weights, **prefixed(CONTROL, change)}, trainer.size, {"loss": fitted.loss}, memory=kept
        )

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The weights as they came, and no change of c_k."""
        found = Method.idle(self, trainer, received, memory)
        change = {name: np.zeros_like(array) for name, array in received.beside(CONTROL).items()}
        return replace(found, arrays={**found.arrays, **prefixed(CONTROL, change)})


class ScaffoldServer(SumServer):
    """The mean of the weights, and c moved by the mean change of the c_k."""

    def __init__(self) -> None:
        super().__init__()
        self.control: Arrays = {}

    def beside(self, weights: Arrays) -> Arrays:
        """The control variate c."""
        if not self.control:
            self.control = {name: np.zeros(array.shape, dtype=np.float32) for name, array in weights.items()}
        return prefixed(CONTROL, self.control)

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """Weights, and the change of a control variate for each."""
        return super().replies({**weights, **prefixed(CONTROL, weights)})

    def update(self, mean: Arrays, total: float) -> Arrays:
        """Algorithm 1, lines 16 and 17; hospitals that were not asked keep their c_k."""
        share = self.share_of(total)
        change = unprefixed(CONTROL, mean)
        self.control = {
            name: (control + share * change[name]).astype(control.dtype) for name, control in self.control.items()
        }
        return {name: mean[name] for name in self.weights}
