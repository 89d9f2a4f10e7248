"""Inspection: what a hospital is told of its own data, and what it keeps to itself."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.errors import DataError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest, load_manifest
from fedhealth.core.table import Table
from fedhealth.core.task import Task
from fedhealth.data_command import study_parts
from fedhealth.places import builtin_sites, site_names
from fedhealth.site import inspection
from fedhealth.site.inspection import duplicates, histogram, inspected, last, stability, unit_doubt, write

SIMULATED = [
    name for name in site_names(builtin_sites()) if load_manifest(builtin_sites() / name).source["kind"] == "synthetic"
]
TASK, SPEC = study_parts("mortality", None)


def looked_into(name, **changed):
    folder = builtin_sites() / name
    manifest = replace(load_manifest(folder), **changed)
    return inspected(manifest, folder, spec=SPEC, task=TASK, seed=7)


@pytest.mark.parametrize("name", SIMULATED)
def test_no_hospital_that_names_its_units_is_doubted(name):
    found, _ = looked_into(name)
    assert {each["name"]: each["looks_like"] for each in found["features"] if each["looks_like"]} == {}


@pytest.mark.parametrize("feature", ["creatinine", "bilirubin", "glucose", "albumin", "hematocrit", "temperature"])
def test_a_hospital_that_names_the_wrong_unit_is_told_which_it_looks_like(feature):
    (there,) = [name for name in SIMULATED if name == "norrvik"]
    folder = builtin_sites() / there
    source = {**load_manifest(folder).source}
    conversion = {"temperature": "°F"}.get(feature, next(iter(SPEC[feature].units)))
    values = np.array([each for each in _values(folder, source, feature) if math.isfinite(each)])
    found = SPEC[feature].conversion(conversion)
    local = (values - found.offset) / found.factor
    assert unit_doubt(SPEC[feature], local, SPEC[feature].unit) == conversion


def _values(folder, source, feature):
    manifest = replace(load_manifest(folder), units={})
    from fedhealth.site.sources import open_source

    rows = open_source(manifest, folder).rows(spec=SPEC, task=TASK, manifest=manifest, folder=folder, seed=7)
    return rows.columns[feature]


def test_a_unit_claimed_in_vain_is_doubted_the_other_way():
    creatinine = SPEC["creatinine"]
    claimed = np.full(100, 0.9) * creatinine.conversion("umol/L").factor  # 0.9 mg/dL under the name of µmol/L
    assert unit_doubt(creatinine, claimed, "umol/L") == "mg/dL"


def test_few_values_or_no_bins_raise_no_doubt():
    assert unit_doubt(SPEC["creatinine"], np.full(19, 80.0), "mg/dL") == ""
    assert unit_doubt(Feature(name="x", unit="a", units={"b": Conversion(factor=100)}), np.full(99, 80.0), "a") == ""


def test_the_stability_index_is_what_a_hand_finds():
    # (.5 - .25) ln(.5 / .25) + (.5 - .75) ln(.5 / .75), with half a patient more in each cell of millions.
    found = stability(np.array([5e6, 5e6]), np.array([2.5e6, 7.5e6]))
    assert found == pytest.approx(0.25 * math.log(2) - 0.25 * math.log(2 / 3), rel=1e-5)
    assert stability(np.array([3.0, 0.0]), np.array([3.0, 0.0])) == 0


def test_a_histogram_counts_every_value_once_and_the_missing_last():
    age = Feature(name="age", range=(0, 120), bins=(50, 65))
    assert histogram(age, np.array([49.9, 50, 64, 65, 99, np.nan])).tolist() == [1, 2, 2, 1]
    ward = Feature(name="ward", kind="categorical", levels=("a", "b"))
    assert histogram(ward, np.array(["b", None, "b", "a"], dtype=object)).tolist() == [1, 2, 1]
    assert histogram(Feature(name="x", kind="binary"), np.array([0, 1, 1, np.nan])).tolist() == [1, 2, 1]


def test_patients_alike_in_every_value_are_counted_beyond_the_first():
    columns = {"a": np.array([1.0, 1, 1, 1, np.nan]), "b": np.array([2.0, 2, 2, 3, np.nan]), "c": np.array(["x", "x", "y", "x", None], dtype=object)}  # fmt: skip
    table = Table(np.array(list("pqrst")), columns, np.zeros(5), np.ones(5, dtype=bool))
    assert duplicates(table) == 1


def hospital(tmp_path, rows, **policy):
    folder = tmp_path / "ash"
    folder.mkdir(exist_ok=True)
    (folder / "patients.csv").write_text("id,age,creatinine,died\n" + "\n".join(rows))
    floors = Policy(**({"min_patients": 1, "min_cell": 1, "min_cohort": 3} | policy))
    source = {"kind": "csv", "path": "patients.csv", "patient": "id"}
    return SiteManifest(name="ash", title="Ash", policy=floors, source=source), folder


SMALL = FeatureSpec(
    name="small",
    features=(
        Feature(name="age", range=(0, 120), bins=(50, 65), required=True),
        Feature(name="creatinine", unit="mg/dL", range=(0.1, 30), bins=(0.5, 1, 2), on_bad="reject"),
    ),
)
DEATH = Task(name="death", title="Death", outcome="died")


def test_the_report_counts_and_the_quarantine_names_and_both_are_their_owners_alone(tmp_path):
    rows = [f"P-{i},{40 + i},{'99' if i == 3 else '0.9'},{i % 2}" for i in range(40)]
    manifest, folder = hospital(tmp_path, rows)
    found, quality = inspected(manifest, folder, spec=SMALL, task=DEATH, seed=1)
    write(found, quality, folder / "quality")
    assert (found["rows"], found["kept"], found["rejected"], found["positive"]) == (40, 39, 1, 19)
    assert found["quarantine"] == {"creatinine_out_of_range": 1}
    report, listed = folder / "quality" / "report.json", folder / "quality" / "quarantine.csv"
    assert listed.read_text() == "place,reason\npatient P-3,creatinine_out_of_range\n"
    assert "P-3" not in report.read_text()
    assert [path.stat().st_mode & 0o777 for path in (report, listed, folder / "quality")] == [0o600, 0o600, 0o700]
    assert json.loads(report.read_text()) == last(folder / "quality") == found


def test_values_that_moved_since_the_last_inspection_are_named(tmp_path):
    manifest, folder = hospital(tmp_path, [f"P-{i},{30 + i % 20},0.9,{i % 2}" for i in range(60)])
    first, _ = inspected(manifest, folder, spec=SMALL, task=DEATH, seed=1)
    again, _ = inspected(manifest, folder, spec=SMALL, task=DEATH, seed=1, before=first)
    hospital(tmp_path, [f"P-{i},{70 + i % 20},0.9,{i % 2}" for i in range(60)])
    older, _ = inspected(manifest, folder, spec=SMALL, task=DEATH, seed=1, before=first)
    assert [each["drift"] for each in first["features"]] == [None, None]
    assert [each["drift"] for each in again["features"]] == [0, 0]
    assert [each["has_moved"] for each in older["features"]] == [True, False]
    assert older["prevalence_before"] == first["prevalence"]


@pytest.mark.parametrize(
    ("rows", "policy", "words"),
    [
        ([f"P-{i},{'' if i < 3 else 50},1,0" for i in range(10)], {}, "age must have a good value for 80%"),
        ([f"P-{i},50,1,0" for i in range(10)], {"min_patients": 50}, "a round must have at least 50 training patients"),
    ],
)
def test_the_report_says_what_a_round_would_be_refused_for(tmp_path, rows, policy, words):
    manifest, folder = hospital(tmp_path, rows, **policy)
    found, _ = inspected(manifest, folder, spec=SMALL, task=DEATH, seed=1)
    assert not found["is_fit"]
    assert words in found["reasons"][0]
    other, _ = inspected(replace(manifest, schema_version=2), folder, spec=SMALL, task=DEATH, seed=1)
    assert "schema_version must be the feature spec's 1, found 2" in other["reasons"][0]


def test_an_older_report_that_is_none_is_not_written_over(tmp_path):
    (tmp_path / inspection.REPORT).write_text("{}")
    with pytest.raises(DataError, match="must be an inspection of schema 1, found another file"):
        last(tmp_path)
