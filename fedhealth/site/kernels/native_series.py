"""Networks over time for `native_private`: `native_series.c`, and what it is told of a GRU or of two convolutions.

Scores have the same bits as the private engine's. What goes back is not split, for in C a patient's gradient is worked out
in the same order in any company; so clipped sums agree with its own to some 2^-40 of the bound.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import TYPE_CHECKING, cast

from fedhealth.models.row_of_steps import Convolved, OverTime, Recurrent
from fedhealth.site.bends import TANH
from fedhealth.site.kernels.compiling import address, compiled
from fedhealth.site.kernels.native import MOST_WEIGHTS
from fedhealth.site.kernels.series import why_no_body

if TYPE_CHECKING:
    from torch import nn


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("is_recurrent", "fixed", "steps", "across", "hidden", "seen")),
        ("tanh", ctypes.c_void_p),
    )


@lru_cache(maxsize=1)
def why_no_network(network: OverTime) -> str:
    """Why a network over time is none that the kernel knows; empty where it is one. It takes each array's size for granted."""
    if why := why_no_body(network):
        return why
    found = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    told = as_network(network)
    expected = _recurrent(told) if told.is_recurrent else _convolved(told)
    if list(found.items()) != list(expected.items()) or told.seen % 2 == 0:
        return "its body or its head has other weights than the model's"
    weights = sum(weight.numel() for weight in network.parameters())
    return f"the network has more than {MOST_WEIGHTS:,} weights" if weights > MOST_WEIGHTS else ""


def as_network(network: OverTime) -> _Network:
    """The network as the kernel is told of it."""
    of_all = {"fixed": network.static, "steps": network.steps, "across": network.across, "tanh": address(TANH)}
    if isinstance(network.body, Recurrent):
        return _Network(is_recurrent=1, hidden=network.body.cell.hidden_size, seen=1, **of_all)
    first = cast("nn.Conv1d", cast("Convolved", network.body).layers[0])
    return _Network(is_recurrent=0, hidden=first.out_channels, seen=first.kernel_size[0], **of_all)


def _recurrent(told: _Network) -> dict[str, tuple[int, ...]]:
    """The shapes of a GRU's weights by name, in the order in which the kernel takes them."""
    gates = 3 * told.hidden
    return {
        "body.cell.weight_ih_l0": (gates, told.across), "body.cell.weight_hh_l0": (gates, told.hidden),
        "body.cell.bias_ih_l0": (gates,), "body.cell.bias_hh_l0": (gates,),
        "head.weight": (1, told.hidden + told.fixed), "head.bias": (1,),
    }  # fmt: skip


def _convolved(told: _Network) -> dict[str, tuple[int, ...]]:
    """The shapes of two convolutions' weights, as of `_recurrent`."""
    hidden = told.hidden
    return {
        "body.layers.0.weight": (hidden, told.across, told.seen), "body.layers.0.bias": (hidden,),
        "body.layers.2.weight": (hidden, hidden, told.seen), "body.layers.2.bias": (hidden,),
        "head.weight": (1, 2 * hidden + told.fixed), "head.bias": (1,),
    }  # fmt: skip


@cache
def library() -> ctypes.CDLL:
    """The kernel, compiled once a process.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    # Scheduled beforehand, its tiles leave the registers: a step of the CNN takes half as long again.
    return declare(compiled("native_series.c", ["-ffp-contract=off", "-fno-schedule-insns"]))


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with what its functions for clipped sums take; all private kernels have the same two."""
    count, pointer = ctypes.c_int64, ctypes.c_void_p
    library.space_for.argtypes, library.space_for.restype = (pointer, count), count
    library.clipped_sums.argtypes, library.clipped_sums.restype = (pointer, count, pointer, count, pointer, count), None
    return library
