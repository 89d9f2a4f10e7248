"""Noised: sums on which every hospital adds its share of one noise, under its mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.update import Update
from fedhealth.secagg.content.sums import SUM
from fedhealth.secagg.protocol.codec import wrong_shape
from fedhealth.secagg.protocol.layout import MOST_LEVELS, Layout, Reals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.lattice import Lattice
    from fedhealth.secagg.protocol.codec import Total


@dataclass(frozen=True, slots=True)
class Noised:
    """Arrays of real numbers, added up as they are, each word with room for noise. Word 0 is 1: a hospital.

    Counts of patients are real numbers here too: with noise on it a count need not be whole. Words have 64
    bits whatever training uses, so that no sum of clipped gradients comes near a bound.

    Attributes:
        shapes: of the arrays, by name.
        lattice: on which all of them lie.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lattice: Lattice

    def layout(self, sites: int) -> Layout:
        """A slot for each array."""
        # The bound that makes a unit as many levels as the lattice says; a float32 already, as layouts take it.
        bound = float(np.float32(MOST_LEVELS / self.lattice.levels))
        slots = tuple(Reals(name, math.prod(shape), bound, weighted=False) for name, shape in self._in_order)
        return Layout(slots, 1, sites, 64, self.lattice.margin)

    def values(self, update: Update) -> tuple[int, Mapping[str, NDArray[np.generic]]]:
        """The arrays, flat.

        Raises:
            Refused: `wrong_shape`.
        """
        if {name: np.shape(array) for name, array in update.arrays.items()} != dict(self.shapes):
            raise wrong_shape("what is summed must have the arrays of the question", "others")
        return 1, {name: np.ravel(update.arrays[name]).astype(np.float64) for name, _ in self._in_order}

    def read(self, total: Total) -> Update:
        """The sums; their weight is the patients in them where they count patients, and else 1."""
        arrays = {name: total.sums[name].astype(np.float64).reshape(shape) for name, shape in self._in_order}
        weight = max(float(arrays[SUM].sum()), 0.0) if SUM in arrays else 1.0
        return Update(weight, arrays)

    @property
    def _in_order(self) -> list[tuple[str, tuple[int, ...]]]:
        return sorted(self.shapes.items())
