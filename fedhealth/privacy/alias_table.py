"""The table from which noise is drawn: a discrete Gaussian, exact to 2^-113, from integers alone.

Walker's alias method (doi 10.1145/355744.355749): `COLUMNS` columns of equal mass, each shared by
its own value and one other, so that a draw is one look-up and one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The discrete Gaussian's parameter: mass proportional to exp(-x² / 2 SIGMA²).
SIGMA = 1024
COLUMN_BITS = 15
#: Values -16383 to 16383; what a Gaussian has beyond 16 SIGMA is below 2^-185. The first column's own value has no mass.
COLUMNS = 1 << COLUMN_BITS
CENTRE = COLUMNS // 2
#: A column's mass, and how many of its bits stand in `packed`.
MASS_BITS, TOP_BITS = 113, 17
#: Digits after the point in which the masses are worked out.
_FIXED = 256


@dataclass(frozen=True, slots=True)
class AliasTable:
    """One column a value: keep the column's own value below a threshold, take its alias from there on.

    Attributes:
        packed: [COLUMNS] the threshold's first 17 bits above the alias' 15.
        rest: [COLUMNS] the threshold's other 96 bits, for a draw whose first 17 are the threshold's.
    """

    packed: NDArray[np.uint32]
    rest: tuple[int, ...]


@lru_cache(maxsize=1)
def alias_table() -> AliasTable:
    """The table, made in some 50 ms when noise is first drawn."""
    full = 1 << MASS_BITS
    kept, alias = masses(), list(range(COLUMNS))
    small = [column for column, mass in enumerate(kept) if mass < full]
    large = [column for column, mass in enumerate(kept) if mass >= full]
    # All masses together are exactly COLUMNS full columns, so while one is too small another is too large.
    while small:
        column, giver = small.pop(), large[-1]
        alias[column] = giver
        kept[giver] -= full - kept[column]
        if kept[giver] < full:
            small.append(large.pop())
    rest_bits = MASS_BITS - TOP_BITS
    # A full column has itself for an alias, so its threshold, which would need an 18th bit, may be nothing.
    thresholds = [mass % full for mass in kept]
    packed = [threshold >> rest_bits << COLUMN_BITS | other for threshold, other in zip(thresholds, alias, strict=True)]
    rest = tuple(threshold & ((1 << rest_bits) - 1) for threshold in thresholds)
    return AliasTable(packed=np.array(packed, dtype=np.uint32), rest=rest)


def masses() -> list[int]:
    """The mass of each value from -CENTRE on, in units of 2^-128; together exactly 2^128."""
    one = 1 << _FIXED
    ratio, step = _exp_minus(one // (2 * SIGMA**2)), _exp_minus(one // SIGMA**2)
    heights = [one]
    for _ in range(1, CENTRE):  # from x to x+1 the height falls by exp(-(2x+1) / 2 SIGMA²)
        heights.append(heights[-1] * ratio >> _FIXED)
        ratio = ratio * step >> _FIXED
    whole = heights[0] + 2 * sum(heights[1:])
    bits = COLUMN_BITS + MASS_BITS
    half = [(height << bits) // whole for height in heights]
    half[0] = (1 << bits) - 2 * sum(half[1:])  # what rounding left over: less than 2^-113
    return [0, *half[:0:-1], *half]


def _exp_minus(x: int) -> int:
    """exp(-x) for a small fixed-point x, by its series."""
    total = term = 1 << _FIXED
    k = 0
    while term:
        k += 1
        term = term * x // (k << _FIXED)
        total += -term if k % 2 else term
    return total
