"""A privacy event: one use of a mechanism on a cohort, in the terms an accountant needs.

An event says what was done, never what it costs. `as_json` is its one text: two events
with the same text cost the same, whoever did them and when.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal, TypeAlias

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import read, settings
from fedhealth.core.study import canonical

#: What an accountant can work with: beyond, its arithmetic has no digits left, and no study has any use for it.
LEAST_NOISE, MOST_NOISE = 1e-6, 1e9
RAREST = 1e-9
MOST_TIMES = 10**7

#: From whom a patient, or a hospital, is protected; `privacy.guarantee` says each in words.
View: TypeAlias = Literal["updates", "sums", "models"]


@settings
class PoissonSampledGaussian:
    """Gaussian noise on a sum over patients of whom each takes part with the same chance, `count` times.

    Attributes:
        noise_multiplier: the noise's standard deviation over the sum's sensitivity to one patient.
        sampling_rate: each patient's own chance to be in the sum, drawn anew every time and kept secret.
        count: how many such sums left.
    """

    noise_multiplier: float
    sampling_rate: float
    count: int = 1

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.count)
        if not RAREST <= self.sampling_rate <= 1:
            raise SettingError(
                f"`sampling_rate` must lie in [{RAREST:g}, 1], found {self.sampling_rate}. Use 1 where every patient takes part."
            )


@settings
class Gaussian:
    """Gaussian noise on a sum that every patient is in, `count` times.

    Attributes:
        noise_multiplier: the noise's standard deviation over the sum's sensitivity to one patient.
        count: how many such sums left.
    """

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.count)


@settings
class Unbounded:
    """Something left without noise: no bound holds from here on."""


Event: TypeAlias = PoissonSampledGaussian | Gaussian | Unbounded

_KINDS: dict[str, type[Event]] = {
    "poisson_sampled_gaussian": PoissonSampledGaussian,
    "gaussian": Gaussian,
    "unbounded": Unbounded,
}


def as_json(event: Event) -> str:
    """The event's one text: canonical JSON with its `kind`."""
    kind = next(name for name, cls in _KINDS.items() if type(event) is cls)
    return canonical({"kind": kind, **asdict(event)})


def event_from(text: str) -> Event:
    """The event in a text that `as_json` wrote.

    Raises:
        SettingError: the text is no known event. What can't be read can't be accounted for.
    """
    try:
        found = json.loads(text)
        cls = _KINDS[found.pop("kind")]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingError(
            f"a privacy event must be one of {', '.join(_KINDS)}, found {text[:60]!r}. Use a FedHealth that knows it."
        ) from None
    return read(cls, found, where="privacy event")


def _check(noise_multiplier: float, count: int) -> None:
    if not LEAST_NOISE <= noise_multiplier <= MOST_NOISE:
        raise SettingError(
            f"`noise_multiplier` must lie in [{LEAST_NOISE:g}, {MOST_NOISE:g}], found {noise_multiplier}. Without noise the "
            "event is unbounded."
        )
    if not 1 <= count <= MOST_TIMES:
        raise SettingError(f"`count` must lie in [1, {MOST_TIMES:g}], found {count}. Leave out what did not happen.")
