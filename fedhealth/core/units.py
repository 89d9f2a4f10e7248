"""Units: one spelling a unit, whatever a record system writes.

UCUM has `mm[Hg]` and `10*3/uL`, OMOP has numbers for them, people write `mmHg` and `K/uL`.
How a value in one unit becomes one in another is not here: that depends on the analyte, and
stands in the feature spec.
"""

from __future__ import annotations

#: Other spellings of a unit, by spelling; UCUM's are from its table, ucum.org/ucum.
SPELLINGS: dict[str, str] = {
    "mm[Hg]": "mmHg",
    "/min": "1/min",
    "{beats}/min": "1/min",
    "{breaths}/min": "1/min",
    "bpm": "1/min",
    "Cel": "°C",
    "[degF]": "°F",
    "10*3/uL": "10^3/uL",
    "10*9/L": "10^9/L",
    "K/uL": "10^3/uL",
    "10*3/mm3": "10^3/uL",
    "meq/L": "mEq/L",
    "µmol/L": "umol/L",
    "μmol/L": "umol/L",
    "mL/(24.h)": "mL/24h",
    "a": "years",
    "d": "days",
    "wk": "weeks",
    "mo": "months",
    "{score}": "",
    "1": "",
}

#: OMOP's concepts of units, by concept_id, as UCUM writes them.
OMOP_UNITS: dict[int, str] = {
    8510: "[U]",
    8541: "/min",
    8554: "%",
    8582: "cm",
    8636: "g/L",
    8645: "U/L",
    8713: "g/dL",
    8749: "umol/L",
    8753: "mmol/L",
    8840: "mg/dL",
    8848: "10*3/uL",
    8876: "mm[Hg]",
    8961: "10*3/mm3",
    9289: "[degF]",
    9444: "10*9/L",
    9529: "kg",
    9557: "meq/L",
    586323: "Cel",
}


def spelt(unit: str) -> str:
    """The unit in the one spelling that a feature spec uses."""
    unit = unit.strip()
    return SPELLINGS.get(unit, unit)
