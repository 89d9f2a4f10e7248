"""Averages: a round's training, of which the coordinator learns the weighted mean over hospitals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.update import Update
from fedhealth.secagg.protocol.codec import wrong_shape
from fedhealth.secagg.protocol.layout import Layout, Reals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.secagg.protocol.codec import Total
    from fedhealth.secagg.protocol.layout import Slot

WEIGHT = "weight"
#: The largest weight that is no count of patients; shares of a mixture are near 1.
LARGEST_SHARE = 1024.0


@dataclass(frozen=True, slots=True)
class Averages:
    """Arrays and metrics, each times the hospital's weight, and the weight.

    Word 0 is the hospital's patients. Where a method weighs by something else (AFL by a
    share), word 0 is 1 and the weight is a real number among the values.

    Attributes:
        shapes: of the arrays, by name.
        metrics: the names of the numbers beside them.
        is_by_patients: whether the weight is the hospital's patients.
        value_bound: the largest magnitude in an array.
        metric_bound: the largest magnitude of a metric.
        weight_max: the most patients of a hospital.
        bits: of a word.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    is_by_patients: bool
    value_bound: float
    metric_bound: float
    weight_max: int
    bits: int

    def layout(self, sites: int) -> Layout:
        """A slot for each array and metric."""
        largest = 1.0 if self.is_by_patients else LARGEST_SHARE
        slots: list[Slot] = [] if self.is_by_patients else [Reals(WEIGHT, 1, LARGEST_SHARE, weighted=False)]
        pieces = {f"array {name}": (math.prod(shape), self.value_bound) for name, shape in self._filled.items()}
        pieces |= {f"metric {name}": (1, self.metric_bound) for name in self.metrics}
        slots += [
            Reals(name, size, bound * largest, weighted=self.is_by_patients) for name, (size, bound) in pieces.items()
        ]
        return Layout(tuple(slots), self.weight_max if self.is_by_patients else 1, sites, self.bits)

    def values(self, update: Update) -> tuple[int, Mapping[str, NDArray[np.generic]]]:
        """The arrays and metrics, flat.

        Raises:
            Refused: `wrong_shape`.
        """
        shapes = {name: np.shape(array) for name, array in update.arrays.items()}
        if shapes != dict(self.shapes) or set(update.metrics) != set(self.metrics):
            raise wrong_shape("training must give the arrays and numbers of the study's strategy", "others")
        flat = {f"array {name}": np.ravel(update.arrays[name]).astype(np.float64) for name in self._filled}
        flat |= {f"metric {name}": np.array([float(update.metrics[name])]) for name in self.metrics}
        if self.is_by_patients:
            if update.weight != int(update.weight):
                raise wrong_shape("a weight must be a whole number of patients", "another one")
            return int(update.weight), {**flat}
        scaled = {name: values * update.weight for name, values in flat.items()}
        return 1, {WEIGHT: np.array([float(update.weight)]), **scaled}

    def read(self, total: Total) -> Update:
        """The weighted means, and the sum of the weights."""
        weight = float(total.weight if self.is_by_patients else total.sums[WEIGHT][0])
        # Shares that all but vanish are as good as equal to the grain of a word.
        divisor = weight if weight > 0 else 1.0
        arrays = {
            name: total.sums[f"array {name}"].astype(np.float64).reshape(shape) / divisor
            if name in self._filled
            else np.zeros(shape)
            for name, shape in self.shapes.items()
        }
        return Update(weight, arrays, {name: float(total.sums[f"metric {name}"][0]) / divisor for name in self.metrics})

    @property
    def _filled(self) -> dict[str, tuple[int, ...]]:
        """Without arrays of no size, by name in order: how messages carry them is no matter of layout."""
        return {name: shape for name, shape in sorted(self.shapes.items()) if math.prod(shape)}
