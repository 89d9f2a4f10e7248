"""A hospital's share of the noise of one sum, in parts that can be taken off again (`privacy.distributed`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.privacy.noise import BLOCK, Words, deviation, stretched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedhealth.core.lattice import Lattice, Part
    from fedhealth.privacy.noise import NoiseSource


class NoiseShare:
    """The parts of one share, each drawn from a key of its own.

    Args:
        lattice: of the sum.
        source: of the keys; with an insecure one nothing is private.
    """

    __slots__ = ("_keys", "_parts")

    def __init__(self, lattice: Lattice, source: NoiseSource) -> None:
        self._parts = lattice.parts
        self._keys = [source.key() for _ in self._parts]

    @property
    def spare(self) -> tuple[tuple[int, bytes], ...]:
        """Of each part that may be taken off: from how many hospitals in the sum on, and its key, a secret until then."""
        pairs = zip(self._parts, self._keys, strict=True)
        return tuple((part.spare_from, key) for part, key in pairs if part.spare_from is not None)

    def draw(self, n: int) -> NDArray[np.int64]:
        """[n] the whole share, in steps; the same each time."""
        return _drawn(n, self._parts, [[key] for key in self._keys])


def spare_noise(lattice: Lattice, told: Sequence[Sequence[bytes]], n: int) -> NDArray[np.int64]:
    """[n] the noise to take off a sum, in steps.

    Args:
        lattice: of the sum.
        told: by hospital that told its keys, those of the last parts; of each as many.
        n: how many numbers.
    """
    by_part = list(zip(*told, strict=True))
    return _drawn(n, lattice.parts[len(lattice.parts) - len(by_part) :], by_part)


def noise_in(lattice: Lattice, in_sum: int, *, told: int, spare: int) -> float:
    """The standard deviation of the noise in each number of a sum, in its unit.

    Args:
        lattice: of the sum.
        in_sum: how many hospitals are in it.
        told: how many of them told their keys.
        spare: how many each of those told.
    """
    variances = [deviation(part.stretch) ** 2 for part in lattice.parts]
    kept = in_sum * sum(variances) - told * sum(variances[len(variances) - spare :])
    return math.sqrt(kept) / lattice.levels


def _drawn(n: int, parts: Sequence[Part], keys: Sequence[Sequence[bytes]]) -> NDArray[np.int64]:
    """[n] the sum of a draw of each part from each of its keys."""
    total = np.zeros(n, dtype=np.int64)
    streams = [(part.stretch, Words(key)) for part, own in zip(parts, keys, strict=True) for key in own]
    # A block of the sum stays in the cache while all are added to it: there may be millions of numbers and many keys.
    for start in range(0, n, BLOCK):
        block = total[start : start + BLOCK]
        for stretch, words in streams:
            block += stretched(len(block), [words], stretch)[0]
    return total
