"""A hospital drawn by its name, as its own manifest says it: the same whatever others are drawn with it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedhealth.core.seeds import rng_of
from fedhealth.synthetic.between import draw_hospital, draw_units
from fedhealth.synthetic.hospital import Device, Hospital

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fewer patients in a year than this are no hospital; the parts of their split would be empty.
LEAST_PATIENTS = 60


def drawn_manifest(name: str, *, h: float, seed: int, size: int) -> dict[str, Any]:
    """The keys of a drawn hospital's site.yaml; of h = 0 an average hospital of exactly `size` patients.

    Sizes are log-normal about `size`, with a standard deviation of 0.7 h in the logarithm.
    """
    patients = round(size * math.exp(0.7 * h * float(rng_of(seed, site=name, purpose="size").standard_normal())))
    hospital = draw_hospital(name, h, seed, min(max(patients, LEAST_PATIENTS), 20 * size))
    average = Hospital(size=hospital.size, devices={measured: Device() for measured in hospital.devices})
    units = draw_units(name, h, seed)
    return {
        "name": name,
        "title": f"{name.replace('-', ' ').capitalize()} (simulated)",
        "description": f"Drawn with between-hospital difference h = {h:g} and seed {seed}.",
        "policy": {"min_patients": 20, "min_cell": 5, "min_cohort": 3},
        **({"units": units} if units else {}),
        "source": {"kind": "synthetic", **_departures(asdict(hospital), asdict(average))},
    }


def _departures(found: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that differ from the average hospital's, and the size."""
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict) and isinstance(usual.get(key), dict):
            inside = _departures(value, usual[key])
            if inside:
                kept[key] = inside
        elif key == "size" or value != usual.get(key):
            kept[key] = value
    return kept
