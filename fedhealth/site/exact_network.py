"""A network in fixed point: what it gives for a row is a function of that row alone, to the last bit.

How a processor adds up a matrix product depends on how many rows there are and on where in the batch
a row lies. Mostly that moves the last bit. Where weights are chosen for it, it moves a unit that stands at
its kink, or a score that stands between two bins, for many patients at once, and all because
of one patient beside them; then no bound on one patient's part would hold.

So what goes into a linear layer lies on a lattice, and so do its weights, both so coarse that
every product and every sum of products is a float64 without rounding. Then no order of adding matters.
What comes after (activation, normalisation within a row) is computed element by element, and sums within
a row in an order that depends on its width alone.
Gradients go back in plain float64: nothing there jumps, so their rounding is bounded, by
`ExactNetwork.rounding`. Of a network over time they are exact as well (`site.exact_series`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fedhealth.core.errors import Refused, SettingError
from fedhealth.models.row_of_steps import Convolved, OverTime, Recurrent
from fedhealth.site.bends import logistic
from fedhealth.site.exact_series import ExactBody, exact_body
from fedhealth.site.exact_sums import CAP, FARTHEST, below_cap, onto, onto_lattice, row_sums
from fedhealth.site.patient_gradients import Gradients

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

#: Rows of a network over time that are scored at once.
ROWS = 512
#: Half of float64's spacing at 1: what one operation rounds off, as a share.
UNIT = 2.0**-53
#: A vector counts as no shorter than this on its way back: of numbers that are next to none products are off by more units than their share.
LEAST = 2.0**-1000
#: In place of what rounding does to a gradient over time, where it does nothing: squares of numbers below this may vanish
#: from a norm, so a bound on norms must lie far above it.
VANISHING = 2.0**-500
#: In units, how far two ways of working out a sigmoid lie apart, with room.
SIGMOID = 8


@dataclass(slots=True)
class _Step:
    """One layer as it was passed: what came in, and what is needed to go back."""

    name: str
    layer: nn.Module
    came: torch.Tensor
    used: torch.Tensor
    beside: tuple[torch.Tensor, ...] = ()
    body: ExactBody | None = None


class ExactNetwork:
    """Linear layers, layer normalisations and ReLUs, one after the other, or a body over time and its head, in fixed point.

    It reads the network's weights anew each time. What it gives differs from the network by what rounding the
    weights to some 26 bits does, and by the cap on what goes into a layer.

    Raises:
        SettingError: a layer is of another kind, or used twice.
    """

    def __init__(self, network: nn.Module) -> None:
        check_layers(network)
        self._layers = list(_in_order(network))
        used = [id(layer) for _, layer in self._layers]
        if len(set(used)) < len(used):
            raise SettingError(
                "privacy=dp_sgd needs each layer used once, found one used twice. Use model=logistic or mlp."
            )
        self._is_over_time = isinstance(network, OverTime)
        self._sizes = {name: weight.numel() for name, weight in network.named_parameters()}

    def size(self, names: Sequence[str]) -> int:
        """How many numbers these parameters have together."""
        return sum(self._sizes[name] for name in names)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """[n] what the network gives for the rows `x`, [n, width]; each bit for bit the same whatever is beside it.

        Raises:
            Refused: a weight is not finite.
        """
        if not self._is_over_time:
            return self._passed(x)[0][:, 0]
        # What lies between the layers is long, and a row's score does not depend on who is beside.
        return torch.cat([self._passed(some)[0][:, 0] for some in torch.split(x, ROWS)])

    def gradients(self, x: torch.Tensor, y: torch.Tensor, moving: Sequence[str]) -> list[Gradients]:
        """By name in `moving`, the gradient of each row's log loss.

        Args:
            x: [n, width] rows, float64.
            y: [n] 0 or 1.
            moving: names of the parameters.

        Raises:
            Refused: a weight is not finite.
        """
        score, steps = self._passed(x)
        # The log loss's own gradient at each row's score; nothing is divided by how many rows there are.
        back = (logistic(score) if self._is_over_time else score.sigmoid_()).sub_(y[:, None])
        found: dict[str, Gradients] = {}
        for place in range(len(steps) - 1, -1, -1):
            found |= _own(steps[place], back, moving)
            if len(found) == len(moving):
                break
            back = _before(steps[place], back)
        return [found[name] for name in moving]

    def rounding(self, *, closely: bool = False) -> float:
        """How far apart, in L2, a row's gradient can lie at most when it is worked out beside other rows.

        The usual bound on sums of k products, k units of what their absolute values add up to
        (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1), goes back
        layer by layer; what goes forward has no rounding. What is passed on has a length of at most
        `far` and is off by at most `off` units. `closely` is a smaller bound, at the price of some matrix products.

        Raises:
            Refused: a weight is not finite.
        """
        if isinstance(body := self._layers[0][1], OverTime):
            # Nothing of it is rounded but in ways that are a row's own; it remains to see that the weights are finite.
            _body(body), _rounded(body.head)
            return VANISHING
        far, off, total = 1.0, float(SIGMOID), 0.0
        for _, layer in reversed(self._layers):
            if isinstance(layer, nn.Linear):
                total += off * (CAP * math.sqrt(layer.in_features) + 1)
                weight, _ = _rounded(layer)
                # Absolute values stretch by as much as all singular values together, also where the matrix does not.
                length = float(torch.linalg.vector_norm(weight))
                stretch = min(length, _stretch(weight)) if closely else length
                off = off * stretch + (layer.out_features + 2) * max(far * length, LEAST)
                far *= stretch
            elif isinstance(layer, nn.LayerNorm):
                width = math.prod(layer.normalized_shape)
                total += off * (math.sqrt(width) + 1)
                stretch = float(_finite(layer)[0].abs().max()) / math.sqrt(layer.eps)
                off = (off + (3 * width + 30) * far) * stretch
                far *= stretch
        return 2 * UNIT * total

    def _passed(self, x: torch.Tensor) -> tuple[torch.Tensor, list[_Step]]:
        steps: list[_Step] = []
        with torch.no_grad():
            for name, layer in self._layers:
                if isinstance(layer, nn.Linear):
                    on_lattice = onto(x)
                    weight, bias = _rounded(layer)
                    steps.append(_Step(name, layer, x, on_lattice, (weight,)))
                    x = torch.addmm(bias, on_lattice, weight.T)
                elif isinstance(layer, OverTime):
                    body = _body(layer)
                    summary = body.forward(layer.series(onto(x))[None])[0]
                    steps.append(_Step(name, layer, x, x, body=body))
                    x = torch.cat([summary, x[:, : layer.static]], dim=1)
                elif isinstance(layer, nn.LayerNorm):
                    normal, spread = normalised(x, layer.eps)
                    steps.append(_Step(name, layer, x, normal, (spread,)))
                    weight, bias = _finite(layer)
                    x = (normal * weight).add_(bias)
                else:
                    steps.append(_Step(name, layer, x, x))
                    x = x.clamp_min(0.0)
        return x, steps


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
    if isinstance(network, OverTime) and isinstance(network.body, Recurrent | Convolved):
        if network.body.dropout.p:
            raise SettingError(
                "privacy=dp_sgd needs a patient's gradient to be the same in any company, found a network that drops units "
                f"at random, {network.body.dropout.p:g} of them. Set model.dropout=0."
            )
        return
    unknown = [
        layer
        for layer in network.modules()
        if not isinstance(layer, nn.Linear | nn.LayerNorm | nn.ReLU | nn.Sequential)
    ]
    if unknown:
        # A layer rather than what holds it, where there is one.
        named = next((layer for layer in unknown if not list(layer.children())), unknown[0])
        raise SettingError(
            "privacy=dp_sgd knows the gradient by patient of Linear, LayerNorm and ReLU layers one after the other, "
            f"and of a GRU and convolutions over time, found {type(named).__name__}. Use model=logistic, mlp, gru or cnn."
        )


def _in_order(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if isinstance(network, OverTime):
        yield from (("body", network), ("head", network.head))
        return
    if not isinstance(network, nn.Sequential):
        yield prefix, network
        return
    for name, layer in network._modules.items():  # noqa: SLF001 - named_children leaves out a layer that comes twice
        if layer is not None:
            yield from _in_order(layer, f"{prefix}.{name}" if prefix else name)


def _rounded(layer: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and bias on the finest lattice on which no sum of products needs rounding.

    Raises:
        Refused: one is not finite.
    """
    weight = layer.weight.detach()
    bias = weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    longest = layer.in_features * _largest(weight) + _largest(bias)
    step = onto_lattice(longest)
    if math.isnan(step):
        raise _not_finite()
    return (weight + step).sub_(step), (bias + step).sub_(step)


def _finite(layer: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and bias.

    Raises:
        Refused: one is not finite.
    """
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if not (math.isfinite(_largest(weight)) and math.isfinite(_largest(bias))):
        raise _not_finite()
    return weight, bias


def _body(network: OverTime) -> ExactBody:
    """The body at the weights that the network has now.

    Raises:
        Refused: one is not finite.
    """
    body = exact_body(network, {name: weight.detach()[None] for name, weight in network.named_parameters()})
    if not body.has_lattice:
        raise _not_finite()
    return body


def _not_finite() -> Refused:
    return Refused(
        "weights_not_finite",
        rule=f"a private study's weights must be finite, and those of a row add up to less than {FARTHEST:.0e}",
        found="some that are not",
        remedy="Lower the learning rate, or start from other weights.",
    )


def _largest(weight: torch.Tensor) -> float:
    return max(abs(float(end)) for end in torch.aminmax(weight))


def normalised(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[…, width] rows of mean 0 and, but for `eps`, variance 1; and […, 1] what they were multiplied by.

    The variance is of the very differences that are divided, so no row is longer than the root of the width,
    however the mean was rounded.
    """
    centred = x - row_sums(x) / x.shape[-1]
    variance = row_sums(centred * centred) / x.shape[-1] + eps
    # NumPy's root is the processor's, rounded once; torch may hand it to a library that promises less.
    spread = torch.from_numpy(1 / np.sqrt(variance.numpy()))
    return centred * spread, spread


def before_normalised(back: torch.Tensor, normal: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """[…, width] the gradient of rows from that of what `normalised` made of them."""
    # By the normal row: by the row itself, far from 0 as it may lie, what cancels would leave nothing but rounding.
    mean, along = row_sums(back) / back.shape[-1], row_sums(back * normal) / back.shape[-1]
    return (back - mean - normal * along) * spread


def _stretch(weight: torch.Tensor) -> float:
    """At least the factor by which the matrix makes a vector longer: a norm of the eighth power of its singular values."""
    # Of a matrix with 1 for its largest number: the eighth power of a small one would vanish.
    largest = _largest(weight)
    if largest == 0:
        return 0.0
    scaled = weight / largest
    power = scaled @ scaled.T if weight.shape[0] < weight.shape[1] else scaled.T @ scaled
    for _ in range(2):
        power = power @ power
    # The products' own rounding is far below this room.
    return largest * math.pow(float(torch.linalg.vector_norm(power)), 1 / 8) * (1 + 1e-6)


def _own(step: _Step, back: torch.Tensor, moving: Collection[str]) -> dict[str, Gradients]:
    """The gradients by row of the layer's own weights, from those of what it gives, [n, units]."""
    weight, bias = (f"{step.name}.{kind}".lstrip(".") for kind in ("weight", "bias"))
    found: dict[str, Gradients] = {}
    if step.body is not None and isinstance(step.layer, OverTime):
        summary = back[None, :, : back.shape[1] - step.layer.static]
        named = {f"{step.name}.{kind}": each[0] for kind, each in step.body.backward(summary).items()}
        return {name: Gradients(each) for name, each in named.items() if name in moving}
    if weight in moving:
        is_linear = isinstance(step.layer, nn.Linear)
        found[weight] = Gradients(back, step.used) if is_linear else Gradients(back * step.used)
    if bias in moving:
        found[bias] = Gradients(back)
    return found


def _before(step: _Step, back: torch.Tensor) -> torch.Tensor:
    """[n, units] the gradient of what went into the layer, from that of what it gives."""
    layer = step.layer
    if isinstance(layer, nn.Linear):
        found = below_cap(back @ step.beside[0], step.came)
    elif isinstance(layer, nn.LayerNorm):
        found = before_normalised(back * layer.weight.detach(), step.used, step.beside[0])
    else:
        found = torch.ops.aten.threshold_backward(back, step.came, 0.0)
    return found
