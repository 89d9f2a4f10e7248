"""Sums that are the same bits in any company: on lattices, where nothing is rounded, and else in an order of their own.

A number on a lattice is a whole number of its spacing. Where the whole numbers of two lattices have so few bits that a
sum of their products stays within float64's 53, each product and each sum is a float64 as it is.
What goes into a linear layer has 26 bits, and a row of its weights adds up to 26 at most.

What goes back has as many bits as a float64, whatever lattice it is put on; so it is split into a high and a low part
of so few bits that each part's sums of products need no rounding (Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1), and
what both give is added. Below the low part it is cut off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

#: What goes into a layer is capped here, in absolute value; scaled features are of about 1.
CAP = 64.0
#: Bits of it behind the point: its lattice is 2^-20, finer than float32 at 16.
BITS = 20
#: Bits of what goes into a layer, those before the point too.
INPUT_BITS = 26
#: Bits of a weight below what a row of the layer's weights adds up to at most. With those of an input, sums have 52 of float64's 53.
WEIGHT_BITS = 26
#: What a row of a layer's weights must add up to less than, so that no sum of products leaves float64.
FARTHEST = 2.0**400
#: Added and taken off again, it rounds to the lattice: from here on float64 has no finer digits.
ONTO_LATTICE = 1.5 * 2.0 ** (52 - BITS)

#: What goes back is not a number from twice `_MOST` on, and is cut off far below `_LEAST`; no sum of its products then leaves float64.
_MOST, _LEAST = 2.0**400, 2.0**-500
#: Weights are cut off far below this for the same reason, as a power of two.
_FINEST = -400
#: The bits of a float64 that hold its exponent.
_EXPONENT = 0x7FF << 52


def onto(x: torch.Tensor) -> torch.Tensor:
    """Rows as they go into a linear layer: capped, and on the lattice."""
    return x.clamp(-CAP, CAP).add_(ONTO_LATTICE).sub_(ONTO_LATTICE)


def below_cap(back: torch.Tensor, came: torch.Tensor) -> torch.Tensor:
    """The gradient of what goes into a layer, from that of what was made of it by `onto`: 0 where it was capped.

    Where it is no number the gradient stays as it is.
    """
    # Not `hardtanh_backward`: where `came` is no number it gives 0 or not, by the place in the array.
    found: torch.Tensor = torch.ops.aten.threshold_backward(back, came.abs().neg_(), -CAP)
    return found


def onto_lattice(longest: float) -> float:
    """Added to the weights of a layer and taken off again, it rounds them; a row of them adds up to `longest` at most.

    Not a number where no lattice is so coarse: `longest` is not finite, or not below `FARTHEST`.
    """
    if not longest < FARTHEST:
        return math.nan
    return 1.5 * 2.0 ** (52 + max(math.frexp(longest)[1], _FINEST) - WEIGHT_BITS)


def rounded(weight: torch.Tensor, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Each network's weights, [k, out, in], and bias, [k, out], on its own lattice; not numbers where there is none."""
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    longest = weight.shape[2] * _largest(weight.flatten(1)) + _largest(bias)
    steps = weight.new_tensor([onto_lattice(each) for each in longest.tolist()])
    of_weight, of_bias = steps[:, None, None], steps[:, None]
    return (weight + of_weight).sub_(of_weight), (bias + of_bias).sub_(of_bias)


def row_sums(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """[…, 1] sums along a dimension: half is added to half, so the order is the same whatever lies in the others."""
    while (width := x.shape[dim]) > 1:
        half = width // 2
        folded = x.narrow(dim, 0, half) + x.narrow(dim, half, half)
        x = torch.cat([folded, x.narrow(dim, 2 * half, 1)], dim=dim) if width % 2 else folded
    return x


def bits_for(terms: int, bits: int) -> int:
    """How many bits a part may have of which `terms` products with numbers of `bits` bits are to be added up."""
    return 53 - bits - math.ceil(math.log2(terms))


def split(back: Floats, bits: int, over: tuple[int, ...], high: Floats, low: Floats) -> None:
    """Leave in `high` and `low` what goes back, of `bits` bits each, by its largest number along `over`.

    Not numbers where that one is not finite, or not below 2^401.
    """
    np.abs(back, out=low)
    largest = np.maximum.reduce(low, axis=over, keepdims=True)
    np.maximum(largest, _LEAST, out=largest)
    # The power of two at or below it, and past float64's end where it is past `_MOST`.
    whole = largest.view(np.int64)
    whole &= _EXPONENT
    largest *= 2.0**1023 / _MOST
    largest *= 1.5 * 2.0 ** (53 - bits) * (_MOST / 2.0**1023)
    np.add(back, largest, out=high)
    high -= largest
    np.subtract(back, high, out=low)
    largest *= 2.0**-bits
    low += largest
    low -= largest


def _largest(arrays: torch.Tensor) -> torch.Tensor:
    """[k] the largest absolute value of each row."""
    # In two passes: the norm of that name takes four times as long.
    return arrays.abs().amax(1)
