"""APFL: each hospital mixes its own model with the global one, in a proportion it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.strategies.method import Method, Received, Trained, Trainer, prefixed, unprefixed

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.pull import Arrays
    from fedhealth.core.training import LocalTraining

OWN, SHARE = "own", "share"


@settings
class Apfl(Method):
    """Adaptive personalised federated learning (Deng 2020, arXiv:2003.13461, algorithm 1).

    A hospital uses a v + (1 - a) w: w is its copy of the global model, v its own. In each
    step w follows the gradient at w, and v that at the mixture.

    Attributes:
        share: a at the start, in [0, 1].
        learns_share: whether a follows its own gradient (eq. 10), once a round.
    """

    share: float = 0.5
    learns_share: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SettingError(f"strategy: `share` must lie in [0, 1], found {self.share}. Try 0.5.")

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """The steps are written out here, and they are plain gradient steps."""
        if training.optimiser != "sgd" or training.momentum or training.weight_decay or training.clip_norm:
            raise SettingError(
                "apfl trains by plain gradient descent, found momentum, decay, clipping or adamw. "
                "Use optimiser=sgd alone."
            )
        if set(names.all) != set(names.trained):
            raise SettingError(
                "apfl mixes models weight by weight, found running statistics in this one. "
                "Use model.normalisation=layer or none."
            )

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: it works by gradients of its own."""
        del training
        return ()

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """Both models' steps on the same mini-batches; the global one leaves."""
        w = {name: array.copy() for name, array in received.weights.items()}
        v = unprefixed(OWN, memory) if memory else {name: array.copy() for name, array in w.items()}
        share = float(memory[SHARE][0]) if memory else self.share
        if self.learns_share and memory:
            _, at = trainer.gradient(mixed(v, w, share))
            slope = sum(float(np.vdot(v[name] - w[name], at[name])) for name in w)
            share = min(max(share - trainer.training.learning_rate * slope, 0.0), 1.0)
        rate, losses = trainer.training.learning_rate, []
        for rows in trainer.batches():
            loss, for_w = trainer.gradient(w, rows)
            _, for_v = trainer.gradient(mixed(v, w, share), rows)
            w = {name: array - rate * for_w[name] for name, array in w.items()}
            v = {name: array - rate * share * for_v[name] for name, array in v.items()}
            losses.append(loss)
        kept = {**prefixed(OWN, v), SHARE: np.array([share])}
        return Trained(_like(w, received.weights), trainer.size, {"loss": float(np.mean(losses))}, memory=kept)

    def personal(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Arrays:
        """The mixture with the global model as it came."""
        del trainer
        if memory is None:
            return received.weights
        return _like(mixed(unprefixed(OWN, memory), received.weights, float(memory[SHARE][0])), received.weights)


def mixed(v: Arrays, w: Arrays, share: float) -> Arrays:
    """The weights share v + (1 - share) w."""
    return {name: share * v[name] + (1 - share) * w[name] for name in w}


def _like(arrays: Arrays, others: Arrays) -> Arrays:
    return {name: array.astype(others[name].dtype) for name, array in arrays.items()}
