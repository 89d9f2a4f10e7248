"""The plain engine: one hospital, one mini-batch after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.models.over_intervals import OverIntervals
from fedhealth.site.discrete_hazards import hazard_loss
from fedhealth.site.partial_likelihood import partial_likelihood
from fedhealth.site.steps import STEPS, Force

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.pull import Pull
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining


@settings
class Plain:
    """Steps on the mean loss of each mini-batch: the cross-entropy, or of times the negative log (partial) likelihood."""

    device: str = "cpu"

    def __post_init__(self) -> None:
        device_named(self.device)

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
        """The mean training loss over all steps and how many they were; the network's weights are changed in place.

        Args:
            network: from [n, width] to [n, 1] logits.
            x: [n, width].
            y: [n] 0 or 1, or [n, 3] for times (`core.risk_sets.Outcome`).
            training: epochs or steps, batch size, optimiser and the rest.
            rng: draws the order of the patients.
            pull: what is added to each gradient, after clipping.
            only: the parameters that move; None for all.
        """
        use_one_thread()
        device = device_named(self.device)
        network.to(device).train()
        features, outcome = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        moving = {name: weight for name, weight in network.named_parameters() if only is None or name in only}
        weights = list(moving.values())
        steps = STEPS[training.optimiser](weights, training)
        force = Force(moving, pull) if pull else None
        # A batch of one has no spread to normalise by.
        least = 2 if any(isinstance(layer, torch.nn.BatchNorm1d) for layer in network.modules()) else 1
        losses = []
        for rows in batches(len(y), training, rng):
            if len(rows) < least:
                continue
            loss = _loss(network, features[rows], outcome[rows])
            gradients: Sequence[torch.Tensor] = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                if training.clip_norm is not None:
                    gradients = _clipped(gradients, training.clip_norm)
                steps.take(force.added(gradients) if force else gradients)
            losses.append(float(loss.detach()))
        return sum(losses) / max(len(losses), 1), len(losses)

    def gradient(
        self, network: nn.Module, x: NDArray[np.float32], y: Outcome
    ) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """The mean loss and its gradient by parameter; a normalising layer uses its running statistics."""
        use_one_thread()
        device = device_named(self.device)
        network.to(device).eval()
        features, outcome = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        loss = _loss(network, features, outcome)
        names, weights = zip(*network.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, weights)
        return float(loss.detach()), {name: g.cpu().numpy() for name, g in zip(names, found, strict=True)}

    def score(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] what the network gives: logits, or log hazard ratios."""
        return self._scored(network, x).cpu().numpy()

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        return torch.sigmoid(self._scored(network, x)).cpu().numpy()

    def _scored(self, network: nn.Module, x: NDArray[np.float32]) -> torch.Tensor:
        use_one_thread()
        device = device_named(self.device)
        network.to(device).eval()
        with torch.no_grad():
            score: torch.Tensor = network(torch.from_numpy(x).to(device)).squeeze(1).double()
        return score


def _loss(network: nn.Module, features: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    score = network(features).squeeze(1)
    if outcome.ndim == 1:
        return binary_cross_entropy_with_logits(score, outcome)
    if isinstance(network, OverIntervals):
        return hazard_loss(network, score, outcome)
    return partial_likelihood(score, outcome)


def _clipped(gradients: Sequence[torch.Tensor], norm: float) -> list[torch.Tensor]:
    """The gradients scaled down together to at most that L2 norm."""
    found = torch.sqrt(torch.stack([(gradient**2).sum() for gradient in gradients]).sum())
    scale = torch.clamp(norm / (found + 1e-6), max=1.0)
    return [gradient * scale for gradient in gradients]


def batches(n: int, training: LocalTraining, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """The rows of each mini-batch: whole passes in fresh order, the last batch of each as large as is left."""
    per_epoch = -(-n // training.batch_size)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(training.steps_for(n)):
        at = step % per_epoch * training.batch_size
        if at == 0:
            order = torch.from_numpy(rng.permutation(n))
        yield order[at : at + training.batch_size]


def device_named(name: str) -> str:
    """The device that a setting names: itself, or of `auto` a GPU where there is one.

    Raises:
        SettingError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError(f"`device` must be auto, cpu, cuda or cuda:N, found {name!r}. Try cpu.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"`device` must be there, found {name} but no CUDA. Use engine.device=cpu.")
    return name


def use_one_thread() -> None:
    """Keep torch on one core."""
    # On shared cores two OpenMP threads are slower than one, and their number changes the last bits.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
