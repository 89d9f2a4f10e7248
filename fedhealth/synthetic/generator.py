"""Patients of one simulated hospital, drawn along a causal chain with a known true risk.

    who comes -> what they have -> how ill they are -> what their body does
      -> how they are treated -> the true risk -> the outcome
      -> what the devices show and the record keeps -> the hospital's own units

The outcome is drawn from the risk, so the risk's own AUROC bounds what any model can
reach. Devices, missing values and units come after it: they hide the truth, they don't
move it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.seeds import rng_of
from fedhealth.core.table import Table
from fedhealth.synthetic.outcomes import Outcome, outcome_named, series_of, times_of
from fedhealth.synthetic.patients import Patients
from fedhealth.synthetic.physiology import COMORBIDITIES, MEASUREMENTS, PANELS, Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.features import Conversion
    from fedhealth.synthetic.hospital import Hospital

#: How a patient can be admitted; a column of words.
ADMISSIONS = ("medical", "scheduled_surgery", "emergency_surgery")

# Rows drawn at a time: the columns of one chunk stay in the processor's cache.
_CHUNK = 1 << 15


@dataclass(frozen=True, slots=True)
class Generated:
    """A hospital's patients and the oracle: what no hospital ever sees.

    Attributes:
        table: what the hospital's records hold, in its own units.
        risk: [n] the true probability from which each outcome was drawn, for times that of an
            event by the horizon.
        severity: [n] the latent severity, mean 0 and variance 1 in the average hospital.
        treated: [n] whether the patient got the aggressive treatment.
    """

    table: Table
    risk: NDArray[np.float64]
    severity: NDArray[np.float64]
    treated: NDArray[np.bool_]


def generate(
    hospital: Hospital,
    *,
    name: str,
    seed: int,
    task: str,
    units: Mapping[str, Conversion] | None = None,
    horizon_days: float | None = None,
) -> Generated:
    """The year's patients of the hospital called `name`.

    The same arguments give the same bytes. The stream is named by (seed, name, task)
    alone, so no other hospital has any part in it.

    Args:
        hospital: in what it differs from the average hospital.
        name: the site's name; it names the random stream.
        seed: the study's seed; `hospital.seed` stands in for it where given.
        task: a module of `fedhealth.synthetic.outcomes`.
        units: by column, how the hospital's local unit becomes the generator's.
        horizon_days: when the true risk of a time to an event is told; None for an outcome without times.

    Raises:
        SettingError: the task is not known, or has times and no horizon or a horizon and no times.
    """
    outcome = outcome_named(task)
    times = times_of(outcome)
    if (times is None) != (horizon_days is None):
        raise SettingError(
            f"a task must have a follow_up where its simulated outcome has times and nowhere else, found task={task} "
            f"{'with' if times is None else 'without'} one. {'Remove' if times is None else 'Add'} task.follow_up."
        )
    seed = seed if hospital.seed is None else hospital.seed
    rng = rng_of(seed, site=name, purpose=f"patients/{task}")
    law = _law(outcome, hospital, name)
    n = hospital.size
    numbers = {column: np.empty(n) for column in (*_NUMBERS, *outcome.COLUMNS)}
    numbers |= {column: np.empty((n, steps)) for column, steps in series_of(outcome).items()}
    admission = np.empty(n, dtype=np.int8)
    risk, severity = np.empty(n), np.empty(n)
    treated, event, consent = np.empty(n, dtype=bool), np.empty(n), np.empty(n, dtype=bool)
    days = None if times is None else np.empty(n)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        size = rows.stop - rows.start
        when = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / n - 0.5
        patients = _admit(hospital, when, outcome.SEVERITY, rng)
        extra = outcome.history(patients, rng)
        if extra:
            patients = replace(patients, values={**patients.values, **extra})
        score = _score(outcome, law, hospital, patients, when)
        if times is None or days is None or horizon_days is None:
            risk[rows] = _sigmoid(score).astype(np.float64)
            event[rows] = rng.random(size, dtype=np.float32) < risk[rows]
        else:
            risk[rows] = times.risk(score, horizon_days)
            event[rows], days[rows] = times.follow(score, when, rng)
        consent[rows] = rng.random(size, dtype=np.float32) < hospital.consent_rate
        severity[rows], treated[rows], admission[rows] = patients.severity, patients.treated, patients.admission
        for column in ("age", "female", *COMORBIDITIES, *outcome.COLUMNS):
            numbers[column][rows] = patients.values[column]
        for column, seen in _observe(hospital, patients, rng).items():
            numbers[column][rows] = seen
    for column, conversion in (units or {}).items():
        if column in numbers:
            numbers[column] -= conversion.offset
            numbers[column] /= conversion.factor
    columns: dict[str, NDArray[np.float64] | NDArray[np.object_]] = dict(numbers)
    columns["admission"] = np.array(ADMISSIONS, dtype=object)[admission]
    table = Table(patients=_pseudonyms(n, rng), columns=columns, outcome=event, consent=consent, days=days)
    return Generated(table=table, risk=risk, severity=severity, treated=treated)


_NUMBERS = ("age", "female", *COMORBIDITIES, *MEASUREMENTS)

#: By column of the table, the unit the generator works in; a column of no unit is not named.
UNITS: dict[str, str] = {"age": "years", **{name: measurement.unit for name, measurement in MEASUREMENTS.items()}}


#: [measurements, 1] what each latent has of its own.
_OWN_NOISE = np.array(
    [[math.sqrt(max(1 - sum(w * w for w in each.loads.values()), 0.3))] for each in MEASUREMENTS.values()],
    dtype=np.float32,
)
#: By byte, its two hexadecimal digits.
_PAIRS = np.array([f"{byte:02x}" for byte in range(256)])


def _sigmoid(logit: Column) -> Column:
    return 1 / (1 + np.exp(-logit))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _happens(logit: Column, rng: np.random.Generator) -> Column:
    """1 where an event of that logit happens, else 0; of the logit's shape, which is drawn for row after row."""
    return (rng.random(logit.shape, dtype=np.float32) < _sigmoid(logit)).astype(np.float32)


def _column(numbers: list[float]) -> NDArray[np.float32]:
    """[n, 1] the numbers as one column: each meets a row of patients."""
    return np.array(numbers, dtype=np.float32)[:, None]


def _admit(hospital: Hospital, when: Column, shift: float, rng: np.random.Generator) -> Patients:
    """The patients as they truly are; `shift` moves everyone's severity."""
    n, mix = len(when), hospital.casemix
    # A skew to the young that keeps the median: quartiles 53, 67 and 78 in PhysioNet 2012.
    z = rng.standard_normal(n, dtype=np.float32)
    age = mix.age_median + mix.age_spread * (z - 0.178 * z * z)
    age = np.minimum(mix.age_min + np.abs(age - mix.age_min), 95)
    older = (age - 65) / 17
    has = {"female": (rng.random(n, dtype=np.float32) < mix.female).astype(np.float32)}
    usual = _column([_logit(share) + mix.comorbidity.get(name, 0.0) for name, (share, _) in COMORBIDITIES.items()])
    by_age = _column([1.7 * by_decade for _, by_decade in COMORBIDITIES.values()])
    has |= zip(COMORBIDITIES, _happens(usual + by_age * older, rng), strict=True)
    drawn = rng.random(n, dtype=np.float32)
    surgical = (drawn < mix.scheduled + mix.surgical_emergency).astype(np.int8)
    admission = surgical + (surgical & (drawn >= mix.scheduled))

    # A skew to the right: most patients are a little ill, a few very.
    z = rng.standard_normal(n, dtype=np.float32)
    severity = 0.95 * z + 0.2 * (z * z - 1) + 0.15 - 0.5 * (admission == 1).astype(np.float32)
    severity += mix.severity + shift + hospital.drift.severity * when
    factors = {
        **has,
        "age": older,
        "severity": severity,
        "inflammation": 0.3 * severity + 0.95 * rng.standard_normal(n, dtype=np.float32),
        "kidney": _happens(-1.65 + 0.5 * severity + 1.6 * has["chronic_kidney_disease"] + 0.2 * older, rng),
        "liver": _happens(-1.55 + 0.45 * severity, rng),
    }
    latent, values = _body(factors, rng)
    treated = _happens(hospital.policy.treat + hospital.policy.slope * severity, rng) > 0
    return Patients(
        values={**has, "age": age, **values}, latent=latent, severity=severity, treated=treated, admission=admission
    )


def _body(factors: Mapping[str, Column], rng: np.random.Generator) -> tuple[dict[str, Column], dict[str, Column]]:
    """By measurement, [n] the latent u and the true value."""
    u = rng.standard_normal((len(MEASUREMENTS), len(factors["severity"])), dtype=np.float32)
    u *= _OWN_NOISE
    for place, measurement in enumerate(MEASUREMENTS.values()):
        for factor, weight in measurement.loads.items():
            u[place] += weight * factors[factor]
    latent = dict(zip(MEASUREMENTS, u, strict=True))
    values = {name: measurement.shape.value(latent[name], factors) for name, measurement in MEASUREMENTS.items()}
    return latent, {name: _within(value, *MEASUREMENTS[name].limits) for name, value in values.items()}


def _within(value: Column, low: float, high: float) -> Column:
    """[n] the values, none beyond the limits: `clip`, whose own beginning takes longer than two hundred numbers."""
    return np.maximum(np.minimum(value, high), low)


def _law(outcome: Outcome, hospital: Hospital, name: str) -> list[float]:
    """[terms] the factor by which each of the outcome's coefficients differs at this hospital."""
    if not hospital.concept.scale:
        return [1.0] * outcome.TERMS
    rng = rng_of(hospital.concept.seed, site=name, purpose=f"concept/{outcome.NAME}")
    return [1 + hospital.concept.scale * drawn for drawn in rng.standard_normal(outcome.TERMS).tolist()]


def _score(outcome: Outcome, law: list[float], hospital: Hospital, patients: Patients, when: Column) -> Column:
    """[n] the logit of the outcome, or the log of its hazard."""
    score = outcome.INTERCEPT + hospital.prevalence.intercept + hospital.drift.intercept * when
    for factor, (coefficient, term) in zip(law, outcome.terms(patients), strict=True):
        score += coefficient * factor * term
    return score


def _observe(hospital: Hospital, patients: Patients, rng: np.random.Generator) -> dict[str, Column]:
    """What the record holds of each measurement: through the device, and NaN where it was not made."""
    n, policy = len(patients.severity), hospital.missing
    rates = _column([policy.panels.get(panel, usual) for panel, usual in PANELS.items()])
    absent = dict(zip(PANELS, rng.random((len(PANELS), n), dtype=np.float32) < rates, strict=True))
    usual = _column([_logit(each.missing) + policy.rate_logit.get(name, 0.0) for name, each in MEASUREMENTS.items()])
    sought = _column([policy.mar * each.sought for each in MEASUREMENTS.values()])
    skipped = usual - sought * patients.severity
    skipped -= policy.mnar * (np.abs([patients.latent[name] for name in MEASUREMENTS]) - 0.8)
    is_skipped = rng.random(skipped.shape, dtype=np.float32) < _sigmoid(skipped)
    seen: dict[str, Column] = {}
    for (name, measurement), gone in zip(MEASUREMENTS.items(), is_skipped, strict=True):
        value = patients.values[name]
        if name in hospital.devices:
            device = hospital.devices[name]
            value = _within(device.gain * value + device.offset, *measurement.limits)
        seen[name] = np.where(absent[measurement.panel] | gone, np.float32(np.nan), value)
    return seen


def _pseudonyms(n: int, rng: np.random.Generator) -> NDArray[np.str_]:
    """[n] names of ten hexadecimal digits, all different: row numbers through a bijection of 40 bits."""
    odd, start = (int(part) for part in rng.integers(0, 1 << 40, size=2))
    codes = (np.arange(n, dtype=np.uint64) * np.uint64(odd | 1) + np.uint64(start)) & np.uint64((1 << 40) - 1)
    octets = codes.astype("<u8").view(np.uint8).reshape(n, 8)[:, :5]
    return np.ascontiguousarray(_PAIRS[octets]).view("<U10").reshape(n)
