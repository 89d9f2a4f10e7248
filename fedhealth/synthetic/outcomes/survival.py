"""The time to death after admission, predicted from the first day.

The drivers are those of the HOMR model of death within a year of admission (van Walraven
2015, doi:10.1503/cmaj.150209): age, sex, comorbidity, the kind of admission, how ill the
patient is. The sizes are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.synthetic.weibull import Weibull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedhealth.synthetic.patients import Patients
    from fedhealth.synthetic.physiology import Column

NAME = "survival"
SEVERITY = 0.0
#: The log of the cumulative hazard at `TIMES.scale_days`.
INTERCEPT = -2.4
TERMS = 14
COLUMNS: tuple[str, ...] = ()
#: Most die soon after admission; everybody could be followed for 13 months.
TIMES = Weibull(shape=0.7, scale_days=365.25, lost_a_year=0.08, open_days=400)


def history(patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
    """Nothing more is known on the first day."""
    del patients, rng
    return {}


def terms(patients: Patients) -> Iterator[tuple[float, Column]]:
    """Each term of the log hazard: its coefficient, and [n] its value."""
    true = patients.values
    yield 0.65, (true["age"] - 65) / 17
    yield -0.15, true["female"]
    yield 0.35, patients.severity
    yield 0.9, true["cancer"]
    yield 0.5, true["heart_failure"]
    yield 0.3, true["copd"]
    yield 0.3, true["chronic_kidney_disease"]
    yield 0.15, true["diabetes"]
    yield -0.7, (patients.admission == 1).astype(np.float32)
    yield 0.35, np.log(true["urea_nitrogen"] / 18)
    yield 0.4, (3 - true["albumin"]) / 0.7
    yield 0.2, np.maximum(135 - true["sodium"], 0) / 4
    yield 0.2, np.log(true["lactate"] / 1.9)
    yield -0.2, np.maximum(patients.severity, 0) * patients.treated
