"""The grain: terms rounded so that a sum of them does not depend on its order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Every patient's term is rounded to a whole multiple of this before it is summed. A sum
#: of such terms is exact in float64 (below 2**33, some 33 million patients), so it does
#: not depend on the order of patients or on which hospital holds them.
GRAIN = 2.0**-20


def rounded(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The terms, each at the nearest multiple of the grain."""
    return np.rint(terms / GRAIN) * GRAIN
