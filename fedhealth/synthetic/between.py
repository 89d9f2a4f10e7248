"""Hospitals drawn from one knob: how much they differ from one another.

h = 0 makes all hospitals alike. h = 1 makes them differ as 186 hospitals of the eICU
database do (Pollard et al. 2018, doi:10.1038/sdata.2018.178): the same share of variance
lies between them. Every parameter is its usual value plus h times a draw of a fixed
standard deviation, so a hospital at h = 2 is the same hospital, twice as far out.
"""

from __future__ import annotations

import math

from fedhealth.core.errors import SettingError
from fedhealth.core.seeds import rng_of, seed_of
from fedhealth.synthetic.hospital import Casemix, Concept, Device, Hospital, Missing, Prevalence, Treatment
from fedhealth.synthetic.physiology import COMORBIDITIES, MEASUREMENTS, PANELS

#: The largest h: far beyond how real hospitals differ, and far below where an exponential overflows.
MOST_H = 20

#: By measurement, the standard deviation between hospitals of what their devices and habits add, in the
#: measurement's own spread.
DEVICE_SPREAD: dict[str, float] = {
    "heart_rate": 0.08,
    "systolic_bp": 0.20,
    "respiratory_rate": 0.45,
    "temperature": 0.15,
    "coma_scale": 0.15,
    "urine_output": 0.30,
    "creatinine": 0.30,
    "urea_nitrogen": 0.25,
    "sodium": 0.28,
    "potassium": 0.20,
    "glucose": 0.18,
    "bicarbonate": 0.25,
    "white_cells": 0.05,
    "hematocrit": 0.30,
    "platelets": 0.15,
    "lactate": 0.30,
    "albumin": 0.40,
    "bilirubin": 0.55,
}

#: By panel, the standard deviation between hospitals of the logit that it is absent.
PANEL_SPREAD: dict[str, float] = {
    "vitals": 1.6,
    "chart": 1.4,
    "urine": 2.0,
    "chemistry": 1.5,
    "hematology": 1.5,
    "blood_gas": 1.4,
    "liver": 1.4,
}

#: What a hospital that reports in the other system uses.
SI_UNITS: dict[str, str] = {
    "creatinine": "umol/L",
    "urea_nitrogen": "mmol/L",
    "glucose": "mmol/L",
    "bilirubin": "umol/L",
    "albumin": "g/L",
}


def draw_hospital(name: str, h: float, seed: int, size: int) -> Hospital:
    """A hospital at distance `h` from the average one.

    Its stream is named by (seed, name) alone: drawing another hospital changes nothing
    here, and `h` only stretches it.

    Raises:
        SettingError: h is negative.
    """
    check_knob(h)
    if h == 0:
        return Hospital(size=size)
    rng = rng_of(seed, site=name, purpose="hospital")
    usual, alike = Casemix(), Missing()

    def stretch(spread: float) -> float:
        return h * spread * float(rng.standard_normal())

    def share(about: float, spread: float) -> float:
        return _rounded(1 / (1 + math.exp(-math.log(about / (1 - about)) - stretch(spread))), 0.001, 0.97)

    scheduled = share(usual.scheduled, 0.6)
    casemix = Casemix(
        age_median=_rounded(usual.age_median + stretch(9.0), 20, 90),
        female=share(usual.female, 0.2),
        scheduled=scheduled,
        surgical_emergency=min(share(usual.surgical_emergency, 0.4), round(1 - scheduled, 3)),
        severity=_rounded(stretch(0.3), -3, 3),
        comorbidity={name: _rounded(stretch(0.45), -6, 6) for name in COMORBIDITIES},
    )
    devices = {}
    for measured, spread in DEVICE_SPREAD.items():
        drawn = stretch(spread)
        shape = MEASUREMENTS[measured].shape
        devices[measured] = (
            Device(gain=_rounded(math.exp(drawn * shape.spread), 0.1, 10))
            if shape.is_log
            else Device(offset=_rounded(drawn * shape.spread, -50, 50))
        )
    missing = Missing(
        panels={panel: share(about, PANEL_SPREAD[panel]) for panel, about in PANELS.items()},
        rate_logit={measured: _rounded(stretch(0.5), -8, 8) for measured in MEASUREMENTS},
        mar=_rounded(alike.mar + stretch(0.15), -3, 3),
        mnar=_rounded(alike.mnar + stretch(0.15), -3, 3),
    )
    return Hospital(
        size=size,
        casemix=casemix,
        prevalence=Prevalence(intercept=_rounded(stretch(0.55), -4, 4)),
        devices={measured: device for measured, device in devices.items() if device != Device()},
        missing=missing,
        policy=Treatment(treat=_rounded(-0.5 + stretch(0.8), -8, 8), slope=_rounded(0.8 + stretch(0.4), -4, 4)),
        concept=Concept(
            scale=min(round(0.1 * h, 3), 1.0), seed=seed_of(seed, site=name, purpose="concept") % 1_000_000
        ),
    )


def draw_units(name: str, h: float, seed: int) -> dict[str, str]:
    """The units a hospital reports in where they are not the usual ones; at h = 1 half the hospitals use SI."""
    check_knob(h)
    drawn = rng_of(seed, site=name, purpose="units").random()
    return dict(SI_UNITS) if drawn < min(0.5 * h, 0.9) else {}


def check_knob(h: float) -> None:
    """Refuse a between-hospital difference below 0, or far beyond any that hospitals have.

    Raises:
        SettingError: h is not within 0 and 20.
    """
    if not 0 <= h <= MOST_H:
        raise SettingError(
            f"h must be 0 or more and at most {MOST_H}, found {h:g}. Use 0 for hospitals all alike and 1 for real ones."
        )


def _rounded(value: float, low: float, high: float) -> float:
    return round(min(max(value, low), high), 3)
