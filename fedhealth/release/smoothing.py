"""Smoothing: what of the noisy pair counts is more than chance and noise.

A pair's counts are those of independent attributes plus what the two have to do with each other, and that changes
slowly from bin to bin. On the cosines of the cells it stands in few numbers, while the noise is spread over all
of them alike; a number that is within the noise is taken off, one well above it stays (the non-negative garrote,
Gao 1998, doi:10.1080/10618600.1998.10474789). It only works on what the coordinator opened, so it costs nobody anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import dct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.evaluation.margins import Attribute, MarginLayout

#: Below so many standard deviations of the noise a number is taken off; less for pairs with the outcome, in which
#: each bin matters to whoever learns from the release. Both were chosen on simulated hospitals.
THRESHOLD, WITH_OUTCOME = 1.5, 0.7


def smoothed(layout: MarginLayout, counts: NDArray[np.float64], *, noise: float) -> NDArray[np.float64]:
    """The counts with less noise in those of pairs, [layout.size]; the same counts where there is no noise.

    Args:
        layout: of the counts.
        counts: as they were opened.
        noise: the standard deviation of the noise on each, in patients.
    """
    patients = max(layout.patients(counts), 1.0)
    single = [np.clip(cells, 1e-6 * patients, None) for cells in layout.one_way(counts)]
    shares = [cells / cells.sum() for cells in single]
    bases = [_basis(attribute) for attribute in layout.attributes]
    found, last = [counts[: layout.starts[-1]]], len(layout.attributes) - 1
    for (a, b), pair in layout.two_way(counts).items():
        independent = patients * np.outer(shares[a], shares[b])
        numbers = bases[a] @ (pair - independent) @ bases[b].T
        least = noise * (WITH_OUTCOME if b == last else THRESHOLD)
        kept = numbers * np.clip(1 - np.square(least / np.where(numbers == 0, np.inf, numbers)), 0, None)
        found.append((independent + bases[a].T @ kept @ bases[b]).ravel())
    return np.concatenate(found)


def _basis(attribute: Attribute) -> NDArray[np.float64]:
    """[cells, cells] orthonormal: cosines over the cells with a value, and the one without by itself."""
    found = np.eye(attribute.size)
    found[: attribute.known, : attribute.known] = dct(np.eye(attribute.known), norm="ortho", axis=0)
    return found
