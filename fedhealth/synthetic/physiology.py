"""The body: what is measured, in which unit, and what moves it.

Every measurement is a standard-normal-like latent `u`, a mix of the patient's factors and
its own noise, turned into a value around the medians of a real intensive care unit
(PhysioNet/CinC 2012 set A, first day; Silva et al., Computing in Cardiology 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

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
class Normal:
    """Values centre + spread * u."""

    centre: float
    spread: float
    is_log: ClassVar[bool] = False

    def value(self, u: Column, factors: Mapping[str, Column]) -> Column:
        """[n] the true values."""
        del factors
        return self.centre + self.spread * u


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Values centre * exp(spread * u)."""

    centre: float
    spread: float
    is_log: ClassVar[bool] = True

    def value(self, u: Column, factors: Mapping[str, Column]) -> Column:
        """[n] the true values."""
        del factors
        log: Column = math.log(self.centre) + self.spread * u
        return np.exp(log, out=log)


@dataclass(frozen=True, slots=True)
class FailingOrgan:
    """A mixture of two log-normals, whose component is whether an organ fails.

    One log-normal can't carry the upper tail of a real ward: creatinine's 95th percentile
    is four times its median, and bilirubin's eleven times.
    """

    organ: str
    centre: float
    spread: float
    failed_centre: float
    failed_spread: float
    female: float = 0.0
    is_log: ClassVar[bool] = True

    def value(self, u: Column, factors: Mapping[str, Column]) -> Column:
        """[n] the true values."""
        fails = factors[self.organ]
        log: Column = (self.spread + (self.failed_spread - self.spread) * fails) * u
        log += math.log(self.centre) + math.log(self.failed_centre / self.centre) * fails
        log += self.female * factors["female"]
        return np.exp(log, out=log)


@dataclass(frozen=True, slots=True)
class ComaScale:
    """The Glasgow coma scale, whole numbers 3 to 15 with two humps: the sedated and the awake."""

    spread: float = 4.5
    is_log: ClassVar[bool] = False

    def value(self, u: Column, factors: Mapping[str, Column]) -> Column:
        """[n] the true values."""
        del factors
        score: Column = np.rint(3 + 12 / (1 + np.exp(0.3 - 4 * u)))
        return score


@dataclass(frozen=True, slots=True)
class Measurement:
    """How one measurement arises.

    Attributes:
        unit: the unit of the value.
        panel: what it is ordered with.
        missing: its own missing rate, over and above its panel's.
        shape: from the latent u to the value; a device errs by a gain where it is
            logarithmic and by an offset where not.
        limits: the least and the most that a device can show.
        loads: by factor, its weight in u; the rest of u is noise.
        sought: 1 where sicker patients are measured more, -1 where less.
    """

    unit: str
    panel: str
    missing: float
    shape: Normal | LogNormal | FailingOrgan | ComaScale
    limits: tuple[float, float]
    loads: Mapping[str, float]
    sought: float = 1.0


MEASUREMENTS: dict[str, Measurement] = {
    "heart_rate": Measurement(
        "1/min", "vitals", 0.02, Normal(86, 16), (20, 250), {"severity": 0.3, "inflammation": 0.25}
    ),
    "systolic_bp": Measurement(
        "mmHg", "vitals", 0.03, Normal(115, 18), (30, 280), {"severity": -0.4, "inflammation": -0.1, "age": 0.1}
    ),
    "respiratory_rate": Measurement(
        "1/min",
        "vitals",
        0.05,
        Normal(19, 4.4),
        (4, 60),
        {"severity": 0.35, "inflammation": 0.15, "copd": 0.4},
        sought=-1,
    ),
    "temperature": Measurement(
        "°C", "vitals", 0.03, Normal(37.0, 0.62), (30, 43), {"inflammation": 0.5, "severity": -0.2, "age": -0.1}
    ),
    "coma_scale": Measurement("", "chart", 0.03, ComaScale(), (3, 15), {"severity": -0.4}),
    "urine_output": Measurement(
        "mL/h", "urine", 0.05, LogNormal(86, 0.85), (0, 1000), {"severity": -0.3, "kidney": -0.5}
    ),
    "creatinine": Measurement(
        "mg/dL",
        "chemistry",
        0.02,
        FailingOrgan("kidney", 0.86, 0.35, 2.5, 0.63, female=-0.18),
        (0.1, 30),
        {"severity": 0.15},
    ),
    "urea_nitrogen": Measurement(
        "mg/dL", "chemistry", 0.02, LogNormal(15.8, 0.58), (1, 250), {"kidney": 1.4, "age": 0.25, "heart_failure": 0.3}
    ),
    "sodium": Measurement(
        "mmol/L", "chemistry", 0.02, Normal(139, 4.2), (98, 190), {"heart_failure": -0.3, "severity": -0.1}
    ),
    "potassium": Measurement(
        "mmol/L", "chemistry", 0.02, Normal(4.05, 0.56), (1.5, 10), {"kidney": 0.5, "severity": 0.1}
    ),
    "glucose": Measurement(
        "mg/dL", "chemistry", 0.03, LogNormal(118.5, 0.35), (10, 1500), {"diabetes": 1.1, "severity": 0.2}
    ),
    "bicarbonate": Measurement(
        "mmol/L", "chemistry", 0.03, Normal(23.1, 4.2), (3, 60), {"severity": -0.4, "kidney": -0.4, "copd": 0.4}
    ),
    "white_cells": Measurement(
        "10^9/L", "hematology", 0.02, LogNormal(11.5, 0.45), (0.1, 300), {"inflammation": 0.4, "severity": 0.1}
    ),
    "hematocrit": Measurement(
        "%",
        "hematology",
        0.02,
        Normal(32.6, 5.2),
        (8, 65),
        {"severity": -0.15, "chronic_kidney_disease": -0.4, "cancer": -0.4, "female": -0.3},
    ),
    "platelets": Measurement(
        "10^9/L",
        "hematology",
        0.02,
        LogNormal(206, 0.52),
        (3, 1800),
        {"liver": -0.6, "severity": -0.15, "inflammation": 0.1},
    ),
    "lactate": Measurement(
        "mmol/L",
        "blood_gas",
        0.35,
        LogNormal(1.8, 0.53),
        (0.2, 35),
        {"severity": 0.5, "inflammation": 0.15, "liver": 0.3},
    ),
    "albumin": Measurement(
        "g/dL",
        "liver",
        0.4,
        Normal(3.1, 0.68),
        (0.8, 6.5),
        {"inflammation": -0.3, "severity": -0.3, "liver": -0.5, "age": -0.1},
    ),
    "bilirubin": Measurement(
        "mg/dL", "liver", 0.35, FailingOrgan("liver", 0.58, 0.63, 3.4, 1.05), (0.1, 65), {"severity": 0.1}
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
