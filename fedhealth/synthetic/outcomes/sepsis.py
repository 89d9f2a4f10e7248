"""The onset of sepsis within six hours, predicted hour by hour from a day of monitoring.

Some patients carry an infection that gathers over hours before anybody names it; the heart,
the breath, the temperature, the white cells and the lactate go with it, and whoever looks worse
is measured more often (what tells, and how often it was looked for: Sepsis-3, Singer 2016,
doi:10.1001/jama.2016.0287). The onset is drawn from how far the infection has come at the
day's end, and the series are what the monitor and the laboratory show of it, so that the
true risk still bounds what any model can reach. The sizes are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedhealth.synthetic.patients import Patients
    from fedhealth.synthetic.physiology import Column

NAME = "sepsis"
SEVERITY = -0.3
INTERCEPT = -3.4
TERMS = 5
#: Hours, each one step of a series.
STEPS = 24
#: By measurement: what a full infection adds, how far an hour strays, whether on a logarithm, and the share of hours measured.
_CHANNELS: dict[str, tuple[float, float, bool, float]] = {
    "heart_rate": (24.0, 6.0, False, 0.8),
    "systolic_bp": (-22.0, 9.0, False, 0.7),
    "respiratory_rate": (7.0, 2.2, False, 0.7),
    "temperature": (1.3, 0.25, False, 0.4),
    "coma_scale": (-2.0, 0.7, False, 0.3),
    "white_cells": (0.5, 0.12, True, 0.08),
    "lactate": (0.7, 0.18, True, 0.06),
    "creatinine": (0.35, 0.08, True, 0.08),
}
SERIES = tuple(f"{name}_hourly" for name in _CHANNELS)
COLUMNS: tuple[str, ...] = SERIES
#: The correlation of an hour's straying with the next one's.
_KEEPS = 0.85


def history(patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
    """By series, [n, STEPS] what the record shows, NaN where it was not measured; and the infection at the day's end."""
    n = len(patients.severity)
    infected = rng.random(n, dtype=np.float32) < 0.3
    size = np.where(infected, rng.gamma(3.0, 1 / 3.0, n), 0.0).astype(np.float32)
    begins = rng.uniform(0, STEPS + 6, n).astype(np.float32)
    hours = np.arange(STEPS, dtype=np.float32)
    # It gathers over some eight hours, however far it has come when the day ends.
    course = size[:, None] / (1 + np.exp(-(hours[None, :] - begins[:, None]) / 2))
    shown: dict[str, Column] = {"infection": course[:, -1]}
    for name, (gain, spread, is_log, share) in _CHANNELS.items():
        usual = np.log(patients.values[name]) if is_log else patients.values[name]
        strays = np.empty((n, STEPS), dtype=np.float32)
        strays[:, 0] = rng.standard_normal(n, dtype=np.float32)
        fresh = rng.standard_normal((n, STEPS), dtype=np.float32) * np.float32((1 - _KEEPS**2) ** 0.5)
        for hour in range(1, STEPS):
            strays[:, hour] = _KEEPS * strays[:, hour - 1] + fresh[:, hour]
        value = usual[:, None] + gain * course + spread * strays
        value = np.exp(value) if is_log else value
        sought = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + 0.9 * course + 0.3 * patients.severity[:, None])))
        seen = rng.random((n, STEPS), dtype=np.float32) < sought
        shown[f"{name}_hourly"] = np.where(seen, value, np.float32(np.nan))
    return shown


def terms(patients: Patients) -> Iterator[tuple[float, Column]]:
    """Each term of the logit of an onset: its coefficient, and [n] its value."""
    true = patients.values
    yield 2.4, true["infection"]
    yield 0.3, patients.severity
    yield 0.3, (true["age"] - 65) / 17
    yield 0.4, true["cancer"]
    yield 0.3, true["diabetes"]
