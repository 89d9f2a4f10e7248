"""Layers of many networks at once: forward and backward by hand, over the first `k` of a stack.

A layer holds the weights of all networks of a stack, [stack, …], and its own working space. `k` is how many
of them still train; the longest come first, so the others are left alone by not being looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Columns are padded to a multiple of this. A processor adds up a row that begins elsewhere in a cache line another way.
COLUMNS = 8


def whole(columns: int) -> int:
    """So many columns with their padding."""
    return -(-columns // COLUMNS) * COLUMNS


@dataclass(frozen=True, slots=True)
class Space:
    """How much room a layer needs: networks stacked, rows of each, and a tensor whose type and device it takes.

    A linear layer wants its input padded, and where it has a bias a column of ones before the padding: `spare` is 1 then.
    """

    stack: int
    rows: int
    like: torch.Tensor
    spare: int
    is_before_linear: bool

    def empty(self, *shape: int) -> torch.Tensor:
        """[stack, …] not yet written to."""
        return self.like.new_empty(self.stack, *shape)

    def out(self, width: int) -> torch.Tensor:
        """[stack, rows, …] for what a layer of that width gives, then the spare column of ones, then zeros."""
        columns = whole(width + self.spare) if self.is_before_linear else width
        found = torch.zeros(self.stack, self.rows, columns, dtype=self.like.dtype, device=self.like.device)
        found[..., width : width + self.spare] = 1.0
        return found


@dataclass(frozen=True, slots=True)
class Slot:
    """One weight array of all networks as a view of where its layer holds it, and the same of its gradient."""

    weight: torch.Tensor
    gradient: torch.Tensor


class Layer(Protocol):
    """What every kind of layer offers."""

    def slots(self) -> Mapping[str, Slot]:
        """By name within the layer, in torch's own layout; none of a layer without weights."""
        ...

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, …] what the layer gives for what the one before gave."""
        ...

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """The gradient of what came in, from that of what was given; the weights' go to their slots.

        It may write into `g`. Where not `further`, nobody asks for what it returns.
        """
        ...


class Linear:
    """A linear layer; its bias is the last row of the weights, and meets the ones after what comes in."""

    def __init__(self, layer: nn.Linear, space: Space) -> None:
        self._inputs = layer.in_features
        self._has_bias = layer.bias is not None
        rows = whole(self._inputs + self._has_bias)
        self.weight = torch.zeros_like(space.empty(rows, layer.out_features))
        self.gradient = torch.zeros_like(self.weight)
        self._gave = space.empty(space.rows, layer.out_features)
        self._outputs = layer.out_features
        self._padded = space.out(self._outputs) if space.is_before_linear else self._gave
        self._back = space.empty(space.rows, rows)
        self._came = self._gave

    def slots(self) -> dict[str, Slot]:
        """`weight` [stack, out, in], and `bias` [stack, out]."""
        i = self._inputs
        found = {"weight": Slot(self.weight[:, :i].transpose(1, 2), self.gradient[:, :i].transpose(1, 2))}
        if self._has_bias:
            found["bias"] = Slot(self.weight[:, i], self.gradient[:, i])
        return found

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, out]."""
        self._came = x
        gave = product(x, self.weight[:k], out=self._gave[:k])
        if self._padded is self._gave:
            return gave
        self._padded[:k, :, : self._outputs] = gave
        return self._padded[:k]

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """[k, rows, in]."""
        product(self._came.transpose(1, 2), g, out=self.gradient[:k])
        if not further:
            return g
        return product(g, self.weight[:k].transpose(1, 2), out=self._back[:k])[..., : self._inputs]


class Relu:
    """max(x, 0); at 0 the gradient is 0, as torch's."""

    def __init__(self, layer: nn.ReLU, space: Space, width: int) -> None:
        del layer
        self._gave, self._width = space.out(width), width

    def slots(self) -> dict[str, Slot]:
        """None."""
        return {}

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, width], with what the next layer wants after it."""
        torch.clamp_min(x, 0.0, out=self._gave[:k, :, : self._width])
        return self._gave[:k]

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """`g` where what was given is above 0."""
        del further
        return torch.ops.aten.threshold_backward.grad_input(g, self._gave[:k, :, : self._width], 0.0, grad_input=g)  # type: ignore[no-any-return]


class LayerNorm:
    """Normalisation within a row."""

    def __init__(self, layer: nn.LayerNorm, space: Space) -> None:
        (self._width,), self._eps = layer.normalized_shape, layer.eps
        self.weight, self.bias = space.empty(1, self._width), space.empty(1, self._width)
        self._gradients = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self._ones = space.like.new_ones(space.stack, 1, space.rows)
        self._gave = space.out(self._width)
        self._passed: tuple[torch.Tensor, ...] = ()

    def slots(self) -> dict[str, Slot]:
        """`weight` and `bias`, [stack, width]."""
        of_weight, of_bias = self._gradients
        return {
            "weight": Slot(self.weight[:, 0], of_weight[:, 0]),
            "bias": Slot(self.bias[:, 0], of_bias[:, 0]),
        }

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, width], with what the next layer wants after it."""
        normal, mean, spread = torch.native_layer_norm(x, [self._width], None, None, self._eps)
        self._passed = (x, normal, mean, spread)
        torch.addcmul(self.bias[:k], normal, self.weight[:k], out=self._gave[:k, :, : self._width])
        return self._gave[:k]

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """[k, rows, width]."""
        x, normal, mean, spread = self._passed
        of_weight, of_bias = self._gradients
        product(self._ones[:k], g * normal, out=of_weight[:k])
        product(self._ones[:k], g, out=of_bias[:k])
        if not further:
            return g
        scaled = g * self.weight[:k]
        mask = [True, False, False]
        found = torch.ops.aten.native_layer_norm_backward(scaled, x, [self._width], mean, spread, None, None, mask)
        return found[0]  # type: ignore[no-any-return]


def product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """[k, …] the matrix products, each of them the same bits however many there are."""
    if a.shape[0] == 1 and b.shape[2] == 1:
        # A lone product with a single column goes another way, as a matrix times a vector.
        return out.copy_(torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1])
    return torch.bmm(a, b, out=out)
