"""A hospital of the smoke study at work."""

from __future__ import annotations

import pytest

from fedhealth.core.preprocessor import Preprocessor
from fedhealth.evaluation.moments import MomentLayout, first_pass, global_means, global_moments, second_pass


@pytest.fixture
def scaling():
    """The preprocessor fitted on one hospital's training patients."""

    def fitted(study, client) -> Preprocessor:
        part, layout = client.cohort.part("train"), MomentLayout(study.features)
        first = first_pass(layout, part.columns, part.y, min_cell=1)
        second = second_pass(layout, part.columns, global_means(layout, first), min_cell=1)
        return Preprocessor.from_moments(study.features, global_moments(layout, first, second))

    return fitted
