"""Death in hospital, predicted from the first day.

The shape follows what severity scores agree on: U-shaped electrolytes and a coma term
(SAPS II; Le Gall, JAMA 1993, doi:10.1001/jama.1993.03510240069035), low and high
temperature (NEWS2; RCP 2017), the filtration rate rather than creatinine (CKD-EPI 2021;
Inker, NEJM 2021, doi:10.1056/NEJMoa2102953), and lactate that counts double in shock
(Sepsis-3; Singer, JAMA 2016, doi:10.1001/jama.2016.0287). The sizes are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.synthetic.physiology import Column, filtration_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedhealth.synthetic.patients import Patients

NAME = "mortality"
SEVERITY = 0.0
INTERCEPT = -3.35
TERMS = 22
COLUMNS: tuple[str, ...] = ()


def history(patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
    """Nothing more is known on the first day."""
    del patients, rng
    return {}


def terms(patients: Patients) -> Iterator[tuple[float, Column]]:
    """Each term of the logit of death: its coefficient, and [n] its value."""
    true = patients.values
    severity = patients.severity
    lactate = np.log(true["lactate"] / 1.9)
    shocked = _beyond(100 - true["systolic_bp"], 15)
    filtration = filtration_rate(true["creatinine"], true["age"], true["female"])
    yield 0.45, (true["age"] - 65) / 17
    yield 0.25, severity
    yield 0.35, lactate
    yield 0.35, shocked
    yield 0.4, np.maximum(lactate, 0) * shocked
    yield 0.2, _beyond(true["heart_rate"] - 100, 15)
    yield 0.3, _beyond(true["respiratory_rate"] - 22, 4)
    yield 0.7, (true["temperature"] < 36).astype(np.float32)
    yield 0.3, (true["temperature"] > 38.6).astype(np.float32)
    yield 0.9, (15 - true["coma_scale"]) / 12
    yield 0.5, (filtration < 60).astype(np.float32)
    yield 0.4, (filtration < 30).astype(np.float32)
    yield 0.35, np.log(true["urea_nitrogen"] / 18)
    yield 0.25, _beyond(np.abs(true["sodium"] - 140) - 4, 4)
    yield 0.25, _beyond(np.abs(true["potassium"] - 4.2) - 0.6, 0.6)
    yield 0.3, _beyond(22 - true["bicarbonate"], 4)
    yield 0.3, np.log(true["bilirubin"] / 0.7)
    yield 0.4, (3 - true["albumin"]) / 0.7
    yield 0.3, np.abs(np.log(true["white_cells"] / 10))
    yield 0.55, true["cancer"]
    yield -0.7, (patients.admission == 1).astype(np.float32)
    yield -0.35, np.maximum(severity, 0) * patients.treated


def _beyond(distance: Column, spread: float) -> Column:
    """[n] how far past a threshold, in `spread`s; 0 on the near side."""
    return np.maximum(distance, 0) / spread
