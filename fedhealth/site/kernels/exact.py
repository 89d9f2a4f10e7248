"""Exact networks of many hospitals at once: `site.exact_network`, stacked.

What goes forward lies on the same lattices and is added up without rounding, so a patient's score has the same bits
here, there and in any company. What goes back is bounded by `ExactNetwork.rounding` here too: that
bound takes sums in any order, and a place without a patient adds zeros. Through a body over time it is exact as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedhealth.models.row_of_steps import OverTime
from fedhealth.site.bends import logistic
from fedhealth.site.exact_network import LEAST, SIGMOID, UNIT, VANISHING, before_normalised, normalised
from fedhealth.site.exact_series import exact_body
from fedhealth.site.exact_sums import CAP, below_cap, onto, rounded
from fedhealth.site.kernels.layers import product
from fedhealth.site.kernels.stack import in_order
from fedhealth.site.patient_gradients import Gradients, clipping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(slots=True)
class _Passed:
    """One layer as it was passed: what came in, what was made of it, and of a linear layer its weights, else what is needed to go back."""

    name: str
    layer: nn.Module
    came: torch.Tensor
    used: torch.Tensor
    beside: torch.Tensor


class _Gradients(Gradients):
    """The same by hospital and place in the batch: `left` is [k, rows, a], and `right`, where there is one, [k, rows, b]."""

    __slots__ = ()

    def totals(self, scale: torch.Tensor) -> torch.Tensor:
        """[k, …] the sums of the gradients, each times its `scale`, [k, rows]."""
        left, right = self.left, self.right
        if right is None:
            return _product(scale[:, None], left)[:, 0]
        if left.shape[2] <= right.shape[2]:
            return _product((left * scale[..., None]).transpose(1, 2), right)
        return _product(left.transpose(1, 2), right * scale[..., None])


class ExactStack:
    """The networks of a stack in fixed point, at the weights that its arrays hold when it is made.

    Args:
        network: gives the shape, known to be stackable and exact (`why_not`, `check_layers`).
        weights: by name [stack, …], float64.
        k: how many of the stack, the first.
    """

    def __init__(self, network: nn.Module, weights: Mapping[str, torch.Tensor], k: int) -> None:
        layers = in_order(network)
        self._over_time = network if isinstance(network, OverTime) else None
        if self._over_time:
            self._body = exact_body(self._over_time, {name: each[:k] for name, each in weights.items()})
            # The body comes first, and is passed by itself.
            layers = layers[1:]
        self._layers = layers
        self._own = {
            name: tuple(weights[f"{name}.{kind}".lstrip(".")][:k] for kind, _ in layer.named_parameters())
            for name, layer in self._layers
        }
        self._rounded = {
            name: rounded(*self._own[name]) for name, layer in self._layers if isinstance(layer, nn.Linear)
        }

    def rounding(self) -> torch.Tensor:
        """[k] as `ExactNetwork.rounding`, not closely; not a number where a weight is not finite."""
        # A linear layer's bias is no number where any of its weights has no lattice; a normalisation's weights show in the bound.
        biases = [own[-1] for own in (self._own | self._rounded).values() if own]
        is_finite = torch.stack([bias.isfinite().all(1) for bias in biases]).all(0)
        if self._over_time:
            return torch.where(is_finite & self._body.has_lattice, biases[0].new_tensor(VANISHING), math.nan)
        far, off, total = (biases[0].new_full(is_finite.shape, start) for start in (1.0, SIGMOID, 0.0))
        for name, layer in reversed(self._layers):
            if isinstance(layer, nn.Linear):
                total += off * (CAP * math.sqrt(layer.in_features) + 1)
                length = torch.linalg.vector_norm(self._rounded[name][0], dim=(1, 2))
                far *= length
                off = off * length + (layer.out_features + 2) * far.clamp_min(LEAST)
            elif isinstance(layer, nn.LayerNorm):
                (width,) = layer.normalized_shape
                total += off * (math.sqrt(width) + 1)
                stretch = self._own[name][0].abs().amax(1) / math.sqrt(layer.eps)
                off, far = (off + (3 * width + 30) * far) * stretch, far * stretch
        return torch.where(is_finite, 2 * UNIT * total, math.nan)

    def clipped(
        self, x: torch.Tensor, y: torch.Tensor, is_in: torch.Tensor, moving: Sequence[str], bound: torch.Tensor,
        *, per_layer: bool,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:  # fmt: skip
        """By name in `moving` the sums of clipped gradients, [k, …], and the norms before clipping.

        As `patient_gradients.clipped_sum` of each hospital.

        Args:
            x: [k, rows, inputs], on the lattice (`onto`).
            y: [k, rows] 0 or 1.
            is_in: [k, rows] 1 where a patient stands, and else 0.
            moving: names of the parameters.
            bound: [k] of a patient's L2 norm over all arrays.
            per_layer: clip each array by itself; norms are then [arrays, k, rows], and else [1, k, rows].
        """
        gradients = self._gradients(x, y, is_in, moving)
        finite, scales, norms = clipping(gradients, bound[:, None], per_layer=per_layer)
        return [each.totals(scale) for each, scale in zip(finite, scales, strict=True)], norms

    def _gradients(
        self, x: torch.Tensor, y: torch.Tensor, is_in: torch.Tensor, moving: Sequence[str]
    ) -> list[_Gradients]:
        score, passed = self._passed(x)
        back = (logistic(score) if self._over_time else score.sigmoid_()).sub_(y[..., None]).mul_(is_in[..., None])
        found: dict[str, _Gradients] = {}
        for each in reversed(passed):
            weight, bias = (f"{each.name}.{kind}".lstrip(".") for kind in ("weight", "bias"))
            is_linear = isinstance(each.layer, nn.Linear)
            if weight in moving:
                found[weight] = _Gradients(back, each.used) if is_linear else _Gradients(back * each.used)
            if bias in moving:
                found[bias] = _Gradients(back)
            if len(found) == len(moving):
                break
            back = self._before(each, back)
        if self._over_time and len(found) < len(moving):
            summary = back[..., : back.shape[2] - self._over_time.static]
            found |= {f"body.{name}": _Gradients(each) for name, each in self._body.backward(summary).items()}
        return [found[name] for name in moving]

    def _passed(self, x: torch.Tensor) -> tuple[torch.Tensor, list[_Passed]]:
        passed: list[_Passed] = []
        if self._over_time:
            summary = self._body.forward(self._over_time.series(x))
            x = torch.cat([summary, x[..., : self._over_time.static]], dim=2)
        for name, layer in self._layers:
            if isinstance(layer, nn.Linear):
                used = onto(x) if passed or self._over_time else x
                weight, bias = self._rounded[name]
                passed.append(_Passed(name, layer, x, used, weight))
                x = torch.baddbmm(bias[:, None], used, weight.transpose(1, 2))
            elif isinstance(layer, nn.LayerNorm):
                normal, spread = normalised(x, layer.eps)
                passed.append(_Passed(name, layer, x, normal, spread))
                weight, bias = self._own[name]
                x = (normal * weight[:, None]).add_(bias[:, None])
            else:
                passed.append(_Passed(name, layer, x, x, x))
                x = x.clamp_min(0.0)
        return x, passed

    def _before(self, passed: _Passed, back: torch.Tensor) -> torch.Tensor:
        """[k, rows, units] the gradient of what went into the layer, from that of what it gives."""
        if isinstance(passed.layer, nn.Linear):
            return below_cap(_product(back, passed.beside), passed.came)
        if isinstance(passed.layer, nn.LayerNorm):
            return before_normalised(back * self._own[passed.name][0][:, None], passed.used, passed.beside)
        return torch.ops.aten.threshold_backward(back, passed.came, 0.0)  # type: ignore[no-any-return]


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return product(a, b, out=a.new_empty(len(a), a.shape[1], b.shape[2]))
