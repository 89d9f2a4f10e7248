"""Unplanned return within 30 days, predicted at discharge.

The drivers are those of the HOSPITAL score (Donzé, JAMA Intern Med 2013,
doi:10.1001/jamainternmed.2013.3023) and of LACE (van Walraven, CMAJ 2010,
doi:10.1503/cmaj.091117): anaemia, low sodium, oncology, an unplanned admission, earlier
admissions, a long stay, comorbidity. The sizes are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedhealth.synthetic.patients import Patients
    from fedhealth.synthetic.physiology import Column

NAME = "readmission"
#: Whoever goes home has got better.
SEVERITY = -0.6
INTERCEPT = -3.3
TERMS = 13
COLUMNS = ("length_of_stay", "admissions_prior_year")


def history(patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
    """The stay in whole days, and how often the patient was admitted in the year before."""
    true = patients.values
    days = math.log(5) + 0.3 * patients.severity + 0.6 * rng.standard_normal(len(patients.severity), dtype=np.float32)
    burden = 0.5 * true["heart_failure"] + 0.5 * true["cancer"] + 0.4 * true["copd"]
    burden += 0.4 * true["chronic_kidney_disease"]
    return {
        "length_of_stay": np.clip(np.rint(np.exp(days)), 1, 180),
        "admissions_prior_year": rng.poisson(np.exp(burden - 0.7)).astype(np.float32),
    }


def terms(patients: Patients) -> Iterator[tuple[float, Column]]:
    """Each term of the logit of returning: its coefficient, and [n] its value."""
    true = patients.values
    yield 0.2, (true["age"] - 65) / 17
    yield 0.5, np.minimum(true["admissions_prior_year"], 5)
    yield 0.5, (true["length_of_stay"] >= 5).astype(np.float32)
    yield 0.3, (true["length_of_stay"] >= 14).astype(np.float32)
    yield 0.6, (patients.admission != 1).astype(np.float32)
    yield 0.5, (true["sodium"] < 135).astype(np.float32)
    yield 0.35, np.maximum(34 - true["hematocrit"], 0) / 5
    yield 0.6, true["cancer"]
    yield 0.4, true["heart_failure"]
    yield 0.3, true["chronic_kidney_disease"]
    yield 0.25, true["copd"]
    yield 0.2, true["diabetes"]
    yield -0.2, patients.treated.astype(np.float32)
