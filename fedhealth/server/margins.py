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


def counted(study: Study, grid: PolicyGrid) -> tuple[NDArray[np.float64], int]:
    """The noisy counts of all hospitals together, [layout.size], and how many hospitals are in them.

    Raises:
        QuorumError: too few answer.
    """
    layout = MarginLayout.of(study)
    found, whose = vectors(grid, MARGINS, layout.size)
    # Hospitals send them over how far a patient moves them.
    return found[ALL] * layout.sensitivity, len(whose)
