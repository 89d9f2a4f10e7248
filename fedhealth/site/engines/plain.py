"""The plain engine: one hospital, one mini-batch after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.study import LocalTraining


@settings
class Plain:
    """Stochastic gradient descent on the mean cross-entropy of each mini-batch.

    The step is written out because `torch.optim` takes as long to import as torch itself.
    Weight decay is the gradient of an L2 penalty, momentum is Polyak's heavy ball, both as
    in `torch.optim.SGD`.
    """

    device: str = "cpu"

    def __post_init__(self) -> None:
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise SettingError(f"`device` must be cpu, cuda or cuda:N, found {self.device!r}. Try cpu.") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SettingError(f"`device` must be there, found {self.device} but no CUDA. Use engine.device=cpu.")

    def fit(
        self,
        network: nn.Module,
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        training: LocalTraining,
        rng: np.random.Generator,
    ) -> float:
        """The mean training loss over all steps; the network's weights are changed in place.

        Args:
            network: from [n, width] to [n, 1] logits.
            x: [n, width].
            y: [n] 0 or 1.
            training: epochs or steps, batch size, learning rate and the rest.
            rng: draws the order of the patients.
        """
        _use_one_thread()
        network.to(self.device).train()
        features, outcome = torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)
        weights = list(network.parameters())
        velocity = [torch.zeros_like(weight) for weight in weights] if training.momentum else None
        total, steps = 0.0, 0
        for rows in _batches(len(y), training, rng):
            logits = network(features[rows]).squeeze(1)
            loss = binary_cross_entropy_with_logits(logits, outcome[rows])
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                _step(weights, gradients, velocity, training)
            total += float(loss.detach())
            steps += 1
        return total / steps

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        _use_one_thread()
        network.to(self.device).eval()
        with torch.no_grad():
            logits = network(torch.from_numpy(x).to(self.device)).squeeze(1).double()
            return torch.sigmoid(logits).cpu().numpy()


def _step(
    weights: list[torch.nn.Parameter],
    gradients: tuple[torch.Tensor, ...],
    velocity: list[torch.Tensor] | None,
    training: LocalTraining,
) -> None:
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        direction = gradient + training.weight_decay * weight if training.weight_decay else gradient
        if velocity is not None:
            direction = velocity[i].mul_(training.momentum).add_(direction)
        weight.sub_(training.learning_rate * direction)


def _batches(n: int, training: LocalTraining, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """The rows of each mini-batch: whole passes in fresh order, the last batch of each as large as is left."""
    per_epoch = -(-n // training.batch_size)
    steps = training.epochs * per_epoch if training.steps is None else training.steps
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        at = step % per_epoch * training.batch_size
        if at == 0:
            order = torch.from_numpy(rng.permutation(n))
        yield order[at : at + training.batch_size]


def _use_one_thread() -> None:
    # On shared cores two OpenMP threads are slower than one, and their number changes the last bits.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
