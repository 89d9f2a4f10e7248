"""Bodies over time in fixed point, forward and back: what a patient's row gives, and its gradient, are the row's own bits.

They are `models.row_of_steps`' bodies, of many networks at once. What goes forward is as in `site.exact_network`: sums of
products on lattices (`site.exact_sums`), and between them what IEEE 754 fixes number by number (`site.bends`).

What goes back can't be bounded as it is there: 48 steps of a recurrent network stretch rounding by the 48th power of
what one may, and that bound would refuse any. So it is not rounded at all, but in ways that are a row's own. A vector that goes
back through weights, and the output gradients of a patient that a sum over time multiplies with what came in, are
split into two parts (`site.exact_sums.split`) by the row's or the patient's own largest number. Of neither part does a sum of
products need rounding, and the two sums are added number by number. So the gradient is the same to the last bit in any
company, there is nothing to bound, and no weights are refused but those past `exact_sums.FARTHEST`. It is that of the network in
fixed point, passed on through its rounding as if there were none, to 42 bits at up to 64 steps, and one bit less with each
doubling of them beyond, twice.

A patient whose gradient is past 2^400 anywhere on its way counts for nothing; that too is decided by bits that are its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch

from fedhealth.models.row_of_steps import Convolved, OverTime, Recurrent
from fedhealth.site.bends import bend
from fedhealth.site.exact_sums import INPUT_BITS, WEIGHT_BITS, below_cap, bits_for, onto, rounded, row_sums, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

#: Rounds a state to its lattice, 2^-26: it lies between -1 and 1.
_ONTO_STATES = 1.5 * 2.0 ** (52 - INPUT_BITS)

#: Patients of one network whose sums over time are worked out at once: so many that starting an operation costs little.
_TILE = 32
#: A patient whose numbers are past all bounds counts for nothing, and is no occasion for a warning.
_QUIET = np.errstate(over="ignore", invalid="ignore")


class ExactBody(Protocol):
    """A body of many networks, at the weights it was made with."""

    has_lattice: torch.Tensor  #: [k] whether each network's weights are finite, and not too large.

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[k, n, summary] of [k, n, steps, channels], which lie on the lattice."""

    def backward(self, back: torch.Tensor) -> dict[str, torch.Tensor]:
        """By name in the body, [k, n, size]: gradients by patient, from those of the summary passed last."""


def exact_body(network: OverTime, weights: Mapping[str, torch.Tensor]) -> ExactBody:
    """The body of a network over time, which `exact_network.check_layers` lets pass; weights are [k, …], by name in the network."""
    own = {name.removeprefix("body."): weight for name, weight in weights.items()}
    if isinstance(network.body, Recurrent):
        return ExactRecurrent(network.body, own)
    return ExactConvolved(cast("Convolved", network.body), own)


class ExactRecurrent:
    """The last state of a GRU; gates in torch's order: reset, update, new. Arrays run by network, step, patient."""

    def __init__(self, body: Recurrent, weights: Mapping[str, torch.Tensor]) -> None:
        self._hidden = hidden = body.cell.hidden_size
        by_input, by_state = (
            rounded(weights[f"cell.weight_{kind}_l0"], weights[f"cell.bias_{kind}_l0"]) for kind in ("ih", "hh")
        )
        self.has_lattice = by_input[1].isfinite().all(1) & by_state[1].isfinite().all(1)
        self._back_weight = by_state[0]
        # The logistic function is a hyperbolic tangent of half as much: its gates are halved here, which is exact.
        self._by_input, self._by_state = (_halved(*each, 2 * hidden) for each in (by_input, by_state))

    @_QUIET
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[k, n, hidden], as of `ExactBody`."""
        k, n, steps, across = x.shape
        hidden = self._hidden
        self._came = x.new_ones(k, steps, n, across + 1)
        self._came[..., :across] = x.transpose(1, 2)
        self._states = x.new_ones(k, steps + 1, n, hidden + 1)
        self._states[:, 0, :, :hidden] = 0.0
        self._gates, self._new = x.new_empty(k, steps, n, 2 * hidden), x.new_empty(k, steps, n, hidden)
        #: What the reset lets through of the state, and how far the update keeps the state from the new one.
        self._let, self._kept = (np.empty((k, steps, n, hidden)) for _ in range(2))
        by_input = torch.bmm(self._came.flatten(1, 2), self._by_input).view(k, steps, n, 3 * hidden).numpy()
        state = x.new_empty(k, n, 3 * hidden)
        by_state, states = state.numpy(), self._states.numpy()
        slices = zip(self._states.unbind(1), self._gates.unbind(1), self._new.unbind(1), strict=False)
        for t, (before, gates, new) in enumerate(slices):
            torch.bmm(before, self._by_state, out=state)
            gate, bent, let, kept = gates.numpy(), new.numpy(), self._let[:, t], self._kept[:, t]
            np.add(by_input[:, t, :, : 2 * hidden], by_state[..., : 2 * hidden], out=gate)
            bend(gates)
            gate *= 0.5
            gate += 0.5
            np.multiply(gate[..., :hidden], by_state[..., 2 * hidden :], out=let)
            np.add(by_input[:, t, :, 2 * hidden :], let, out=bent)
            bend(new)
            np.subtract(states[:, t, :, :hidden], bent, out=kept)
            kept *= gate[..., hidden:]
            now = states[:, t + 1, :, :hidden]
            np.add(bent, kept, out=now)
            now += _ONTO_STATES
            now -= _ONTO_STATES
        return self._states[:, -1, :, :hidden]

    @_QUIET
    def backward(self, back: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of `ExactBody`."""
        hidden = self._hidden
        k, steps, n, _ = self._new.shape
        gate, bent = self._gates.numpy(), self._new.numpy()
        # By step of the new gate's input, the reset, the update, and the new gate's state: the first three meet what
        # came in, the last three the state.
        gates = back.new_empty(k, steps, n, 4 * hidden)
        every, bits = gates.numpy(), bits_back(hidden, 3 * hidden)
        parts, gone = back.new_empty(k, 2, n, 3 * hidden), back.new_empty(k, 2 * n, hidden)
        high, low, both = parts.numpy()[:, 0], parts.numpy()[:, 1], parts.view(k, 2 * n, 3 * hidden)
        first, second = gone.numpy()[:, :n], gone.numpy()[:, n:]
        along, shut, slope = back.numpy().copy(), np.empty((k, n, hidden)), np.empty((k, n, hidden))
        for t in range(steps - 1, -1, -1):
            of = every[:, t]
            of_new, of_reset, of_update, of_state = (of[..., i * hidden : (i + 1) * hidden] for i in range(4))
            reset, update, new = gate[:, t, :, :hidden], gate[:, t, :, hidden:], bent[:, t]
            np.subtract(1.0, update, out=shut)
            np.multiply(new, new, out=slope)
            np.subtract(1.0, slope, out=slope)
            slope *= shut
            np.multiply(along, slope, out=of_new)
            np.multiply(of_new, reset, out=of_state)
            np.subtract(1.0, reset, out=slope)
            slope *= self._let[:, t]
            np.multiply(of_new, slope, out=of_reset)
            shut *= self._kept[:, t]
            np.multiply(along, shut, out=of_update)
            if t:
                split(of[..., hidden:], bits, (-1,), high, low)
                torch.bmm(both, self._back_weight, out=gone)
                along *= update
                first += second
                along += first
        return self._totals(gates)

    def _totals(self, gates: torch.Tensor) -> dict[str, torch.Tensor]:
        """The gradients by patient, from those of the gates, [k, steps, n, 4 * hidden]."""
        hidden = self._hidden
        k, steps, n, _ = gates.shape
        found: dict[str, torch.Tensor] = {}
        for kind, came in (("ih", self._came), ("hh", self._states)):
            found[f"cell.weight_{kind}_l0"] = gates.new_empty(k, n, 3 * hidden * (came.shape[-1] - 1))
            found[f"cell.bias_{kind}_l0"] = gates.new_empty(k, n, 3 * hidden)
        for j, start in _tiles(k, n):
            some = slice(start, start + _TILE)
            own = gates[j, :, some].transpose(0, 1)
            parts = gates.new_empty(2, len(own), steps, 4 * hidden)
            split(own.numpy(), bits_for(steps, INPUT_BITS), (1,), *parts.numpy())
            for kind, came, first in (("ih", self._came, 0), ("hh", self._states[:, :steps], hidden)):
                across = came.shape[-1] - 1
                seen = came[j, :, some].transpose(0, 1).contiguous().transpose(1, 2)
                high, low = (torch.bmm(seen, part[..., first : first + 3 * hidden]) for part in parts)
                total = high.add_(low).transpose(1, 2)
                if kind == "ih":
                    # The new gate comes first here; it is last in torch's.
                    total = total.roll(-hidden, dims=1)
                found[f"cell.weight_{kind}_l0"][j, some] = total[..., :across].flatten(1)
                found[f"cell.bias_{kind}_l0"][j, some] = total[..., across]
        return found


class ExactConvolved:
    """The mean and the greatest over time of two convolutions, each with a ReLU."""

    def __init__(self, body: Convolved, weights: Mapping[str, torch.Tensor]) -> None:
        first = cast("nn.Conv1d", body.layers[0])
        self._hidden, self._seen = first.out_channels, first.kernel_size[0]
        # [k, filters, steps seen, channels]: a window lies step by step.
        (first_weight, first_bias), (weight, bias) = (
            rounded(weights[f"layers.{place}.weight"].transpose(2, 3).flatten(2), weights[f"layers.{place}.bias"])
            for place in (0, 2)
        )
        self.has_lattice = first_bias.isfinite().all(1) & bias.isfinite().all(1)
        self._first = torch.cat([first_weight, first_bias[..., None]], dim=2)
        self._second = torch.cat([weight, bias[..., None]], dim=2)
        # Back through a convolution is one with its steps turned round.
        turned = weight.view(-1, self._hidden, self._seen, self._hidden).flip(2)
        self._turned = turned.permute(0, 3, 2, 1).flatten(2)

    @_QUIET
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[k, n, 2 * hidden], as of `ExactBody`."""
        k, n, self._steps, self._across = x.shape
        found = x.new_empty(k, n, 2 * self._hidden)
        self._passed = []
        for j, start in _tiles(k, n):
            some = slice(start, start + _TILE)
            before = self._windows(x[j, some].permute(2, 0, 1))
            first = torch.mm(self._first[j], before).clamp_min_(0.0)
            between = self._windows(onto(first).view(self._hidden, -1, self._steps))
            second = torch.mm(self._second[j], between).clamp_min_(0.0).view(self._hidden, -1, self._steps)
            most = second.amax(dim=2)
            found[j, some, : self._hidden] = (row_sums(second)[..., 0] / self._steps).T
            found[j, some, self._hidden :] = most.T
            self._passed.append((j, some, before, first.view_as(second), between, second, most))
        return found

    @_QUIET
    def backward(self, back: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of `ExactBody`."""
        hidden, seen, aten = self._hidden, self._seen, torch.ops.aten
        k, n, _ = back.shape
        named = {
            f"layers.{place}.{kind}": back.new_empty(k, n, size)
            for place, across in ((0, self._across), (2, hidden))
            for kind, size in (("weight", hidden * across * seen), ("bias", hidden))
        }
        bits = bits_for(self._steps, INPUT_BITS)
        both_bits = min(bits, bits_back(seen * hidden, seen * hidden))
        for j, some, before, first, between, second, most in self._passed:
            mean, greatest = torch.split(back[j, some].T, hidden)
            # Steps that share the greatest value share its gradient, as torch's.
            is_most = (second == most[..., None]).double()
            share = greatest / is_most.sum(dim=2)
            of_second = is_most.mul_(share[..., None]).add_((mean / self._steps)[..., None])
            of_second = aten.threshold_backward(of_second, second, 0.0)
            parts = back.new_empty(hidden, 2, *second.shape[1:])
            high, low = parts.numpy().swapaxes(0, 1)
            split(of_second.numpy(), both_bits, (0, 2), high, low)
            self._total(named, 2, j, some, parts, between)
            gone = torch.mm(self._turned[j], self._windows(parts.flatten(1, 2), ones=0)).view_as(parts)
            of_first = below_cap(gone[:, 0] + gone[:, 1], first)
            of_first = aten.threshold_backward(of_first, first, 0.0)
            split(of_first.numpy(), bits, (2,), high, low)
            self._total(named, 0, j, some, parts, before)
        return named

    def _windows(self, x: torch.Tensor, *, ones: int = 1) -> torch.Tensor:
        """[seen * channels + 1, n * steps] what each filter sees at each step of [channels, n, steps], and a one for its bias."""
        channels, n, steps = x.shape
        edge = self._seen // 2
        padded = x.new_zeros(channels, n, steps + 2 * edge)
        padded[..., edge : edge + steps] = x
        found = x.new_empty(self._seen * channels + ones, n, steps)
        found[: self._seen * channels].view(self._seen, channels, n, steps).copy_(
            padded.unfold(2, self._seen, 1).permute(3, 0, 1, 2)
        )
        found[self._seen * channels :] = 1.0
        return found.flatten(1)

    def _total(
        self,
        named: dict[str, torch.Tensor],
        place: int,
        j: int,
        some: slice,
        parts: torch.Tensor,
        windows: torch.Tensor,
    ) -> None:
        """Write down the gradients of a tile's patients by the weights of a convolution."""
        hidden, _, n, steps = parts.shape
        rows = parts.flatten(0, 1).transpose(0, 1)
        seen = windows.view(-1, n, steps).permute(1, 2, 0)
        high, low = torch.bmm(rows, seen).view(n, hidden, 2, -1).unbind(2)
        total = high.add_(low)
        weight = named[f"layers.{place}.weight"][j, some].view(n, hidden, -1, self._seen)
        weight.copy_(total[..., :-1].view(n, hidden, self._seen, -1).transpose(2, 3))
        named[f"layers.{place}.bias"][j, some] = total[..., -1]


def _tiles(k: int, n: int) -> list[tuple[int, int]]:
    """The tiles of patients of each network: the network, and the first patient."""
    return [(j, start) for j in range(k) for start in range(0, n, _TILE)]


def _halved(weight: torch.Tensor, bias: torch.Tensor, gates: int) -> torch.Tensor:
    """[k, in + 1, out] weights and bias as a product takes them, the first `gates` outputs halved."""
    found = torch.cat([weight, bias[..., None]], dim=2).transpose(1, 2).contiguous()
    found[..., :gates] *= 0.5
    return found


def bits_back(inputs: int, outputs: int) -> int:
    """The bits of a part that goes back through a layer: a weight's whole number is at most 2^26 over the inputs, and a half."""
    return 53 - math.ceil(math.log2(outputs * (2**WEIGHT_BITS / inputs + 1)))
