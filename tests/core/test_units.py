"""Units and codes of every feature spec, held to molar masses, check digits and OMOP's own vocabulary."""

from __future__ import annotations

import csv
import io
import re
import zipfile

import pytest
import yaml
from composing import config_of

from fedhealth.compose import options
from fedhealth.core.errors import SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.settings import read
from fedhealth.core.units import OMOP_UNITS, SPELLINGS, spelt
from fedhealth.places import configs_folder

#: All in one composition, in which Hydra makes each as it would in its place.
COMPOSED = config_of(*(f"+features@each.{name}={name}" for name in options("features")))["each"]
SPECS = {name: read(FeatureSpec, found, where=name) for name, found in COMPOSED.items()}
#: g/mol of an element (IUPAC 2021, abridged).
WEIGHTS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "Mg": 24.305}
#: What a mole of each analyte is. Urea nitrogen is reported as the nitrogen of urea: two atoms a molecule.
FORMULAS = {
    "creatinine": "C4H7N3O",
    "urea_nitrogen": "N2",
    "glucose": "C6H12O6",
    "lactate": "C3H6O3",
    "bilirubin": "C33H36N4O6",
    "cholesterol": "C27H46O",
    "magnesium": "Mg",
}
PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "d": 0.1, "10^9": 1e9, "10^3": 1e3}
#: mmHg in a kPa, by the standard atmosphere; hours in a day; and units that are others by name alone.
OTHERS = {("kPa", "mmHg"): (760 / 101.325, 0.0), ("mL/24h", "mL/h"): (1 / 24, 0.0), ("°F", "°C"): (5 / 9, -160 / 9), ("Cel", "°C"): (1.0, 0.0), ("mEq/L", "mmol/L"): (1.0, 0.0), ("L/L", "%"): (100.0, 0.0)}  # fmt: skip


def molar_mass(formula: str) -> float:
    return sum(WEIGHTS[element] * int(count or 1) for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula))


def size(unit: str, mass: float | None) -> float:
    """What one of the unit is, in grams (or cells) a litre."""
    above, below = unit.split("/")
    litre = PREFIXES[below.removesuffix("L")]
    if above.endswith("mol"):
        return PREFIXES[above.removesuffix("mol")] * mass / litre
    return PREFIXES[above.removesuffix("g")] / litre


def analyte(name: str) -> str:
    return re.sub(r"_(min|max|mean|first|last|count|hourly)$", "", name)


CONVERSIONS = [
    pytest.param(feature, unit, found, id=f"{name}-{feature.name}-{unit}")
    for name, spec in SPECS.items()
    for feature in spec.features
    for unit, found in feature.units.items()
]


@pytest.mark.parametrize(("feature", "unit", "found"), CONVERSIONS)
def test_a_factor_is_what_molar_masses_and_definitions_say(feature, unit, found):
    if (unit, feature.unit) in OTHERS:
        factor, offset = OTHERS[unit, feature.unit]
    else:
        formula = FORMULAS.get(analyte(feature.name))
        mass = molar_mass(formula) if formula else None
        factor, offset = size(unit, mass) / size(feature.unit, mass), 0.0
    assert found.factor == pytest.approx(factor, rel=3e-4)
    assert found.offset == pytest.approx(offset, rel=1e-9)


def test_molar_masses_are_those_of_the_literature():
    # CRC Handbook of Chemistry and Physics.
    known = {"creatinine": 113.12, "glucose": 180.16, "lactate": 90.08, "bilirubin": 584.66, "cholesterol": 386.65}
    assert {name: molar_mass(FORMULAS[name]) for name in known} == pytest.approx(known, rel=1e-4)


LOINC = sorted({code for spec in SPECS.values() for feature in spec.features for code in feature.loinc})
SNOMED = sorted({code for spec in SPECS.values() for feature in spec.features for code in feature.snomed})


@pytest.mark.parametrize("code", LOINC)
def test_a_loinc_code_has_its_check_digit(code):
    # Luhn's: from the right, every other digit doubled.
    digits, check = code.split("-")
    total = sum(sum(map(int, str(int(d) * (2 if place % 2 == 0 else 1)))) for place, d in enumerate(reversed(digits)))
    assert (10 - total % 10) % 10 == int(check)


@pytest.mark.parametrize("code", SNOMED)
def test_a_snomed_code_has_its_check_digit(code):
    # Verhoeff's, over the dihedral group of order ten.
    times = [[(i + j) % 5 if j < 5 else (i + j) % 5 + 5 for j in range(10)] for i in range(5)]
    times += [[(i - j) % 5 + 5 if j < 5 else (i - j) % 5 for j in range(10)] for i in range(5)]
    step = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]

    def moved(digit, by):
        for _ in range(by):
            digit = step[digit]
        return digit

    found = 0
    for place, digit in enumerate(reversed(code)):
        found = times[found][moved(int(digit), place)]
    assert found == 0


def test_omop_concepts_are_those_of_the_loinc_and_snomed_codes_beside_them(real_data):
    archive = real_data / "omop_synthea27nj" / "Synthea27Nj_5.4.zip"
    with zipfile.ZipFile(archive) as opened, io.TextIOWrapper(opened.open("CONCEPT.csv"), encoding="utf-8") as file:
        codes = {int(row["concept_id"]): row["concept_code"] for row in csv.DictReader(file)}
    checked = 0
    for spec in SPECS.values():
        for feature in spec.features:
            for concept in feature.omop:
                if concept in codes:
                    assert codes[concept] in (*feature.loinc, *feature.snomed), f"{feature.name}: {concept}"
                    checked += 1
    assert checked > 30


def test_specs_agree_on_what_they_share():
    shared = {}
    for spec in SPECS.values():
        for feature in spec.features:
            known = shared.setdefault(analyte(feature.name), feature)
            assert (known.loinc, known.omop) == (feature.loinc, feature.omop), f"{spec.name}: {feature.name}"
            if feature.aggregate != "count":  # a count has no unit
                assert (known.unit, known.units) == (feature.unit, feature.units), f"{spec.name}: {feature.name}"


@pytest.mark.parametrize(("written", "meant"), [("mm[Hg]", "mmHg"), (" mg/dL ", "mg/dL"), ("µmol/L", "umol/L")])
def test_a_unit_has_one_spelling(written, meant):
    assert spelt(written) == meant


def test_spellings_lead_nowhere_further_and_omops_units_are_known():
    assert not set(SPELLINGS.values()) & set(SPELLINGS)
    assert all(unit == unit.strip() for unit in OMOP_UNITS.values())


def test_a_unit_is_known_however_it_is_spelt():
    feature = Feature(name="t", unit="°C", units={"°F": Conversion(factor=5 / 9, offset=-160 / 9)})
    assert feature.conversion("Cel").factor == 1
    assert feature.conversion("[degF]").factor == 5 / 9
    with pytest.raises(SettingError, match="must come in a unit the feature spec knows, found 'K'"):
        feature.conversion("K")


@pytest.mark.parametrize("name", options("features"))
def test_every_feature_has_its_sensitivity_class_within_the_known_ones(name):
    found = yaml.safe_load((configs_folder() / "features" / f"{name}.yaml").read_text())
    for feature in found.get("features", ()):
        assert feature.get("sensitivity", "measure") in ("quasi", "sensitive", "measure")
