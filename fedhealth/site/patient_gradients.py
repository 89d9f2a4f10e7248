"""Gradients by patient: clipped one by one and summed, without a loop over patients.

The gradient of a linear layer's weight at one row is an outer product, output gradient times
input. Its norm follows from the two factors, and the sum of scaled ones is a matrix product
(Goodfellow 2015, arXiv 1510.01799), so no row's gradient is ever written out. Where a patient
has several rows their mean is what is clipped; it has no such form, and is written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import layer_norm

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradient of one weight array by row, or by patient.

    Attributes:
        left: [n, a], the gradients themselves where `right` is None.
        right: [n, b]; the gradient of a row is then the outer product [a, b] of the two.
    """

    left: torch.Tensor
    right: torch.Tensor | None = None

    def squares(self) -> torch.Tensor:
        """[n] squared L2 norms."""
        found: torch.Tensor = torch.linalg.vecdot(self.left, self.left)
        if self.right is not None:
            found = found * torch.linalg.vecdot(self.right, self.right)
        return found

    def total(self, scale: torch.Tensor) -> torch.Tensor:
        """The sum of the gradients, each times its `scale`, [n]; flat."""
        if self.right is None:
            return scale @ self.left
        return ((self.left * scale[:, None]).T @ self.right).ravel()

    def by_patient(self, patients: torch.Tensor, count: int) -> Gradients:
        """The mean over each patient's rows; `patients`, [n], numbers whose row it is."""
        each = self.left if self.right is None else torch.einsum("na,nb->nab", self.left, self.right).flatten(1)
        summed = each.new_zeros(count, each.shape[1]).index_add_(0, patients, each)
        return Gradients(summed / torch.bincount(patients, minlength=count)[:, None])

    def finite(self) -> Gradients:
        """The same with 0 for what is not a number or infinite."""
        right = None if self.right is None else self.right.nan_to_num(0.0, 0.0, 0.0)
        return Gradients(self.left.nan_to_num(0.0, 0.0, 0.0), right)


class Watched:
    """A network whose linear and layer-normalising layers are watched, so that gradients by row can be told.

    Raises:
        SettingError: a layer has weights and is of another kind.
    """

    def __init__(self, network: nn.Module) -> None:
        check_layers(network)
        self._network = network
        self._seen: dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]] = {}
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.register_forward_hook(self._watch(name))

    def size(self, names: Sequence[str]) -> int:
        """How many numbers these parameters have together."""
        return sum(weight.numel() for name, weight in self._network.named_parameters() if name in names)

    def gradients(self, x: torch.Tensor, y: torch.Tensor, moving: Sequence[str]) -> list[Gradients]:
        """By name in `moving`, the gradient of each row's log loss.

        Args:
            x: [n, width] rows.
            y: [n] 0 or 1.
            moving: names of the parameters.
        """
        self._seen.clear()
        score = self._network(x)
        # The log loss's own gradient at each row's score; nothing is divided by how many rows there are.
        away = torch.sigmoid(score.detach()) - y[:, None]
        outputs = {name: output for name, (_, _, output) in self._seen.items()}
        if len(outputs) == 1:
            back = dict.fromkeys(outputs, away)
        else:
            back = dict(zip(outputs, torch.autograd.grad(score, list(outputs.values()), away), strict=True))
        return [self._of(name, back) for name in moving]

    def _of(self, name: str, back: dict[str, torch.Tensor]) -> Gradients:
        where, _, kind = name.rpartition(".")
        layer, came, _ = self._seen[where]
        out = back[where]
        if kind == "bias":
            return Gradients(out)
        if isinstance(layer, nn.LayerNorm):
            return Gradients(out * layer_norm(came, layer.normalized_shape, eps=layer.eps))
        return Gradients(out, came)

    def _watch(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - torch's own type of a hook
        def seen(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if name in self._seen or output.ndim != 2:
                raise SettingError(
                    f"privacy=dp_sgd needs each layer used once, on [patients, units], found {name or 'the layer'} used "
                    "otherwise. Use model=logistic or mlp."
                )
            self._seen[name] = (layer, inputs[0].detach(), output)

        return seen


def check_layers(network: nn.Module) -> None:
    """Refuse a network in which a patient's own gradient can't be told from the others'.

    Raises:
        SettingError: naming the layer and what to use in its place.
    """
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - no public name
            raise SettingError(
                f"privacy=dp_sgd needs each patient's own gradient, found {type(layer).__name__}, whose output for one "
                "patient depends on the others. Use model.normalisation=layer."
            )
        own = list(layer.parameters(recurse=False)) + list(layer.buffers(recurse=False))
        if own and not isinstance(layer, nn.Linear | nn.LayerNorm):
            raise SettingError(
                f"privacy=dp_sgd knows the gradient by patient of Linear and LayerNorm layers, found "
                f"{type(layer).__name__}. Use model=logistic or mlp."
            )


def clipped_sum(
    gradients: Sequence[Gradients], bound: float, *, per_layer: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The sum over patients of clipped gradients, array by array and flat, and the norms before clipping.

    A patient whose gradient is not finite counts as one without any, and has an infinite norm.

    Args:
        gradients: of each weight array, a row a patient.
        bound: of a patient's L2 norm over all arrays.
        per_layer: clip each array by itself to the bound over the root of their number; the norms
            are then [arrays, patients], and else [1, patients].
    """
    squares = torch.stack([each.squares() for each in gradients])
    if not math.isfinite(float(squares.sum())):
        is_finite = torch.isfinite(squares).all(0)
        gradients = [each.finite() for each in gradients]
        squares = torch.where(is_finite, squares, torch.inf)
    norms = squares.sqrt() if per_layer else squares.sum(0, keepdim=True).sqrt()
    most = bound / len(gradients) ** 0.5 if per_layer else bound
    scales = (most / norms.clamp_min(most)).expand(len(gradients), -1)
    return [each.total(scale) for each, scale in zip(gradients, scales, strict=True)], norms
