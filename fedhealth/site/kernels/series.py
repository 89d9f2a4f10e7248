"""Bodies over time of many networks at once: a GRU by step and convolutions by unfolding, forward and backward by hand.

They take patients' rows as `models.row_of_steps` lays them out, and give the summary of the steps and, beside it, the
columns that have no time. Arrays run by network, step, patient or by network, patient, step; what one
operation of torch reads at a time then lies together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from fedhealth.models.row_of_steps import Convolved, OverTime, Recurrent
from fedhealth.site.kernels.layers import Slot, product, whole

if TYPE_CHECKING:
    from typing import TypeAlias

    from torch import nn

    from fedhealth.site.kernels.layers import Layer, Space

    #: Views of a step's arrays, in the order in which `RecurrentBody` takes them apart.
    _Onward: TypeAlias = tuple[torch.Tensor, ...]
    _Homeward: TypeAlias = tuple[torch.Tensor, ...]


def why_no_body(network: OverTime) -> str:
    """Why no kernel knows this body; empty where one does."""
    body = network.body
    if not isinstance(body, Recurrent | Convolved):
        return f"its body over time is a {type(body).__name__}, which no kernel knows"
    return "it drops units at random, by draws that hospitals share" if body.dropout.p else ""


def body_of(network: OverTime, space: Space) -> Layer:
    """The kernel of a network's body."""
    if isinstance(network.body, Recurrent):
        return RecurrentBody(network, network.body, space)
    return ConvolvedBody(network, _first(network), space)


def summary_of(network: OverTime) -> int:
    """How many columns the body gives, those without time among them."""
    return int(network.head.in_features)


def numbers_a_row(network: OverTime) -> int:
    """How many numbers the body's working space has for one patient."""
    body, steps, across = network.body, network.steps, network.across
    if isinstance(body, Recurrent):
        return steps * (whole(across + 1) + 18 * body.cell.hidden_size)
    hidden, seen = _first(network).out_channels, _first(network).kernel_size[0]
    return steps * (whole(seen * across + 1) + whole(seen * hidden + 1) + seen * hidden + 8 * hidden + across)


class RecurrentBody:
    """The last state of a GRU over the steps; gates in torch's order: reset, update, new."""

    def __init__(self, network: OverTime, body: Recurrent, space: Space) -> None:
        cell = body.cell
        self._static, self._steps, self._across = network.static, network.steps, network.across
        hidden, rows, steps = cell.hidden_size, space.rows, network.steps
        self._hidden = hidden
        self._in = space.empty(whole(self._across + 1), 3 * hidden).zero_()
        self._state = space.empty(whole(hidden + 1), 3 * hidden).zero_()
        self._in_gradient, self._state_gradient = torch.zeros_like(self._in), torch.zeros_like(self._state)
        #: What comes in at each step, and the states from the one before the first on; each with ones for a bias.
        self._came = space.empty(steps, rows, self._in.shape[1]).zero_()
        self._came[..., self._across] = 1.0
        self._states = space.empty(steps + 1, rows, self._state.shape[1]).zero_()
        self._states[..., hidden] = 1.0
        self._by_input = space.empty(steps * rows, 3 * hidden)
        self._by_state = space.like.new_empty(steps, space.stack, rows, 3 * hidden)
        self._gates, self._new = space.empty(steps, rows, 2 * hidden), space.empty(steps, rows, hidden)
        #: How much of a state's gradient goes to what stands before the bend of the new gate, the update and, of that, the reset.
        self._to_new, self._to_update, self._to_reset = (space.empty(steps, rows, hidden) for _ in range(3))
        self._back, self._back_new = space.empty(steps, rows, 3 * hidden), space.empty(steps, rows, hidden)
        self._along, self._passed_on = space.empty(rows, hidden), space.empty(rows, self._state.shape[1])
        self._gave = space.out(hidden + self._static)
        self._views: tuple[int, list[_Onward], list[_Homeward]] = (0, [], [])

    def slots(self) -> dict[str, Slot]:
        """As of `nn.GRU`, [stack, 3 * hidden, inputs] and [stack, 3 * hidden]."""
        found: dict[str, Slot] = {}
        for kind, weight, gradient, inputs in (
            ("ih", self._in, self._in_gradient, self._across),
            ("hh", self._state, self._state_gradient, self._hidden),
        ):
            found[f"cell.weight_{kind}_l0"] = Slot(weight[:, :inputs].transpose(1, 2), gradient[:, :inputs].transpose(1, 2))  # fmt: skip
            found[f"cell.bias_{kind}_l0"] = Slot(weight[:, inputs], gradient[:, inputs])
        return found

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, hidden + static], with what the next layer wants after it."""
        hidden = self._hidden
        series = x[..., self._static : self._static + self._steps * self._across]
        self._came[:k, ..., : self._across] = series.view(k, -1, self._steps, self._across).transpose(1, 2)
        product(self._came[:k].flatten(1, 2), self._in[:k], out=self._by_input[:k])
        weights = self._state[:k]
        for before, by_state, gate, reset, update, candidate, old, now, gate_in, new_in, gate_state, new_state in self._at(k)[0]:  # fmt: skip
            product(before, weights, out=by_state)
            torch.add(gate_in, gate_state, out=gate).sigmoid_()
            torch.addcmul(new_in, reset, new_state, out=candidate).tanh_()
            torch.lerp(candidate, old, update, out=now)
        self._gave[:k, :, :hidden] = self._states[:k, -1, :, :hidden]
        self._gave[:k, :, hidden : hidden + self._static] = x[..., : self._static]
        return self._gave[:k]

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """Nothing of use: a body comes first."""
        del further
        hidden, steps = self._hidden, self._steps
        reset, update, new = self._gates[:k, ..., :hidden], self._gates[:k, ..., hidden:], self._new[:k]
        states, weights = self._states[:k, :steps, :, :hidden], self._state[:k].transpose(1, 2)
        by_state, aten = self._by_state[:, :k, :, 2 * hidden :].transpose(0, 1), torch.ops.aten
        kept = torch.sub(states, new, out=self._to_update[:k])
        aten.sigmoid_backward.grad_input(kept, update, grad_input=kept)
        kept = torch.sub(1.0, update, out=self._to_new[:k])
        aten.tanh_backward.grad_input(kept, new, grad_input=kept)
        kept = self._to_reset[:k].copy_(by_state)
        aten.sigmoid_backward.grad_input(kept, reset, grad_input=kept)
        back, along, passed = self._back[:k], self._along[:k], self._passed_on[:k]
        along.copy_(g[..., :hidden])
        passed_state = passed[..., :hidden]
        for to_new, to_update, to_reset, reset, update, of_new, of_gates, of_reset, of_update, of_state in reversed(self._at(k)[1]):  # fmt: skip
            torch.mul(along, to_new, out=of_new)
            torch.mul(of_new, to_reset, out=of_reset)
            torch.mul(along, to_update, out=of_update)
            torch.mul(of_new, reset, out=of_state)
            product(of_gates, weights, out=passed)
            torch.addcmul(passed_state, along, update, out=along)
        flat = back.flatten(1, 2)
        product(self._states[:k, :steps].flatten(1, 2).transpose(1, 2), flat, out=self._state_gradient[:k])
        back[..., 2 * hidden :] = self._back_new[:k]
        product(self._came[:k].flatten(1, 2).transpose(1, 2), flat, out=self._in_gradient[:k])
        return g

    def _at(self, k: int) -> tuple[list[_Onward], list[_Homeward]]:
        """By step the views of the arrays that are worked on, forward and back: to make them anew takes as long as the work."""
        if self._views[0] != k:
            hidden = self._hidden
            onward: list[_Onward] = []
            homeward: list[_Homeward] = []
            by_input = self._by_input[:k].view(k, self._steps, -1, 3 * hidden)
            for t in range(self._steps):
                gate, by_state, back = self._gates[:k, t], self._by_state[t, :k], self._back[:k, t]
                before, now = self._states[:k, t], self._states[:k, t + 1]
                reset, update = gate[..., :hidden], gate[..., hidden:]
                onward.append((
                    before, by_state, gate, reset, update, self._new[:k, t], before[..., :hidden], now[..., :hidden],
                    by_input[:, t, :, : 2 * hidden], by_input[:, t, :, 2 * hidden :],
                    by_state[..., : 2 * hidden], by_state[..., 2 * hidden :],
                ))  # fmt: skip
                homeward.append((
                    self._to_new[:k, t], self._to_update[:k, t], self._to_reset[:k, t], reset, update,
                    self._back_new[:k, t], back, back[..., :hidden], back[..., hidden : 2 * hidden], back[..., 2 * hidden :],
                ))  # fmt: skip
            self._views = (k, onward, homeward)
        return self._views[1], self._views[2]


class ConvolvedBody:
    """The mean and the greatest over time of two convolutions, each a matrix product with the windows side by side."""

    def __init__(self, network: OverTime, first: nn.Conv1d, space: Space) -> None:
        self._static, self._steps, self._across = network.static, network.steps, network.across
        self._hidden, self._seen = first.out_channels, first.kernel_size[0]
        self._first = _Convolution(self._across, self._hidden, self._seen, self._steps, space)
        self._second = _Convolution(self._hidden, self._hidden, self._seen, self._steps, space)
        self._shape = (space.rows, self._steps, self._hidden)
        self._gave = space.out(2 * self._hidden + self._static)
        self._most = space.empty(space.rows, 1, self._hidden)
        self._back = space.empty(*self._shape)

    def slots(self) -> dict[str, Slot]:
        """As of `nn.Conv1d`, [stack, filters, channels, steps seen] and [stack, filters]."""
        found: dict[str, Slot] = {}
        for place, convolution in ((0, self._first), (2, self._second)):
            found |= {f"layers.{place}.{kind}": slot for kind, slot in convolution.slots().items()}
        return found

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """[k, rows, 2 * hidden + static], with what the next layer wants after it."""
        hidden, gave = self._hidden, self._gave[:k]
        series = x[..., self._static : self._static + self._steps * self._across]
        self._first.take(series.view(k, -1, self._steps, self._across), k)
        self._second.take(self._first.forward(k), k)
        found = self._second.forward(k)
        torch.mean(found, dim=2, out=gave[..., :hidden])
        self._most[:k] = found.amax(dim=2, keepdim=True)
        gave[..., hidden : 2 * hidden] = self._most[:k, :, 0]
        gave[..., 2 * hidden : 2 * hidden + self._static] = x[..., : self._static]
        return gave

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """Nothing of use: a body comes first."""
        del further
        hidden, found = self._hidden, self._second.gave[:k]
        # Steps that share the greatest value share its gradient, as torch's.
        back = torch.eq(found, self._most[:k], out=self._back[:k])
        share = g[..., None, hidden : 2 * hidden] / back.sum(dim=2, keepdim=True)
        back.mul_(share).add_(g[..., None, :hidden] / self._steps)
        self._first.backward(self._second.backward(back, k, further=True), k, further=False)
        return g


class _Convolution:
    """A convolution over time and its ReLU."""

    def __init__(self, across: int, hidden: int, seen: int, steps: int, space: Space) -> None:
        self._across, self._hidden, self._seen, self._steps, self._rows = across, hidden, seen, steps, space.rows
        self._edge, self._flat = seen // 2, seen * across
        rows = whole(self._flat + 1)
        self._weight = space.empty(rows, hidden).zero_()
        self._gradient = torch.zeros_like(self._weight)
        padded = steps + 2 * self._edge
        self._came = space.empty(space.rows, padded, across).zero_()
        self._windows = space.empty(space.rows, steps, rows).zero_()
        self._windows[..., self._flat] = 1.0
        self._back = space.empty(space.rows, padded, hidden).zero_()
        self._turned, self._gone_back = space.empty(space.rows, steps, seen * hidden), space.empty(space.rows, steps, across)  # fmt: skip
        self.gave = space.empty(space.rows, steps, hidden)

    def slots(self) -> dict[str, Slot]:
        """`weight` [stack, filters, channels, steps seen], and `bias` [stack, filters]."""
        weight, gradient = (
            array[:, : self._flat].view(-1, self._seen, self._across, self._hidden).permute(0, 3, 2, 1)
            for array in (self._weight, self._gradient)
        )
        return {
            "weight": Slot(weight, gradient),
            "bias": Slot(self._weight[:, self._flat], self._gradient[:, self._flat]),
        }

    def take(self, x: torch.Tensor, k: int) -> None:
        """Lay the windows of [k, rows, steps, channels] side by side."""
        self._came[:k, :, self._edge : self._edge + self._steps] = x
        self._windows[:k, ..., : self._flat] = _windows(self._came[:k], self._seen)

    def forward(self, k: int) -> torch.Tensor:
        """[k, rows, steps, filters] of what was taken."""
        product(self._windows[:k].flatten(1, 2), self._weight[:k], out=self.gave[:k].flatten(1, 2))
        return self.gave[:k].clamp_min_(0.0)

    def backward(self, g: torch.Tensor, k: int, *, further: bool) -> torch.Tensor:
        """[k, rows, steps, channels] from the gradient of what was given; not to be had where not `further`."""
        torch.ops.aten.threshold_backward.grad_input(g, self.gave[:k], 0.0, grad_input=g)
        windows = self._windows[:k].flatten(1, 2)
        product(windows.transpose(1, 2), g.flatten(1, 2), out=self._gradient[:k])
        if not further:
            return g
        # Back through a convolution is one with its steps turned round.
        self._back[:k, :, self._edge : self._edge + self._steps] = g
        flat = self._seen * self._hidden
        turned = self._weight[:k, : self._flat].view(k, self._seen, self._across, -1).flip(1).transpose(2, 3)
        self._turned[:k] = _windows(self._back[:k], self._seen)
        product(self._turned[:k].flatten(1, 2), turned.reshape(k, flat, self._across), out=self._gone_back[:k].flatten(1, 2))  # fmt: skip
        return self._gone_back[:k]


def _windows(x: torch.Tensor, seen: int) -> torch.Tensor:
    """[k, rows, steps, seen * channels] of [k, rows, steps with both edges, channels], without a copy."""
    k, rows, padded, across = x.shape
    return x.as_strided((k, rows, padded - seen + 1, seen * across), x.stride())


def _first(network: OverTime) -> nn.Conv1d:
    return cast("nn.Conv1d", cast("Convolved", network.body).layers[0])
