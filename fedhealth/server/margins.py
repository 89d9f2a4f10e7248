"""The counts behind a synthetic release: one masked question, and nothing else is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.update import ALL
from fedhealth.evaluation.margins import MARGINS, MarginLayout
from fedhealth.server.statistics import vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.core.study import Study
    from fedhealth.runtime.policy import PolicyGrid


def counted(study: Study, grid: PolicyGrid) -> tuple[NDArray[np.float64], int, float]:
    """The noisy counts of all hospitals together, [layout.size]; how many hospitals are in them; and the deviation of their noise.

    Raises:
        QuorumError: too few answer.
    """
    found, whose = asked(study, grid)
    # Hospitals send them over how far a patient moves them.
    unit = MarginLayout.of(study).sensitivity
    return found[ALL] * unit, len(whose), grid.noise * unit


def asked(study: Study, grid: PolicyGrid) -> tuple[dict[str, NDArray[np.float64]], frozenset[str]]:
    """The answers as they come, by hospital or of all together, and whose they are.

    Raises:
        QuorumError: too few answer.
    """
    return vectors(grid, MARGINS, MarginLayout.of(study).size)
