"""The four real hospitals, cell by cell against their files read by nothing but `str.split`."""

import numpy as np
import pytest

from fedhealth.compose import composed, resolved
from fedhealth.core.features import FeatureSpec
from fedhealth.core.manifest import load_manifest
from fedhealth.core.settings import read
from fedhealth.core.split import Split
from fedhealth.core.task import Task
from fedhealth.places import builtin_sites
from fedhealth.site.cohort import load_cohort

FILES = {"cleveland": "cleveland", "hungary": "hungarian", "switzerland": "switzerland", "long-beach": "va"}
PLACES = {
    "age": 0, "sex": 1, "chest_pain": 2, "systolic_pressure": 3, "cholesterol": 4, "fasting_glucose_high": 5,
    "resting_ecg": 6, "max_heart_rate": 7, "exercise_angina": 8, "st_depression": 9,
}  # fmt: skip
# Patients with a narrowing, of how many, by the data's own description (heart-disease.names).
SICK = {"cleveland": (139, 303), "hungary": (106, 294), "switzerland": (115, 123), "long-beach": (149, 200)}

hospitals = pytest.mark.parametrize("name", FILES)


@pytest.fixture(scope="module")
def heart():
    config = resolved(composed(["task=heart"]))
    return read(FeatureSpec, config["features"], where="features"), read(Task, config["task"], where="task")


@pytest.fixture
def hospital(real_data, heart, monkeypatch):
    spec, task = heart
    monkeypatch.setenv("FEDHEALTH_DATA", str(real_data))

    def opened(name):
        folder, file = builtin_sites() / name, real_data / "uci_heart_disease" / f"processed.{FILES[name]}.data"
        cells = [line.split(",") for line in file.read_text().split()]
        return *load_cohort(load_manifest(folder), folder, spec=spec, task=task, split=Split(), seed=1), cells

    return opened


@hospitals
def test_every_patient_is_there_and_as_many_are_sick_as_the_data_says(hospital, name):
    found, quality, cells = hospital(name)
    assert (int(found.everyone.y.sum()), len(found.everyone)) == SICK[name]
    assert quality.kept == quality.rows == len(cells)
    np.testing.assert_array_equal(found.everyone.y, [row[13] != "0" for row in cells])


@hospitals
def test_every_number_is_the_files_or_missing_where_the_file_or_the_spec_says_so(hospital, heart, name):
    found, _, cells = hospital(name)
    for feature in (f for f in heart[0].features if f.kind != "categorical"):
        raw = np.array([float(row[PLACES[feature.name]].replace("?", "nan")) for row in cells])
        low, high = feature.range or (0, 1)
        expected = np.where((raw >= low) & (raw <= high), raw, np.nan)
        np.testing.assert_array_equal(found.everyone.columns[feature.name], expected, err_msg=feature.name)


@hospitals
def test_every_level_is_the_files(hospital, heart, name):
    found, quality, cells = hospital(name)
    for feature in (f for f in heart[0].features if f.kind == "categorical"):
        expected = [None if (word := row[PLACES[feature.name]]) == "?" else word for row in cells]
        assert found.everyone.columns[feature.name].tolist() == expected, feature.name
        assert quality.features[feature.name].implausible == 0


@hospitals
def test_a_cholesterol_of_0_is_missing_and_not_implausible(hospital, name):
    _, quality, cells = hospital(name)
    assert quality.features["cholesterol"].missing == sum(row[4] in ("0", "?") for row in cells)
    assert quality.features["cholesterol"].implausible == 0


@hospitals
def test_nothing_in_the_files_is_unreadable_or_makes_a_patient_leave(hospital, name):
    _, quality, _ = hospital(name)
    assert all(feature.unreadable == feature.rejected == 0 for feature in quality.features.values())


@hospitals
def test_patients_fall_into_the_groups_their_file_says(hospital, name):
    found, _, cells = hospital(name)
    age, sex = (np.array([float(row[place]) for row in cells]) for place in (0, 1))
    np.testing.assert_array_equal(found.everyone.groups["sex"], sex)
    np.testing.assert_array_equal(found.everyone.groups["age_band"], (age >= 50).astype(int) + (age >= 60))
