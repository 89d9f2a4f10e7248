"""The body: what is measured, in which unit, and what moves it.

Every measurement is a standard-normal-like latent `u`, a mix of the patient's factors and
its own noise, turned into a value around the medians of a real intensive care unit
(PhysioNet/CinC 2012 set A, first day; Silva et al., Computing in Cardiology 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Column = NDArray[np.floating]

#: By comorbidity: the share of patients who have it in the average hospital, and what ten more years do to its logit.
COMORBIDITIES: dict[str, tuple[float, float]] = {
    "diabetes": (0.27, 0.08),
    "chronic_kidney_disease": (0.13, 0.25),
    "heart_failure": (0.16, 0.30),
    "copd": (0.14, 0.15),
    "cancer": (0.12, 0.15),
}

#: By panel: the share of patients for whom none of it reaches the record, in the average hospital.
PANELS: dict[str, float] = {
    "vitals": 0.10,
    "chart": 0.15,
    "urine": 0.15,
    "chemistry": 0.05,
    "hematology": 0.05,
    "blood_gas": 0.20,
    "liver": 0.15,
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """How one measurement arises.

    Attributes:
        unit: the unit of the value.
        panel: what it is ordered with.
        missing: its own missing rate, over and above its panel's.
        loads: by factor, the weight in the latent u; the rest of u's variance is noise.
        value: from u and the patient's factors to the true value.
        low: the least the device can show.
        high: the most the device can show.
        sought: 1 where sicker patients are measured more, -1 where less.
        log: whether the device's error is a gain (true) or an offset (false).
    """

    unit: str
    panel: str
    missing: float
    loads: Mapping[str, float]
    value: Callable[[Column, Mapping[str, Column]], Column]
    low: float
    high: float
    sought: float = 1.0
    log: bool = False


def _normal(centre: float, spread: float) -> Callable[[Column, Mapping[str, Column]], Column]:
    def value(u: Column, factors: Mapping[str, Column]) -> Column:
        del factors
        return centre + spread * u

    return value


def _log_normal(centre: float, spread: float, **shifts: float) -> Callable[[Column, Mapping[str, Column]], Column]:
    """Values exp(log centre + spread * u + shift by factor)."""

    def value(u: Column, factors: Mapping[str, Column]) -> Column:
        log: Column = math.log(centre) + spread * u
        for factor, shift in shifts.items():
            log += shift * factors[factor]
        return np.exp(log)

    return value


def _failing(
    organ: str, healthy: tuple[float, float], failed: tuple[float, float], **shifts: float
) -> Callable[[Column, Mapping[str, Column]], Column]:
    """Values of a two-component log-normal mixture, whose component is the state of an organ.

    One log-normal can't carry the upper tail of a real ward: a patient either has the
    organ failing or has not. Each component is (median, log standard deviation).
    """

    def value(u: Column, factors: Mapping[str, Column]) -> Column:
        fails = factors[organ]
        centre = math.log(healthy[0]) + math.log(failed[0] / healthy[0]) * fails
        spread = healthy[1] + (failed[1] - healthy[1]) * fails
        log: Column = centre + spread * u
        for factor, shift in shifts.items():
            log += shift * factors[factor]
        return np.exp(log)

    return value


def _coma_scale(u: Column, factors: Mapping[str, Column]) -> Column:
    """The Glasgow coma scale, 3 to 15: two humps, the sedated and the awake."""
    del factors
    score: Column = np.rint(3 + 12 / (1 + np.exp(0.3 - 4 * u)))
    return score


MEASUREMENTS: dict[str, Measurement] = {
    "heart_rate": Measurement(
        "1/min", "vitals", 0.02, {"severity": 0.3, "inflammation": 0.25}, _normal(86, 16), 20, 250
    ),
    "systolic_bp": Measurement(
        "mmHg", "vitals", 0.03, {"severity": -0.4, "inflammation": -0.1, "age": 0.1}, _normal(115, 18), 30, 280
    ),
    "respiratory_rate": Measurement(
        "1/min",
        "vitals",
        0.05,
        {"severity": 0.35, "inflammation": 0.15, "copd": 0.4},
        _normal(19, 4.4),
        4,
        60,
        sought=-1,
    ),
    "temperature": Measurement(
        "°C", "vitals", 0.03, {"inflammation": 0.5, "severity": -0.2, "age": -0.1}, _normal(37.0, 0.62), 30, 43
    ),
    "coma_scale": Measurement("", "chart", 0.03, {"severity": -0.4}, _coma_scale, 3, 15),
    "urine_output": Measurement(
        "mL/h", "urine", 0.05, {"severity": -0.3, "kidney": -0.5}, _log_normal(86, 0.85), 0, 1000, log=True
    ),
    "creatinine": Measurement(
        "mg/dL",
        "chemistry",
        0.02,
        {"severity": 0.15},
        _failing("kidney", (0.86, 0.35), (2.5, 0.63), female=-0.18),
        0.1,
        30,
        log=True,
    ),
    "urea_nitrogen": Measurement(
        "mg/dL",
        "chemistry",
        0.02,
        {"kidney": 1.4, "age": 0.25, "heart_failure": 0.3},
        _log_normal(15.8, 0.58),
        1,
        250,
        log=True,
    ),
    "sodium": Measurement(
        "mmol/L", "chemistry", 0.02, {"heart_failure": -0.3, "severity": -0.1}, _normal(139, 4.2), 98, 190
    ),
    "potassium": Measurement(
        "mmol/L", "chemistry", 0.02, {"kidney": 0.5, "severity": 0.1}, _normal(4.05, 0.56), 1.5, 10
    ),
    "glucose": Measurement(
        "mg/dL", "chemistry", 0.03, {"diabetes": 1.1, "severity": 0.2}, _log_normal(118.5, 0.35), 10, 1500, log=True
    ),
    "bicarbonate": Measurement(
        "mmol/L", "chemistry", 0.03, {"severity": -0.4, "kidney": -0.4, "copd": 0.4}, _normal(23.1, 4.2), 3, 60
    ),
    "white_cells": Measurement(
        "10^9/L",
        "hematology",
        0.02,
        {"inflammation": 0.4, "severity": 0.1},
        _log_normal(11.5, 0.45),
        0.1,
        300,
        log=True,
    ),
    "hematocrit": Measurement(
        "%",
        "hematology",
        0.02,
        {"severity": -0.15, "chronic_kidney_disease": -0.4, "cancer": -0.4, "female": -0.3},
        _normal(32.6, 5.2),
        8,
        65,
    ),
    "platelets": Measurement(
        "10^9/L",
        "hematology",
        0.02,
        {"liver": -0.6, "severity": -0.15, "inflammation": 0.1},
        _log_normal(206, 0.52),
        3,
        1800,
        log=True,
    ),
    "lactate": Measurement(
        "mmol/L",
        "blood_gas",
        0.35,
        {"severity": 0.5, "inflammation": 0.15, "liver": 0.3},
        _log_normal(1.8, 0.53),
        0.2,
        35,
        log=True,
    ),
    "albumin": Measurement(
        "g/dL",
        "liver",
        0.4,
        {"inflammation": -0.3, "severity": -0.3, "liver": -0.5, "age": -0.1},
        _normal(3.1, 0.68),
        0.8,
        6.5,
    ),
    "bilirubin": Measurement(
        "mg/dL", "liver", 0.35, {"severity": 0.1}, _failing("liver", (0.58, 0.63), (3.4, 1.05)), 0.1, 65, log=True
    ),
}


def filtration_rate(creatinine: Column, age: Column, female: Column) -> Column:
    """[n] the estimated glomerular filtration rate, mL/min/1.73 m2, from creatinine in mg/dL.

    CKD-EPI 2021, without race (Inker, NEJM 2021, doi:10.1056/NEJMoa2102953):
    142 min(c/k, 1)^a max(c/k, 1)^-1.2 0.9938^age (1.012 if female), with k = 0.7 and
    a = -0.241 in women, 0.9 and -0.302 in men.
    """
    ratio = np.log(creatinine) - np.where(female > 0, math.log(0.7), math.log(0.9))
    power = np.where(female > 0, -0.241, -0.302)
    log = math.log(142) + math.log(0.9938) * age + math.log(1.012) * female
    log += power * np.minimum(ratio, 0) - 1.2 * np.maximum(ratio, 0)
    rate: Column = np.exp(log)
    return rate
