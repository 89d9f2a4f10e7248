"""Gradients by patient: clipped one by one and summed, without a loop over patients.

The gradient of a linear layer's weight at one row is an outer product, output gradient times
input. Its norm follows from the two factors, and the sum of scaled ones is a matrix product
(Goodfellow 2015, arXiv 1510.01799), so no row's gradient is ever written out. Where a patient
has several rows their mean is what is clipped; it has no such form, and is written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import torch

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
        """[n] squared L2 norms; of several hospitals, [k, n]."""
        found: torch.Tensor = torch.linalg.vecdot(self.left, self.left)
        if self.right is not None:
            found = found * torch.linalg.vecdot(self.right, self.right)
        return found

    def total(self, scale: torch.Tensor) -> torch.Tensor:
        """The sum of the gradients, each times its `scale`, [n]; flat."""
        if self.right is None:
            return scale @ self.left
        if self.left.shape[1] <= self.right.shape[1]:
            return ((self.left * scale[:, None]).T @ self.right).ravel()
        return (self.left.T @ (self.right * scale[:, None])).ravel()

    def by_patient(self, patients: torch.Tensor, count: int) -> Gradients:
        """The mean over each patient's rows; `patients`, [n], numbers whose row it is."""
        each = self.left if self.right is None else torch.einsum("na,nb->nab", self.left, self.right).flatten(1)
        summed = each.new_zeros(count, each.shape[1]).index_add_(0, patients, each)
        return Gradients(summed / torch.bincount(patients, minlength=count)[:, None])

    def finite(self) -> Self:
        """The same with 0 for what is not a number or infinite."""
        right = None if self.right is None else self.right.nan_to_num(0.0, 0.0, 0.0)
        return replace(self, left=self.left.nan_to_num(0.0, 0.0, 0.0), right=right)


AnyGradients = TypeVar("AnyGradients", bound=Gradients)


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
    most = torch.tensor(bound, dtype=torch.float64)
    finite, scales, norms = clipping(gradients, most, per_layer=per_layer)
    return [each.total(scale) for each, scale in zip(finite, scales, strict=True)], norms


def clipping(
    gradients: Sequence[AnyGradients], bound: torch.Tensor, *, per_layer: bool
) -> tuple[Sequence[AnyGradients], torch.Tensor, torch.Tensor]:
    """The gradients with 0 for those not finite, what to scale each by, [arrays, …, patients], and the norms before.

    Args:
        gradients: of each weight array; their `squares` are [… , patients].
        bound: of a patient's L2 norm over all arrays, of a shape that fits beside `squares`.
        per_layer: as of `clipped_sum`.
    """
    squares = torch.stack([each.squares() for each in gradients])
    if not math.isfinite(float(squares.sum())):
        is_finite = torch.isfinite(squares).all(0)
        gradients = [each.finite() for each in gradients]
        squares = torch.where(is_finite, squares, torch.inf)
    norms = squares.sqrt() if per_layer else squares.sum(0, keepdim=True).sqrt()
    most = bound / len(gradients) ** 0.5 if per_layer else bound
    return gradients, (most / torch.maximum(norms, most)).expand_as(squares), norms
