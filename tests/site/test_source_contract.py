"""The contract of every source: one hospital's patients, written in each format, become one cohort."""

from __future__ import annotations

import csv
import inspect
import json
import random

import numpy as np
import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.settings import read
from fedhealth.core.split import Split
from fedhealth.core.task import Task
from fedhealth.governance.consent import permitted
from fedhealth.site.cohort import Cohort
from fedhealth.site.quality import harmonise
from fedhealth.site.sources import _source_class, kinds, open_source

N, DAY = 40, "2020-01-01"
SPEC = FeatureSpec(
    name="contract",
    features=(
        Feature(name="heart_rate", unit="1/min", range=(20, 250), loinc=("8867-4",), omop=(3027018,)),
        Feature(
            name="creatinine",
            unit="mg/dL",
            units={"umol/L": Conversion(factor=0.011312)},
            range=(0.1, 30),
            loinc=("2160-0",),
            omop=(3016723,),
        ),
    ),
)
COLUMN = Task(name="death", title="Death", outcome="died")
EVENT = Task(name="death", title="Death", outcome="died", event="death_in_stay")


def patients():
    """By pseudonym: heart rate, creatinine in µmol/L, death; some without a value, one out of range."""
    rng = random.Random(7)
    made = {}
    for i in range(1, N + 1):
        rate = None if i % 9 == 0 else round(rng.gauss(85, 15), 1)
        made[str(i)] = (rate, None if i % 7 == 0 else round(rng.uniform(40, 300), 1), i % 4 == 0)
    made["5"] = (999.0, made["5"][1], made["5"][2])
    return made


def as_csv(folder):
    with (folder / "patients.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "heart_rate", "creatinine", "died"])
        rows.writerows([name, *("" if v is None else v for v in found[:2]), int(found[2])] for name, found in patients().items())  # fmt: skip
    return {"kind": "csv", "path": "patients.csv", "patient": "id"}, COLUMN


def as_parquet(folder):
    import duckdb

    as_csv(folder)
    duckdb.sql(f"copy (from '{folder}/patients.csv') to '{folder}/patients.parquet' (row_group_size 2048)")
    return {"kind": "parquet", "path": "patients.parquet", "patient": "id"}, COLUMN


def as_long(folder):
    with (folder / "long.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["record", "minute", "parameter", "value"])
        for name, (rate, creatinine, _) in patients().items():
            rows.writerow([name, 10, "heart_rate", 50])
            rows.writerows([name, 60, what, v] for what, v in (("heart_rate", rate), ("creatinine", creatinine)) if v)
            rows.writerow([name, 60 * 30, "heart_rate", 200])  # after the window
    with (folder / "outcomes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("record", "died"), *((name, int(each[2])) for name, each in patients().items())])
    return {"kind": "long", "path": "long.csv", "outcomes": "outcomes.csv"}, COLUMN


def as_fhir(folder):
    def observation(name, code, value, unit, hour):
        coding = {"coding": [{"system": "http://loinc.org", "code": code}]}
        return {"resourceType": "Observation", "status": "final", "code": coding, "subject": {"reference": f"Patient/{name}"}, "effectiveDateTime": f"{DAY}T{hour:02}:00:00Z", "valueQuantity": {"value": value, "code": unit}}  # fmt: skip

    lines = []
    for name, (rate, creatinine, died) in patients().items():
        dead = {"deceasedDateTime": "2020-01-03"} if died else {}
        lines.append({"resourceType": "Patient", "id": name, **dead})
        lines.append({"resourceType": "Encounter", "id": f"e{name}", "status": "finished", "class": {"code": "IMP"}, "subject": {"reference": f"Patient/{name}"}, "period": {"start": f"{DAY}T00:00:00Z", "end": "2020-01-05"}})  # fmt: skip
        lines.append(observation(name, "8867-4", 50, "/min", 0))
        lines += [observation(name, "8867-4", rate, "/min", 1)] if rate else []
        lines += [observation(name, "2160-0", creatinine, "umol/L", 1)] if creatinine else []
    (folder / "export.ndjson").write_text("\n".join(map(json.dumps, lines)))
    return {"kind": "fhir", "path": "export.ndjson", "as_of": "2024-01-01"}, EVENT


def as_omop_duckdb(folder):
    import duckdb

    with duckdb.connect(str(folder / "cdm.duckdb")) as made:
        made.execute("""
            create table person (person_id int, gender_concept_id int, year_of_birth int, month_of_birth int, day_of_birth int);
            create table visit_occurrence (visit_occurrence_id int, person_id int, visit_concept_id int, visit_start_date date, visit_start_datetime timestamp, visit_end_date date, visit_end_datetime timestamp);
            create table death (person_id int, death_date date, death_datetime timestamp);
            create table observation_period (person_id int, observation_period_end_date date);
            create table measurement (measurement_id int, person_id int, measurement_concept_id int, measurement_date date, measurement_datetime timestamp, value_as_number double, unit_concept_id int, unit_source_value varchar);
        """)
        number = 0
        for name, (rate, creatinine, died) in patients().items():
            who = int(name)
            made.execute("insert into person values (?, 8532, 1950, 1, 1)", [who])
            made.execute(
                "insert into visit_occurrence values (?, ?, 9201, ?, null, '2020-01-05', null)", [who, who, DAY]
            )
            if died:
                made.execute("insert into death values (?, '2020-01-03', null)", [who])
            for concept, value, unit, hour in ((3027018, 50, 8541, 0), (3027018, rate, 8541, 1), (3016723, creatinine, 8749, 1)):  # fmt: skip
                number += 1
                made.execute("insert into measurement values (?, ?, ?, ?, ?, ?, ?, null)", [number, who, concept, DAY, f"{DAY} {hour:02}:00:00", value, unit])  # fmt: skip
    return {"kind": "omop_duckdb", "path": "cdm.duckdb", "as_of": "2024-01-01"}, EVENT


WRITERS = {"csv": as_csv, "parquet": as_parquet, "long": as_long, "fhir": as_fhir, "omop_duckdb": as_omop_duckdb}
#: Sources that no file can be written for: a generator, and the database that test_omop.py holds to DuckDB's.
OTHERS = {"synthetic", "omop_postgresql"}


def cohort(folder, write, spec=SPEC):
    source, task = write(folder)
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source=source, units={"creatinine": "umol/L"})
    rows = open_source(manifest, folder).rows(spec=spec, task=task, manifest=manifest, folder=folder, seed=1)
    table, quality = harmonise(permitted(rows), spec, manifest)
    return Cohort.of(table, spec=spec, split=Split(), seed=1, site="ash"), quality


def test_every_source_is_under_this_contract():
    assert set(WRITERS) | OTHERS == set(kinds()), "write its patients in the new source's format, in WRITERS"


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_patients_in_any_format_are_the_same_cohort(tmp_path, kind):
    found, quality = cohort(tmp_path, WRITERS[kind])
    by_name = dict(zip(found.patients.tolist(), range(N), strict=True))
    order = [by_name[name] for name in patients()]
    # A dated record out of range is passed over for the one before it; in a table there is none before it.
    rates = [50.0 if v is None else v for v, _, _ in patients().values()] if kind not in ("csv", "parquet") else [np.nan if v is None else v for v, _, _ in patients().values()]  # fmt: skip
    rates[4] = np.nan if kind in ("csv", "parquet") else 50.0
    creatinine = [np.nan if v is None else v * 0.011312 for _, v, _ in patients().values()]
    np.testing.assert_array_equal(found.everyone.columns["heart_rate"][order], rates)
    np.testing.assert_array_equal(found.everyone.columns["creatinine"][order], creatinine)
    assert found.everyone.y[order].tolist() == [float(died) for *_, died in patients().values()]
    assert quality.kept == N


@pytest.mark.parametrize("kind", WRITERS)
def test_a_source_read_twice_gives_the_same_bits(tmp_path, kind):
    one, two = (cohort(tmp_path, lambda folder: once(folder, kind))[0] for _ in range(2))
    assert one.patients.tolist() == two.patients.tolist()
    assert one.split.tolist() == two.split.tolist()
    for name, column in one.everyone.columns.items():
        assert column.tobytes() == two.everyone.columns[name].tobytes()


def once(folder, kind):
    """Write at the first call only: a database file is not written twice."""
    marker = folder / "written.json"
    if not marker.exists():
        source, task = WRITERS[kind](folder)
        marker.write_text(json.dumps([source, task is EVENT]))
    source, is_event = json.loads(marker.read_text())
    return source, EVENT if is_event else COLUMN


@pytest.mark.parametrize("kind", kinds())
def test_a_source_is_settings_with_one_verb(kind):
    made = _source_class(kind)
    names = list(inspect.signature(made.rows).parameters)
    assert names == ["self", "spec", "task", "manifest", "folder", "seed"]
    with pytest.raises(SettingError, match=r"`not_a_key` is not a key here|must be set, found nothing\. Write \w+:"):
        read(made, {"not_a_key": 1}, where="source")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("way", ["dots", "link", "absolute"])
def test_a_source_reads_nothing_outside_its_folder(tmp_path, kind, way):
    outside, home = tmp_path / "outside", tmp_path / "ash"
    outside.mkdir()
    home.mkdir()
    source, task = WRITERS[kind](outside)
    file = source["path"]
    if way == "link":
        (home / file).symlink_to(outside / file)
    path = {"dots": f"../outside/{file}", "link": file, "absolute": str(outside / file)}[way]
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    chosen = {**source, "path": path}
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source=chosen, units={"creatinine": "umol/L"})

    def rows(allowing):
        return open_source(allowing, home).rows(spec=SPEC, task=task, manifest=allowing, folder=home, seed=1)

    with pytest.raises(DataError, match="must lie in its own folder or in one that site.yaml lists under `folders`"):
        rows(manifest)
    if kind != "long":  # whose outcomes are another path
        from dataclasses import replace

        assert len(rows(replace(manifest, folders=(str(outside),)))) == N


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_file_is_named(tmp_path, kind):
    source, task = WRITERS[kind](tmp_path)
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source={**source, "path": "nowhere"})
    with pytest.raises(DataError, match=r"source.path of .* must name a file, found none at .*nowhere\. Correct"):
        open_source(manifest, tmp_path).rows(spec=SPEC, task=task, manifest=manifest, folder=tmp_path, seed=1)
