"""FHIR R4: bundles and bulk NDJSON, held to what a plain reading of the same JSON finds."""

from __future__ import annotations

import gzip
import json
import math
from datetime import date, datetime

import numpy as np
import pytest

from fedhealth.core.errors import DataError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.task import Task
from fedhealth.site.fhir import moment
from fedhealth.site.sources import fhir as source_module
from fedhealth.site.sources.fhir import FhirSource

YEARS = 24.0 * 36_600
DEATH = Task(name="death", title="Death", outcome="died", event="death_in_stay")
SPEC = FeatureSpec(
    name="fhir",
    features=(
        Feature(name="age", unit="years", range=(0, 120), origin="age"),
        Feature(name="female", kind="binary", origin="female"),
        *(
            Feature(
                name=f"systolic_{how}",
                unit="mmHg",
                units={"kPa": Conversion(factor=7.50062)},
                range=(30, 280),
                loinc=("8480-6",),
                aggregate=how,
                window_h=(-YEARS, YEARS),
            )
            for how in ("max", "mean", "count")
        ),
        Feature(name="height", unit="cm", range=(30, 230), loinc=("8302-2",), window_h=(-YEARS, YEARS)),
        Feature(
            name="hypertension",
            kind="binary",
            origin="condition",
            snomed=("38341003", "59621000"),
            window_h=(-YEARS, YEARS),
        ),
    ),
)


def rows(folder, spec=SPEC, codes=None, **more):
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="fir", title="Fir", policy=policy, source={"kind": "fhir"}, codes=codes or {})
    source = FhirSource(**{"path": ".", "as_of": date(2024, 12, 31)} | more)
    return source.rows(spec=spec, task=DEATH, manifest=manifest, folder=folder, seed=1)


@pytest.fixture(scope="module")
def bundles(real_data):
    return real_data / "fhir_bundles"


def test_bundles_become_the_cohort_that_a_plain_reading_finds(bundles):
    found = rows(bundles, visits=("AMB", "IMP", "EMER", "WELLNESS", "URGENTCARE"), index="last")
    expected = {}
    for path in bundles.glob("*.json.gz"):
        entries = [entry["resource"] for entry in json.loads(gzip.decompress(path.read_bytes()))["entry"]]
        (patient,) = [each for each in entries if each["resourceType"] == "Patient"]
        stays = [each["period"] for each in entries if each["resourceType"] == "Encounter"]
        stay = max(stays, key=lambda period: datetime.fromisoformat(period["start"]))
        pressures = [
            part["valueQuantity"]["value"]
            for each in entries
            for part in (each.get("component", []) if each["resourceType"] == "Observation" else [])
            if part["code"]["coding"][0]["code"] == "8480-6" and each["effectiveDateTime"][:10] <= stay["end"][:10]
        ]
        diagnoses = {each["code"]["coding"][0]["code"] for each in entries if each["resourceType"] == "Condition"}
        expected[patient["id"]] = (patient, [p for p in pressures if 30 <= p <= 280], diagnoses, datetime.fromisoformat(stay["start"]))  # fmt: skip
    assert found.patients.tolist() == sorted(expected)
    assert len(found) == 22
    for at, name in enumerate(found.patients.tolist()):
        patient, pressures, diagnoses, first = expected[name]
        assert found.columns["female"][at] == (patient["gender"] == "female")
        assert found.columns["systolic_count"][at] == len(pressures)
        np.testing.assert_equal(found.columns["systolic_max"][at], max(pressures, default=math.nan))
        assert found.columns["hypertension"][at] == bool(diagnoses & {"38341003", "59621000"})
        born = datetime.fromisoformat(patient["birthDate"]).replace(tzinfo=first.tzinfo)
        assert abs((first - born).days / 365.25 - found.columns["age"][at]) <= 1
    assert found.columns["systolic_count"].sum() > 20
    assert not found.quarantine


def test_bulk_files_are_read_without_their_observations(real_data):
    found = rows(real_data / "fhir_bulk10", visits=("AMB", "IMP", "EMER"))
    assert len(found) == 13
    assert np.isnan(found.columns["height"]).all()
    assert found.columns["hypertension"].sum() >= 1


def patient(number, **more):
    return {"resourceType": "Patient", "id": f"p{number}", "gender": "female", "birthDate": "1950-03"} | more


def stay(number, **more):
    return {"resourceType": "Encounter", "id": f"e{number}", "status": "finished", "class": {"code": "IMP"}, "subject": {"reference": f"Patient/p{number}"}, "period": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-05"}} | more  # fmt: skip


def pressure(number, value=120.0, unit="mm[Hg]", **more):
    quantity = {"value": value, "system": "http://unitsofmeasure.org", "code": unit}
    part = {"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}, "valueQuantity": quantity}
    code = {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}
    return {"resourceType": "Observation", "status": "final", "code": code, "component": [part], "subject": {"reference": f"Patient/p{number}"}, "effectiveDateTime": "2020-01-01T03:00:00Z"} | more  # fmt: skip


def bulk(folder, **kinds):
    for kind, resources in kinds.items():
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in resources]
        (folder / f"{kind}.ndjson").write_bytes(b"\n".join(lines) + b"\n")


def test_a_broken_line_is_quarantined_by_its_number_and_the_rest_is_read(tmp_path):
    lines = [pressure(i % 3, value=100.0 + i % 50) for i in range(5000)]
    lines[4710] = json.dumps(lines[4710]).encode()[:-20]
    bulk(tmp_path, Patient=[patient(i) for i in range(3)], Encounter=[stay(i) for i in range(3)], Observation=lines)
    found = rows(tmp_path)
    assert [(each.place, each.code) for each in found.quarantine] == [("Observation.ndjson:4711", "invalid_json")]
    assert found.columns["systolic_count"].sum() == 4999
    assert found.columns["systolic_max"].tolist() == [149.0] * 3


def test_batches_of_any_size_give_the_same_bits(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    lines = [pressure(i % 7, value=float(v)) for i, v in enumerate(rng.normal(120, 15, 400))]
    bulk(tmp_path, Patient=[patient(i) for i in range(7)], Encounter=[stay(i) for i in range(7)], Observation=lines)
    whole = rows(tmp_path)
    monkeypatch.setattr(source_module, "BATCH_ROWS", 13)
    parts = rows(tmp_path)
    assert all(whole.columns[name].tobytes() == parts.columns[name].tobytes() for name in whole.columns)


def test_what_can_not_be_used_is_counted_by_reason_and_named_by_place(tmp_path):
    said = {"component": [], "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]}}
    bulk(
        tmp_path,
        Patient=[
            patient(0),
            patient(1, deceasedDateTime="2020-01-04"),
            b'{"resourceType":"Patient","id":"\xff"}',
            patient(1),
        ],
        Encounter=[
            stay(0),
            stay(1),
            stay(9),
            stay(0, id="later", period={"start": "2199-01-01T00:00:00Z"}),
            stay(1, id="back", period={"start": "2020-05-02", "end": "2020-05-01"}),
        ],
        Observation=[
            pressure(0, 16.0, "kPa"),
            pressure(0, 120.0, "furlong"),
            pressure(0, 900.0),
            pressure(0, 999.0, status="entered-in-error"),
            pressure(8),
            pressure(1, valueString="high", **said),
            pressure(1, effectiveDateTime="2020-01-01T23:00:00+01:00"),
        ],
    )
    found = rows(tmp_path)
    assert sorted((each.place, each.code) for each in found.quarantine) == [
        ("Observation.ndjson:5", "record_without_patient"),
        ("Patient.ndjson:3", "not_utf8"),
        ("Patient.ndjson:4", "patient_twice"),
        ("visit back", "visit_ends_before_start"),
        ("visit e9", "visit_without_patient"),
        ("visit later", "date_in_future"),
    ]
    assert found.records["systolic_max"] == {"unknown_unit": 1, "out_of_range": 1}
    assert found.records["height"] == {"not_a_number": 1}
    assert found.columns["systolic_max"].tolist() == pytest.approx([16 * 7.50062, 120.0])
    assert found.outcome.tolist() == [0.0, 1.0]
    assert found.columns["age"].tolist() == [69.0, 69.0]


def test_a_consent_that_denies_is_honoured(tmp_path):
    consent = {"resourceType": "Consent", "status": "active", "patient": {"reference": "urn:uuid:p1"}, "provision": {"type": "deny"}}  # fmt: skip
    lapsed = {**consent, "status": "inactive", "patient": {"reference": "Patient/p0"}}
    bulk(tmp_path, Patient=[patient(0), patient(1)], Encounter=[stay(0), stay(1)], Consent=[consent, lapsed])
    assert rows(tmp_path).consent.tolist() == [True, False]


def test_a_local_code_of_any_system_stands_in_for_loinc(tmp_path):
    local = pressure(0, component=[], valueInteger=171, code={"coding": [{"system": "urn:lab", "code": "HGT"}]})
    bulk(tmp_path, Patient=[patient(0)], Encounter=[stay(0)], Observation=[local])
    assert rows(tmp_path, codes={"height": "HGT | HEIGHT"}).columns["height"].tolist() == [171.0]


def test_an_export_without_a_stay_or_without_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold FHIR in files"):
        rows(tmp_path)
    bulk(tmp_path, Patient=[patient(0)])
    with pytest.raises(
        DataError, match="fir: the source must hold an Encounter of class IMP, ACUTE, NONAC, found none"
    ):
        rows(tmp_path)
    (tmp_path / "Observation.ndjson.gz").write_bytes(gzip.compress(json.dumps(pressure(0)).encode() * 999)[:-50])
    with pytest.raises(DataError, match=r"Observation.ndjson.gz must be readable to its end, found a \w+"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T01:00:00.500+01:00", 0.5),
        ("1970-01-02", 86400.0),
        ("1970-02", 31 * 86400.0),
        ("1971", 365 * 86400.0),
        ("yesterday", math.nan),
        (None, math.nan),
    ],
)
def test_a_moment_is_read_as_far_as_it_is_known(text, expected):
    np.testing.assert_equal(moment(text), expected)
