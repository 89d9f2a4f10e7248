"""One simulated hospital: everything in which it may differ from the average one."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.settings import settings
from fedhealth.synthetic.physiology import COMORBIDITIES, MEASUREMENTS, PANELS

if TYPE_CHECKING:
    from collections.abc import Iterable


@settings
class Casemix:
    """Who comes through the door.

    Attributes:
        age_median: years, of the adult population.
        age_spread: years; the standard deviation about that median, roughly.
        age_min: years; nobody younger is admitted.
        female: share of women.
        scheduled: share admitted for planned surgery.
        surgical_emergency: share admitted for unplanned surgery; the rest are medical.
        severity: shift of the latent severity, in its standard deviations.
        comorbidity: by comorbidity, a shift of its logit.
    """

    age_median: float = 67.0
    age_spread: float = 18.5
    age_min: float = 16.0
    female: float = 0.44
    scheduled: float = 0.24
    surgical_emergency: float = 0.16
    severity: float = 0.0
    comorbidity: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range("casemix.age_median", self.age_median, 18, 95)
        _check_range("casemix.age_spread", self.age_spread, 1, 40)
        _check_range("casemix.age_min", self.age_min, 16, self.age_median)
        for name in ("female", "scheduled", "surgical_emergency"):
            _check_range(f"casemix.{name}", getattr(self, name), 0, 1)
        _check_range("casemix.scheduled + surgical_emergency", self.scheduled + self.surgical_emergency, 0, 1)
        _check_range("casemix.severity", self.severity, -3, 3)
        _check_names("casemix.comorbidity", self.comorbidity, COMORBIDITIES)
        for name, shift in self.comorbidity.items():
            _check_range(f"casemix.comorbidity.{name}", shift, -6, 6)


@settings
class Prevalence:
    """How often the outcome happens to patients who are alike: a shift of its logit."""

    intercept: float = 0.0

    def __post_init__(self) -> None:
        _check_range("prevalence.intercept", self.intercept, -4, 4)


@settings
class Device:
    """A biased analyser: what it shows is gain * truth + offset, in the canonical unit."""

    gain: float = 1.0
    offset: float = 0.0


@settings
class Missing:
    """What is not measured, and for whom.

    Attributes:
        panels: by panel, the probability that none of it reaches the record.
        rate_logit: by measurement, a shift of the logit of its own missing rate.
        mar: how much less is missing in sicker patients (missing at random given severity).
        mnar: how much less is missing where the value itself is far from usual (not at random).
    """

    panels: dict[str, float] = field(default_factory=dict)
    rate_logit: dict[str, float] = field(default_factory=dict)
    mar: float = 0.5
    mnar: float = 0.4

    def __post_init__(self) -> None:
        _check_names("missing.panels", self.panels, PANELS)
        _check_names("missing.rate_logit", self.rate_logit, MEASUREMENTS)
        for name, rate in self.panels.items():
            _check_range(f"missing.panels.{name}", rate, 0, 1)
        for name, shift in self.rate_logit.items():
            _check_range(f"missing.rate_logit.{name}", shift, -8, 8)
        _check_range("missing.mar", self.mar, -3, 3)
        _check_range("missing.mnar", self.mnar, -3, 3)


@settings
class Treatment:
    """Who gets the aggressive treatment: logit = treat + slope * severity."""

    treat: float = -0.5
    slope: float = 0.8

    def __post_init__(self) -> None:
        _check_range("policy.treat", self.treat, -8, 8)
        _check_range("policy.slope", self.slope, -4, 4)


@settings
class Concept:
    """How far the same finding means another risk here: each coefficient times 1 + scale * N(0, 1).

    `seed` names the hospital's own law; it does not follow the study's seed, since a
    hospital stays itself when a study is run again.
    """

    scale: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_range("concept.scale", self.scale, 0, 1)


@settings
class Drift:
    """What changes from the first patient of the year to the last, evenly."""

    severity: float = 0.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        _check_range("drift.severity", self.severity, -3, 3)
        _check_range("drift.intercept", self.intercept, -4, 4)


@settings
class Hospital:
    """A simulated hospital. Every default is the average hospital.

    `size` is its patients in a year. `seed`, where given, stands in for the study's.
    """

    size: int = field(metadata={"example": 600})
    seed: int | None = None
    casemix: Casemix = field(default_factory=Casemix)
    prevalence: Prevalence = field(default_factory=Prevalence)
    devices: dict[str, Device] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)
    policy: Treatment = field(default_factory=Treatment)
    concept: Concept = field(default_factory=Concept)
    drift: Drift = field(default_factory=Drift)
    consent_rate: float = 1.0

    def __post_init__(self) -> None:
        _check_range("size", self.size, 1, 50_000_000)
        _check_range("consent_rate", self.consent_rate, 0, 1)
        _check_names("devices", self.devices, MEASUREMENTS)
        for name, device in self.devices.items():
            _check_range(f"devices.{name}.gain", device.gain, 0.1, 10)
            _check_range(f"devices.{name}.offset", device.offset, -1000, 1000)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingError(f"{name} must lie from {low:g} to {high:g}, found {value:g}. Correct it in site.yaml.")


def _check_names(name: str, found: Iterable[str], known: Iterable[str]) -> None:
    for key in found:
        if key not in known:
            raise SettingError(f"{name} must name what is measured here, found {key!r}. {did_you_mean(key, known)}")
