"""Steps: what an optimiser, and the pull of a federated method, make of a gradient.

They are written out because `torch.optim` takes as long to import as torch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedhealth.core.pull import Pull
    from fedhealth.core.training import LocalTraining


class Sgd:
    """Heavy-ball momentum and an L2 penalty, as `torch.optim.SGD`."""

    def __init__(self, weights: Sequence[torch.Tensor], training: LocalTraining) -> None:
        self._weights, self._training = weights, training
        self._velocity = [torch.zeros_like(weight) for weight in weights] if training.momentum else None

    def narrow(self, k: int) -> None:
        """From now on step the first `k` of each weight alone; the others keep what they have."""
        self._weights = _first(self._weights, k)
        self._velocity = self._velocity and _first(self._velocity, k)

    def take(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step; the weights change in place."""
        training = self._training
        for i, (weight, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
            direction = gradient + training.weight_decay * weight if training.weight_decay else gradient
            if self._velocity is not None:
                direction = self._velocity[i].mul_(training.momentum).add_(direction)
            weight.sub_(direction, alpha=training.learning_rate)


class AdamW:
    """Decoupled weight decay, as `torch.optim.AdamW` with eps 1e-8."""

    def __init__(self, weights: Sequence[torch.Tensor], training: LocalTraining) -> None:
        self._weights, self._training, self._taken = weights, training, 0
        self._mean = [torch.zeros_like(weight) for weight in weights]
        self._square = [torch.zeros_like(weight) for weight in weights]

    def narrow(self, k: int) -> None:
        """From now on step the first `k` of each weight alone; the others keep what they have."""
        self._weights, self._mean, self._square = (_first(x, k) for x in (self._weights, self._mean, self._square))

    def take(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step; the weights change in place."""
        training = self._training
        self._taken += 1
        corrected1, corrected2 = 1 - training.beta1**self._taken, 1 - training.beta2**self._taken
        for weight, gradient, mean, square in zip(self._weights, gradients, self._mean, self._square, strict=True):
            weight.mul_(1 - training.learning_rate * training.weight_decay)
            mean.mul_(training.beta1).add_(gradient, alpha=1 - training.beta1)
            square.mul_(training.beta2).addcmul_(gradient, gradient, value=1 - training.beta2)
            scale = (square / corrected2).sqrt_().add_(1e-8)
            weight.addcdiv_(mean, scale, value=-training.learning_rate / corrected1)


def _first(tensors: Sequence[torch.Tensor], k: int) -> list[torch.Tensor]:
    return [tensor[:k] for tensor in tensors]


STEPS: dict[str, type[Sgd | AdamW]] = {"sgd": Sgd, "adamw": AdamW}


class Force:
    """A `Pull` on the weights, as tensors."""

    def __init__(self, weights: dict[str, torch.nn.Parameter], pull: Pull) -> None:
        self._weights, self._strength = list(weights.values()), pull.strength
        self._anchor = [_like(pull.anchor[name], w) for name, w in weights.items()] if pull.strength else None
        self._shift = [_like(pull.shift[name], w) if name in pull.shift else None for name, w in weights.items()]

    def added(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients with the pull on the weights as they are."""
        found = [g if s is None else g + s for g, s in zip(gradients, self._shift, strict=True)]
        if self._anchor is None:
            return found
        away = zip(found, self._weights, self._anchor, strict=True)
        return [gradient + self._strength * (weight - anchor) for gradient, weight, anchor in away]


def _like(array: NDArray[np.generic], weight: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(weight)
