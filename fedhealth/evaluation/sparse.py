"""Sparse vectors: score sums as a run's documents hold them, without the thousands of zeros of a small hospital."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def sparse(vector: NDArray[np.float64]) -> dict[str, Any]:
    """A vector [n] as plain JSON: its length, and where it is not 0 the places and the values, bit for bit."""
    places = np.flatnonzero(vector)
    return {"length": len(vector), "places": places.tolist(), "values": vector[places].tolist()}


def dense(found: Mapping[str, Any] | Sequence[float]) -> NDArray[np.float64]:
    """[n] the inverse of `sparse`; also reads a list of every value, as runs stored before had it."""
    if not isinstance(found, dict):
        return np.array(found, dtype=np.float64)
    vector = np.zeros(found["length"])
    vector[found["places"]] = found["values"]
    return vector
