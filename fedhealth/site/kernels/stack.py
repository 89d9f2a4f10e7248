"""A stack: the networks of many hospitals, of one shape, as one pile of layers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedhealth.models.row_of_steps import OverTime
from fedhealth.site.kernels.layers import LayerNorm, Linear, Relu, Space, whole
from fedhealth.site.kernels.series import body_of, numbers_a_row, summary_of, why_no_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedhealth.site.kernels.layers import Layer, Slot

#: A stack's weights are about 1 MB: beyond, they leave the core's cache and stacking no longer pays.
MOST_PARAMETERS, MOST_STACKED = 2**18, 64
#: So many numbers of working space a stack of networks over time has: 32 MB of float32. More brings no more.
MOST_NUMBERS = 2**23


@lru_cache(maxsize=1)
def why_not(network: nn.Module) -> str:
    """Why networks of this shape can't be stacked; empty where they can. A round's jobs all have the same one."""
    if isinstance(network, OverTime):
        return why_no_body(network)
    for name, layer in in_order(network):
        if not isinstance(layer, nn.Linear | nn.ReLU | nn.LayerNorm):
            return f"its layer {name or 'itself'} is a {type(layer).__name__}, which no kernel knows"
        if isinstance(layer, nn.LayerNorm) and (len(layer.normalized_shape) != 1 or layer.bias is None):
            return "its layer normalisation is over more than one axis, or has no weights"
    layers = [layer for _, layer in in_order(network)]
    if not layers or not isinstance(layers[0], nn.Linear) or not isinstance(layers[-1], nn.Linear):
        return "it does not begin and end with a linear layer"
    return "a layer is used twice" if len({id(layer) for layer in layers}) < len(layers) else ""


def in_order(network: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The layers by name, those of nested sequences too; a network over time stands for its body, and has a head."""
    if isinstance(network, OverTime):
        return [("body", network), ("head", network.head)]
    if not isinstance(network, nn.Sequential):
        return [(prefix, network)]
    found = []
    for name, layer in network._modules.items():  # noqa: SLF001 - named_children leaves out a layer that comes twice
        if layer is not None:
            found += in_order(layer, f"{prefix}.{name}" if prefix else name)
    return found


def height(network: nn.Module, rows: int) -> int:
    """How many networks go into a stack, `rows` patients of each at a time: a function of the two, of no machine."""
    parameters = sum(weight.numel() for weight in network.parameters())
    most = min(max(round(MOST_PARAMETERS / max(parameters, 1)), 1), MOST_STACKED)
    if isinstance(network, OverTime):
        most = min(most, max(MOST_NUMBERS // (rows * numbers_a_row(network)), 1))
    return most


class Stack:
    """The networks of `stack` hospitals, and the working space for `rows` patients of each.

    Args:
        network: gives the shape, known to be stackable (`why_not`).
        stack: how many networks.
        rows: how many rows of each are passed at a time.
        like: a tensor of the type and on the device to work in.
    """

    def __init__(self, network: nn.Module, stack: int, rows: int, like: torch.Tensor) -> None:
        modules = in_order(network)
        self._layers: list[Layer] = []
        self.slots: dict[str, Slot] = {}
        width = 0
        for (name, module), following in zip(modules, [*(m for _, m in modules[1:]), None], strict=True):
            is_before_linear = isinstance(following, nn.Linear)
            spare = int(isinstance(following, nn.Linear) and following.bias is not None)
            space = Space(stack, rows, like, spare, is_before_linear)
            layer: Layer
            if isinstance(module, OverTime):
                layer, width = body_of(module, space), summary_of(module)
            elif isinstance(module, nn.Linear):
                layer, width = Linear(module, space), module.out_features
            elif isinstance(module, nn.LayerNorm):
                layer = LayerNorm(module, space)
            else:
                layer = Relu(module, space, width)  # type: ignore[arg-type]
            self._layers.append(layer)
            self.slots |= {f"{name}.{kind}".lstrip("."): slot for kind, slot in layer.slots().items()}

    def load(self, weights: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Give each network its weights; where all are one mapping, to all alike."""
        for name, slot in self.slots.items():
            copy_in(slot.weight, [each[name] for each in weights])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[k, rows, 1] what the first k networks give for `x`, [k, rows, columns], laid out as `blank_for` does."""
        k = len(x)
        for layer in self._layers:
            x = layer.forward(x, k)
        return x

    def backward(self, g: torch.Tensor) -> None:
        """Leave in the slots the gradients of the first k networks, from `g`, [k, rows, 1], that of what they gave."""
        k = len(g)
        for place in range(len(self._layers) - 1, -1, -1):
            g = self._layers[place].backward(g, k, further=place > 0)


def copy_in(to: torch.Tensor, arrays: Sequence[NDArray[np.generic]]) -> None:
    """Copy arrays into a stack of them, [stack, …]; one array for all where they are the same object."""
    if all(array is arrays[0] for array in arrays):
        to.copy_(torch.from_numpy(np.ascontiguousarray(arrays[0])))
    else:
        to[: len(arrays)].copy_(torch.from_numpy(np.stack(arrays)))


def blank_for(network: nn.Module, rows: int, dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """[rows, columns] room for patients, whose features come first; a column of ones for a bias and zeros follow."""
    first = in_order(network)[0][1]
    if isinstance(first, OverTime):
        return np.zeros((rows, whole(first.static + first.steps * first.across)), dtype=dtype)
    inputs, ones = int(first.in_features), int(first.bias is not None)  # type: ignore[arg-type]
    found = np.zeros((rows, whole(inputs + ones)), dtype=dtype)
    found[:, inputs : inputs + ones] = 1
    return found
