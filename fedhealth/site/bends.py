"""The hyperbolic tangent and the logistic function, each number's own to the last bit.

A library works out an array's exponentials many at a time and its last few one by one, by other steps; so the last bit of
one differs with its place. Here each is a table's value and a few sums, products and one quotient, which IEEE 754
fixes whatever the place. They are off by some 1e-14 at most.
"""

from __future__ import annotations

import math

import numpy as np
import torch

#: The table has a value each 1/256, from -32 on; beyond 20 a hyperbolic tangent is 1 in float64.
_BITS, _FAR = 8, 20.0
_PLACES = 64 << _BITS
#: Added to a number, it leaves the nearest place of the table in its last bits.
_ONTO_PLACE = 1.5 * 2.0 ** (52 - _BITS)
#: In the order of those bits: the places below 0 come last.
TANH = np.array([math.tanh((k - _PLACES * (2 * k >= _PLACES)) / 2**_BITS) for k in range(_PLACES)])


def bend(x: torch.Tensor) -> torch.Tensor:
    """The hyperbolic tangent, in place; not a number where `x` is none.

    By tanh(a + d) = (tanh a + tanh d) / (1 + tanh a tanh d), a being a place of the table and d at most 1/512, so
    that tanh d is d - d³/3 but for 4e-15.
    """
    beyond = x.clamp_(-_FAR, _FAR).numpy()
    work = beyond + _ONTO_PLACE
    at_place = TANH.take(np.bitwise_and(work.view(np.int64), _PLACES - 1))
    work -= _ONTO_PLACE
    beyond -= work
    np.multiply(beyond, beyond, out=work)
    work *= -1 / 3
    work *= beyond
    beyond += work
    np.multiply(at_place, beyond, out=work)
    work += 1.0
    beyond += at_place
    beyond /= work
    return x


def logistic(x: torch.Tensor) -> torch.Tensor:
    """[…] 1 / (1 + exp(-x)), off by some 1e-14 at most, also where it is less than that."""
    return bend(x * 0.5).mul_(0.5).add_(0.5)
