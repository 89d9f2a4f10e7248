"""Private steps in C: `native_private.c` in the place of `kernels.private.ByTorch`, and of `privacy.noise.noisy_rows`.

Scores have the same bits as the private engine's, for nothing is rounded forward. What goes back adds up in another
order, so clipped sums agree with its own to some 10^-15 of the bound, and are rounded to the same lattice. The noise has
the same bits. Networks over time have a kernel of their own (`native_series`), which is asked in the same words.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedhealth.models.row_of_steps import OverTime
from fedhealth.privacy.alias_table import alias_table
from fedhealth.privacy.noise import BLOCK, STRETCH, lattice_steps, settled
from fedhealth.site.kernels import native_series
from fedhealth.site.kernels.compiling import address, compiled
from fedhealth.site.kernels.native import as_network, why_no_network, why_no_patients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.privacy.noise import NoiseSource
    from fedhealth.site.kernels.private import PrivateJob, Stacked

#: The kernel's bound on rounding is this much larger than it found: it has squares added up in another order than
#: `ExactNetwork.rounding`, which decides wherever this bound is not borne.
_ROOM = 1 + 2.0**-30
_FLOAT = np.dtype(np.float32)
_JOB = np.dtype(
    [(name, np.uintp) for name in ("x", "y", "who", "weights", "sum", "norms")]
    + [(name, np.int64) for name in ("columns", "taken")]
    + [(name, np.float64) for name in ("bound", "rounding")]
)


def why_not(job: PrivateJob) -> str:
    """Why a private job does not go by the native kernel; empty where it does."""
    if job.only is not None:
        return "only some of the weights move"
    if job.engine.patients is not None:
        return "a patient has several rows"
    if job.x.dtype != _FLOAT or job.y.dtype != _FLOAT:
        return "its patients or outcomes are not what a private step is made of"
    network = job.network
    why = native_series.why_no_network(network) if isinstance(network, OverTime) else why_no_network(network)
    return why or why_no_patients(job)


class InC:
    """The clipped sums of a stack's hospitals, one hospital after the other, none of whose jobs has a `why_not`."""

    def __init__(self, stack: Stacked) -> None:
        jobs, k = stack.jobs, len(stack.jobs)
        self._is_per_layer, arrays = jobs[0].engine.is_per_layer, len(stack.weights)
        self._share = math.sqrt(arrays) if self._is_per_layer else 1.0
        self._library, self._network = _kernel_of(jobs[0].network)
        x, y = [np.ascontiguousarray(job.x) for job in jobs], [np.ascontiguousarray(job.y) for job in jobs]
        who = [np.concatenate([np.empty(0, dtype=np.int64), *own]) for own in stack.drawn]
        # For as long as the kernel may be asked: it knows their addresses alone.
        self._held = x, y, who, stack
        self._taken = np.zeros((max(len(own) for own in stack.drawn), k), dtype=np.int64)
        for j, own in enumerate(stack.drawn):
            self._taken[: len(own), j] = [len(batch) for batch in own]
        before = np.cumsum(self._taken, axis=0) - self._taken
        self._at = (before * who[0].itemsize + [address(own) for own in who]).astype(np.uintp)
        self._most = int(self._taken.max(initial=0))
        self._norms = torch.zeros(k, max(self._most, 1), dtype=torch.float64)
        self._space = np.zeros(self._library.space_for(ctypes.byref(self._network), self._most))
        asked = self._asked = np.zeros(k, dtype=_JOB)
        asked["x"], asked["y"] = [address(own) for own in x], [address(own) for own in y]
        for name, block in (("weights", stack.flat), ("sum", stack.gradient), ("norms", self._norms)):
            asked[name] = block.data_ptr() + np.arange(k) * block.stride(0) * block.element_size()
        asked["columns"] = jobs[0].x.shape[1]
        self._address = address(asked)

    def work_out(self, step: int, k: int, bounds: Sequence[float]) -> tuple[Sequence[float], torch.Tensor]:
        """As of `Sums`."""
        asked = self._asked
        asked["who"][:k], asked["taken"][:k] = self._at[step, :k], self._taken[step, :k]
        asked["bound"][:k] = [bound / self._share for bound in bounds]
        self._library.clipped_sums(
            ctypes.byref(self._network), self._is_per_layer, self._address, k, address(self._space), self._most
        )
        return (asked["rounding"][:k] * _ROOM).tolist(), self._norms[:k]


def noisy_rows(
    totals: NDArray[np.float64],
    *,
    noise_multipliers: Sequence[float],
    sensitivities: Sequence[float],
    sources: Sequence[NoiseSource],
) -> NDArray[np.float64]:
    """[sums, d] what `privacy.noise.noisy_rows` gives, to the last bit.

    Raises:
        SettingError: as of it.
        DataError: as of it.
    """
    steps = lattice_steps(totals, noise_multipliers, sensitivities)
    left = np.array(totals, order="C")
    most = 2 * min(left.shape[1], BLOCK)
    draws, undecided = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.int64)
    row, of_draws, of_undecided = address(left), address(draws), address(undecided)
    library, table = _library(), address(alias_table().packed)
    # All keys first: between two tables' look-ups each would find the cache cold.
    streams = [source.words() for source in sources]
    for words, step in zip(streams, steps[:, 0].tolist(), strict=True):
        for start in range(0, left.shape[1], BLOCK):
            size = min(BLOCK, left.shape[1] - start)
            word = words.next(2 * size)
            found = library.look_up(address(word), 2 * size, table, of_draws, of_undecided)
            for at in undecided[:found].tolist():
                draws[at] = settled(int(word[at]), words)
            library.add_noise(row + start * left.itemsize, size, of_draws, STRETCH, step)
        row += left.strides[0]
    return left


def _kernel_of(network: nn.Module) -> tuple[ctypes.CDLL, ctypes.Structure]:
    """The kernel that knows a network, and the network as it is told of it."""
    if isinstance(network, OverTime):
        return native_series.library(), native_series.as_network(network)
    return _library(), as_network(network)


@cache
def _library() -> ctypes.CDLL:
    """The kernel, compiled once a process.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    found = compiled("native_private.c", ["-ffp-contract=off"])
    native_series.declare(found)
    count, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
    found.look_up.argtypes, found.look_up.restype = (pointer, count, pointer, pointer, pointer), count
    found.add_noise.argtypes, found.add_noise.restype = (pointer, count, pointer, ctypes.c_int32, number), None
    return found
