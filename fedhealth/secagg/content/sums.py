"""Sums: counts and totals that add up, such as moments and score histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.update import Update
from fedhealth.secagg.protocol.codec import wrong_shape
from fedhealth.secagg.protocol.layout import Counts, Layout, Reals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.span import Span
    from fedhealth.secagg.protocol.codec import Total
    from fedhealth.secagg.protocol.layout import Slot

#: The name of the vector in an update, and of the slot beside it.
SUM, PATIENTS = "sum", "patients"


@dataclass(frozen=True, slots=True)
class Sums:
    """One vector of numbers, and the patients behind it. Word 0 is 1: a hospital.

    Words have 64 bits whatever training uses: a total of squared losses takes some 50. A
    bound is a power of two, so a number is held to a power of two as well: to 2^-29 and finer
    for score sums of up to 2^17 patients, which are whole multiples of 2^-20 and so exact.
    """

    spans: tuple[Span, ...]
    weight_max: int

    def layout(self, sites: int) -> Layout:
        """A slot for each span, after the patients."""
        slots = (Counts(PATIENTS, 1, self.weight_max), *map(self._slot, self.spans))
        return Layout(slots, 1, sites, 64)

    def values(self, update: Update) -> tuple[int, Mapping[str, NDArray[np.generic]]]:
        """The vector cut into its spans; counts as whole numbers.

        Raises:
            Refused: `wrong_shape`.
        """
        vector = np.asarray(update.arrays.get(SUM, np.empty(0)), dtype=np.float64)
        width = sum(span.size for span in self.spans)
        if vector.shape != (width,) or len(update.arrays) != 1:
            raise wrong_shape(f"the sum must be a vector of {width} numbers", str(vector.shape))
        found: dict[str, NDArray[np.generic]] = {PATIENTS: np.array([round(update.weight)])}
        at = 0
        for span in self.spans:
            piece = vector[at : at + span.size]
            found[span.name] = np.rint(piece).astype(np.int64) if span.is_whole else piece
            at += span.size
        return 1, found

    def read(self, total: Total) -> Update:
        """The total vector and the patients of all hospitals."""
        vector = np.concatenate([total.sums[span.name].astype(np.float64) for span in self.spans])
        return Update(float(total.sums[PATIENTS][0]), {SUM: vector})

    def _slot(self, span: Span) -> Slot:
        most = span.most(self.weight_max)
        if span.is_whole:
            return Counts(span.name, span.size, math.ceil(most))
        return Reals(span.name, span.size, 2.0 ** math.ceil(math.log2(most)), weighted=False)
