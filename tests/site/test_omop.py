"""OMOP: the official tables with the Synthea27Nj sample, in DuckDB and in a real PostgreSQL."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from datetime import UTC, date, datetime

import numpy as np
import pytest
from postgres_server import OWNER, PASSWORD, READER, running

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.task import FollowUp, Task
from fedhealth.site.omop import TABLES
from fedhealth.site.sources import omop_postgresql
from fedhealth.site.sources.omop_duckdb import OmopDuckdbSource
from fedhealth.site.sources.omop_postgresql import OmopPostgresqlSource

DEATH = Task(name="death", title="Death", outcome="died", event="death_in_stay")
YEARS = 24.0 * 36_600
SPEC = FeatureSpec(
    name="omop",
    features=(
        Feature(name="age", unit="years", range=(0, 120), origin="age"),
        Feature(name="female", kind="binary", origin="female"),
        *(
            Feature(
                name=f"systolic_{how}",
                unit="mmHg",
                range=(30, 280),
                omop=(3004249,),
                aggregate=how,
                window_h=(-YEARS, YEARS),
            )
            for how in ("last", "first", "min", "max", "mean", "count")
        ),
        Feature(
            name="creatinine",
            unit="umol/L",
            units={"mg/dL": Conversion(factor=88.42)},
            range=(8, 3000),
            omop=(3016723, 3051825),
            window_h=(-YEARS, YEARS),
        ),
        Feature(name="anemia", kind="binary", origin="condition", omop=(439777,)),
        Feature(name="coma_scale", range=(3, 15)),
    ),
)
WHAT = {"visits": (9201, 9202, 9203), "index": "last", "as_of": date(2022, 12, 31)}


def manifest(**more) -> SiteManifest:
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    return SiteManifest(name="oak", title="Oak", policy=policy, source={"kind": "omop"}, **more)


def rows(source, folder, task=DEATH, spec=SPEC, **more):
    return source.rows(spec=spec, task=task, manifest=manifest(**more), folder=folder, seed=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory, real_data):
    """A hospital's folder with the sample's tables in `cdm`."""
    folder = tmp_path_factory.mktemp("oak")
    with zipfile.ZipFile(real_data / "omop_synthea27nj" / "Synthea27Nj_5.4.zip") as opened:
        for table in TABLES:
            opened.extract(f"{table.upper()}.csv", folder / "cdm")
    return folder


@pytest.fixture(scope="module")
def server(home, real_data):
    """PostgreSQL with every table of the field-level specification, those that are read filled."""
    with (real_data / "omop_cdm54" / "OMOP_CDMv5.4_Field_Level.csv").open(encoding="utf-8-sig", newline="") as file:
        fields = list(csv.DictReader(file))
    with running() as found:
        found.sql("create schema cdm;" + "".join(ddl(fields)))
        for table in TABLES:
            found.fill(table, (home / "cdm" / f"{table.upper()}.csv").read_text(encoding="utf-8"))
        found.sql(f"grant usage on schema cdm to {READER}; grant select on all tables in schema cdm to {READER};")
        yield found


def ddl(fields):
    """The statement that makes each table, as the specification has its columns."""
    types = {"integer": "integer", "float": "numeric", "datetime": "timestamp", "date": "date", "varchar(max)": "text"}
    tables = defaultdict(list)
    for field in fields:
        kind = field["cdmDatatype"].lower()
        column = f'"{field["cdmFieldName"].lower().strip(chr(34))}" {types.get(kind, kind)}'
        key = " primary key" if field["isPrimaryKey"] == "Yes" else " not null" if field["isRequired"] == "Yes" else ""
        tables[field["cdmTableName"].lower()].append(column + key)
    return [f'create table cdm."{name}" ({", ".join(columns)});' for name, columns in tables.items()]


@pytest.fixture
def password(home):
    path = home / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    return "password"


def postgresql(server, **more):
    found = {"host": server.socket, "port": server.port, "database": "cdm", "user": READER, "schema": "cdm", "sslmode": "disable"}  # fmt: skip
    return OmopPostgresqlSource(**{**WHAT, **found, "password_file": "password"} | more)


def equal(one, two) -> bool:
    def words(table):
        columns = {name: column.tobytes() for name, column in table.columns.items()}
        days = None if table.days is None else table.days.tobytes()
        return table.patients.tolist(), columns, table.outcome.tobytes(), table.consent.tobytes(), days, table.records

    return words(one) == words(two)


@pytest.mark.process
@pytest.mark.parametrize(
    "task",
    [
        DEATH,
        Task(name="r", title="r", outcome="back", event="readmission"),
        Task(name="s", title="s", outcome="d", event="death", follow_up=FollowUp(time="t", horizon=365)),
    ],
    ids=lambda task: task.event,
)
def test_duckdb_and_postgresql_give_the_same_cohort_to_the_last_bit(home, server, password, task):
    ours = rows(OmopDuckdbSource(path="cdm", **WHAT), home, task)
    theirs = rows(postgresql(server), home, task)
    assert equal(ours, theirs)
    assert len(ours) == 28
    assert np.isfinite(ours.columns["systolic_mean"]).sum() == 28


def test_the_cohort_is_what_a_reader_of_the_files_finds(home):
    # An oracle of its own: the csv module, sets and sorting, in place of SQL and arrays.
    def table(name):
        with (home / "cdm" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    found = rows(OmopDuckdbSource(path="cdm", **WHAT), home)
    visits = defaultdict(list)
    for row in table("VISIT_OCCURRENCE"):
        start = datetime.fromisoformat(row["visit_start_datetime"]).replace(tzinfo=UTC)
        visits[row["person_id"]].append((start, int(row["visit_occurrence_id"]), row["visit_end_date"]))
    last = {person: max(each) for person, each in visits.items()}
    pressure = defaultdict(list)
    for row in table("MEASUREMENT"):
        if row["measurement_concept_id"] == "3004249":
            when = datetime.fromisoformat(row["measurement_datetime"]).replace(tzinfo=UTC)
            start, _, end = last[row["person_id"]]
            value = float(row["value_as_number"])
            if (
                -YEARS <= (when - start).total_seconds() / 3600 < YEARS
                and row["measurement_date"] <= end
                and 30 <= value <= 280
            ):
                pressure[row["person_id"]].append((when, value))
    dead = {row["person_id"]: row["death_date"] for row in table("DEATH")}
    for at, person in enumerate(found.patients.tolist()):
        values = [value for _, value in pressure[person]]
        start, _, end = last[person]
        died = person in dead and start.date().isoformat() <= dead[person] <= end
        assert found.outcome[at] == died
        if not values:
            assert np.isnan(found.columns["systolic_max"][at])
            continue
        assert found.columns["systolic_max"][at] == max(values)
        assert found.columns["systolic_min"][at] == min(values)
        assert found.columns["systolic_count"][at] == len(values)
        assert found.columns["systolic_mean"][at] == pytest.approx(sum(values) / len(values), rel=1e-12)
        moment = max(when for when, _ in pressure[person])
        assert found.columns["systolic_last"][at] == max(v for when, v in pressure[person] if when == moment)
    assert found.outcome.sum() == 3
    assert np.isnan(found.columns["coma_scale"]).all()


def test_units_are_the_records_own(home):
    in_umol = rows(OmopDuckdbSource(path="cdm", **WHAT), home).columns["creatinine"]
    assert 40 < np.nanmedian(in_umol) < 150


def written(tmp_path, home, table, change):
    """A copy of the sample with one table's text changed."""
    shutil.copytree(home / "cdm", tmp_path / "cdm")
    path = tmp_path / "cdm" / f"{table.upper()}.csv"
    text = change(path.read_text(encoding="utf-8"))
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    return rows(OmopDuckdbSource(path="cdm", **WHAT), tmp_path)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("measurement", lambda text: None, "must have the table measurement, found none"),
        (
            "visit_occurrence",
            lambda text: text.replace("visit_start_date,", "visit_begin_date,", 1),
            "visit_occurrence must have the column visit_start_date of CDM 5.4, found none. Did you mean visit_start_datetime?",
        ),
        ("person", lambda text: text.partition("\n")[0] + "\n", "the source must hold a visit of concept"),
        (
            "person",
            lambda text: text + text.splitlines()[1] + "\n",
            "each person must have one row in person, found two",
        ),
    ],
    ids=["a table missing", "a column renamed", "an empty result", "a patient twice"],
)
def test_tables_that_are_none_are_refused_by_name(tmp_path, home, table, change, words):
    with pytest.raises(DataError) as fault:
        written(tmp_path, home, table, change)
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_visit_without_a_patient_and_one_in_the_future_are_quarantined_by_number(tmp_path, home):
    def orphan(text):
        header, *lines = text.splitlines()
        cells = lines[0].split(",")
        later = [*cells]
        cells[0], cells[1] = "900001", "777"
        later[0], later[3:7] = "900002", ["2199-01-01", "2199-01-01 00:00:00", "2199-01-02", "2199-01-02 00:00:00"]
        return "\n".join([header, *lines, ",".join(cells), ",".join(later)])

    found = written(tmp_path, home, "visit_occurrence", orphan)
    assert [(each.place, each.code) for each in found.quarantine] == [
        ("visit 900001", "visit_without_patient"),
        ("visit 900002", "date_in_future"),
    ]
    assert len(found) == 28


def test_text_in_numbers_and_unknown_units_are_counted_and_left_out(tmp_path, home):
    def spoilt(text):
        lines = text.splitlines()
        at = [i for i, line in enumerate(lines) if ",3004249," in line]
        for i in at[:3]:
            cells = lines[i].split(",")
            cells[8] = "see note"
            lines[i] = ",".join(cells)
        for i in at[3:8]:
            lines[i] = lines[i].replace("8876", "0").replace("mm[Hg]", "furlong")
        return "\n".join(lines)

    found = written(tmp_path, home, "measurement", spoilt)
    assert found.records["systolic_last"] == {"not_a_number": 3, "unknown_unit": 5}


def test_a_task_that_does_not_say_its_event_is_refused(home):
    with pytest.raises(SettingError, match="task t must say by `event` what its outcome is"):
        rows(OmopDuckdbSource(path="cdm", **WHAT), home, Task(name="t", title="t", outcome="died"))


def test_local_codes_stand_in_for_the_specs(home):
    source = OmopDuckdbSource(path="cdm", **WHAT)
    ours = rows(source, home, codes={"coma_scale": "3027018"}).columns["coma_scale"]
    assert np.isnan(ours).all()  # heart rates: none lies between 3 and 15
    with pytest.raises(SettingError, match="must be a concept_id, found 'GCS'"):
        rows(source, home, codes={"coma_scale": "GCS"})


def test_an_objection_is_honoured(tmp_path, home):
    shutil.copytree(home / "cdm", tmp_path / "cdm")
    path = tmp_path / "cdm" / "OBSERVATION.csv"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    cells = next(line for line in lines if line.split(",")[1] == "1").split(",")
    cells[2] = "999"
    path.write_text("\n".join([header, *lines, ",".join(cells)]), encoding="utf-8")
    found = rows(OmopDuckdbSource(path="cdm", objections=(999,), **WHAT), tmp_path)
    assert found.patients[~found.consent].tolist() == ["1"]


@pytest.mark.process
def test_wrong_credentials_are_refused_without_being_shown(home, server, password):
    (home / "password").write_text("hunter2")
    with pytest.raises(DataError, match="must let the role in, found") as fault:
        rows(postgresql(server), home)
    assert "hunter2" not in str(fault.value)
    (home / "password").chmod(0o644)
    with pytest.raises(SettingError, match="must be for its owner alone, found rights 644"):
        rows(postgresql(server), home)
    with pytest.raises(SettingError, match="found NOT_SET_HERE unset"):
        rows(postgresql(server, password_file="", password_env="NOT_SET_HERE"), home)


@pytest.mark.process
def test_a_role_that_may_write_is_refused(home, server, password):
    server.sql(f"grant insert on cdm.death to {READER};")
    try:
        with pytest.raises(SettingError, match="must be one that can't write, found rights to change death"):
            rows(postgresql(server), home)
    finally:
        server.sql(f"revoke insert on cdm.death from {READER};")


@pytest.mark.process
def test_a_statement_has_only_so_long(home, server, password):
    import psycopg

    with psycopg.connect(host=server.socket, port=server.port, user=OWNER, dbname="cdm") as held:
        held.execute("lock table cdm.measurement in access exclusive mode")
        with pytest.raises(DataError, match=r"found a statement that took longer than source.timeout_s after 0 rows\."):
            rows(postgresql(server, timeout_s=0.5), home)


@pytest.mark.process
def test_a_connection_that_is_lost_half_way_is_one_line(home, server, password, monkeypatch):
    # The rows come by a cursor at the server: after the first batch the server ends the session.
    monkeypatch.setattr(omop_postgresql, "BATCH_ROWS", 100)
    batches = omop_postgresql._Postgresql.batches

    def cut(self, statement):
        for number, batch in enumerate(batches(self, statement)):
            if "value" in batch and number == 1:
                ended = server.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{READER}'")
                assert ended == [(True,)]
            yield batch

    monkeypatch.setattr(omop_postgresql._Postgresql, "batches", cut)
    with pytest.raises(DataError, match=r"must answer to the last row, found the connection lost after \d+ rows\. Try"):
        rows(postgresql(server), home)


@pytest.mark.process
def test_rows_are_read_in_one_snapshot_that_nothing_can_be_written_in(home, server, password):
    with postgresql(server)._connected(home) as connection:
        from sqlalchemy import text

        shown = [connection.execute(text(f"show {name}")).scalar() for name in ("transaction_read_only", "transaction_isolation")]  # fmt: skip
    assert shown == ["on", "repeatable read"]


def test_no_source_shows_a_password():
    code = (
        "from fedhealth.site.sources.omop_postgresql import OmopPostgresqlSource as S\n"
        "print(S(host='h', database='d', user='u', password_env='PW'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PW": "hunter2", "PATH": ""}, capture_output=True, text=True, check=False)  # fmt: skip
    assert "hunter2" not in done.stdout + done.stderr
    assert json.dumps("PW")[1:-1] in done.stdout + done.stderr or done.returncode
