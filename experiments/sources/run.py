"""How fast is each source, beside what reads its files fastest? And how much memory do ten million rows take?

    python experiments/sources/run.py [--rows 10000000]

writes table.md beside itself. The files are made under a temporary folder and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
FEATURES = ("heart_rate", "systolic_bp", "temperature", "creatinine", "sodium", "glucose")
LOINC = ("8867-4", "8480-6", "8310-5", "2160-0", "2951-2", "2345-7")
#: Rows (of FHIR: lines) of each timing; small enough for a minute together.
TIMED = {"csv": 200_000, "parquet": 1_000_000, "long": 2_000_000, "omop_duckdb": 1_000_000, "fhir": 100_000}
REPEATS = 3


def made(kind: str, rows: int, folder: Path) -> dict:
    """Write `rows` rows in the format of a source, and the block of site.yaml that reads them."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("select setseed(0.5)")
    numbers = ", ".join(f"round(random() * 50 + 50, 2) as {name}" for name in FEATURES)
    table = f"select 'p' || i as id, {numbers}, (random() < 0.1)::int as died from range({rows}) t(i)"
    if kind == "csv":
        connection.execute(f"copy ({table}) to '{folder}/patients.csv' (header)")
        return {"kind": kind, "path": "patients.csv", "patient": "id"}
    if kind == "parquet":
        connection.execute(f"copy ({table}) to '{folder}/patients.parquet'")
        return {"kind": kind, "path": "patients.parquet", "patient": "id"}
    stays, six = max(rows // 200, 1), "['" + "','".join(FEATURES) + "']"
    if kind == "long":
        measured = f"select i % {stays} as record, (random() * 1400)::int as minute, {six}[1 + i % 6] as parameter, round(random() * 50 + 50, 2) as value from range({rows}) t(i)"  # fmt: skip
        connection.execute(f"copy ({measured}) to '{folder}/long.parquet'")
        connection.execute(f"copy (select i as record, (random() < 0.1)::int as died from range({stays}) t(i)) to '{folder}/outcomes.parquet'")  # fmt: skip
        return {"kind": kind, "path": "long.parquet", "outcomes": "outcomes.parquet"}
    if kind == "omop_duckdb":
        base = duckdb.connect(str(folder / "cdm.duckdb"))
        concepts = "[3027018, 3004249, 3020891, 3016723, 3019550, 3004501]"
        base.execute(f"""
            create table person as select i as person_id, 8532 as gender_concept_id, 1950 as year_of_birth, 1 as month_of_birth, 1 as day_of_birth from range({stays}) t(i);
            create table visit_occurrence as select i as visit_occurrence_id, i as person_id, 9201 as visit_concept_id, date '2020-01-01' as visit_start_date, null::timestamp as visit_start_datetime, date '2020-01-05' as visit_end_date, null::timestamp as visit_end_datetime from range({stays}) t(i);
            create table death as select i as person_id, date '2020-01-03' as death_date, null::timestamp as death_datetime from range({stays}) t(i) where i % 10 = 0;
            create table observation_period as select i as person_id, date '2020-06-01' as observation_period_end_date from range({stays}) t(i);
            create table measurement as select i as measurement_id, i % {stays} as person_id, {concepts}[1 + i % 6] as measurement_concept_id, date '2020-01-01' as measurement_date, timestamp '2020-01-01' + to_minutes((random() * 1400)::int) as measurement_datetime, round(random() * 50 + 50, 2) as value_as_number, 0 as unit_concept_id, null::varchar as unit_source_value from range({rows}) t(i);
        """)
        base.close()
        return {"kind": kind, "path": "cdm.duckdb", "as_of": "2024-01-01"}
    with (folder / "export.ndjson").open("w") as file:
        for i in range(stays):
            file.write(json.dumps({"resourceType": "Patient", "id": f"p{i}"}) + "\n")
            file.write(json.dumps({"resourceType": "Encounter", "id": f"e{i}", "class": {"code": "IMP"}, "subject": {"reference": f"Patient/p{i}"}, "period": {"start": "2020-01-01", "end": "2020-01-05"}}) + "\n")  # fmt: skip
        for i in range(rows):
            code = {"coding": [{"system": "http://loinc.org", "code": LOINC[i % 6]}]}
            file.write(json.dumps({"resourceType": "Observation", "id": str(i), "status": "final", "code": code, "subject": {"reference": f"Patient/p{i % stays}"}, "effectiveDateTime": f"2020-01-01T{i % 24:02}:00:00Z", "valueQuantity": {"value": 50 + i % 50, "code": ""}}) + "\n")  # fmt: skip
    return {"kind": kind, "path": "export.ndjson", "as_of": "2024-01-01"}


def plain(source: dict, folder: Path) -> None:
    """What reads the same bytes fastest: DuckDB, of Parquet pyarrow, on one thread and into numpy."""
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    if source["kind"] == "csv":
        connection.execute(f"select * from read_csv('{folder}/patients.csv')").fetchnumpy()
    elif source["kind"] in ("parquet", "long"):
        import pyarrow.parquet as pq

        for column in pq.read_table(folder / source["path"], use_threads=False).columns:
            column.to_numpy()
    elif source["kind"] == "omop_duckdb":
        base = duckdb.connect(str(folder / "cdm.duckdb"), read_only=True, config={"threads": 1})
        base.execute("select person_id, measurement_concept_id, epoch(measurement_datetime), value_as_number from measurement").fetchnumpy()  # fmt: skip
    else:
        connection.execute(f"select * from read_json('{folder}/export.ndjson', format='newline_delimited', columns={{resourceType: 'VARCHAR', subject: 'JSON', code: 'JSON', effectiveDateTime: 'VARCHAR', valueQuantity: 'JSON'}})").fetchall()  # fmt: skip


def cohort(source: dict, folder: Path) -> int:
    """How many patients the source's cohort has."""
    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.manifest import Policy, SiteManifest
    from fedhealth.core.split import Split
    from fedhealth.core.task import Task
    from fedhealth.site.cohort import load_cohort

    concepts = (3027018, 3004249, 3020891, 3016723, 3019550, 3004501)
    features = tuple(
        Feature(name=name, range=(0, 1000), loinc=(loinc,), omop=(concept,))
        for name, loinc, concept in zip(FEATURES, LOINC, concepts, strict=True)
    )
    spec = FeatureSpec(name="sources", features=features)
    is_wide = source["kind"] in ("csv", "parquet", "long")
    task = Task(name="death", title="Death", outcome="died", event="column" if is_wide else "death_in_stay")
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source=source)
    found, _ = load_cohort(manifest, folder, spec=spec, task=task, split=Split(), seed=1)
    return len(found.patients)


def alone(words: list[str]) -> dict:
    """What a fresh process says of itself: seconds and its peak of memory."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(way: str, source: dict, folder: Path) -> None:
    import duckdb  # noqa: F401 - loaded before the clock runs, as a hospital's process has it
    import numpy as np  # noqa: F401

    import fedhealth.site.cohort  # noqa: F401

    started = time.process_time()
    patients = cohort(source, folder) if way == "cohort" else plain(source, folder)
    took = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_s": took, "peak": peak, "patients": patients}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--child", nargs=3)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child[0], json.loads(chosen.child[1]), Path(chosen.child[2]))
        return
    lines = [
        "| source | rows | rows a second, to a cohort | plain reader, rows a second | ratio | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    wanted = [*TIMED.items(), ("parquet", chosen.rows), ("long", chosen.rows)]
    for kind, rows in wanted:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            source = json.dumps(made(kind, rows, folder))
            repeats = REPEATS if rows <= 2_000_000 else 1
            ours = [alone(["--child", "cohort", source, place]) for _ in range(repeats)]
            theirs = [alone(["--child", "plain", source, place]) for _ in range(repeats)]
        fast, plainly = (sorted(each["cpu_s"] for each in found)[len(found) // 2] for found in (ours, theirs))
        peak = max(each["peak"] for each in ours)
        lines.append(
            f"| {kind} | {rows:,} | {rows / fast:,.0f} | {rows / plainly:,.0f} | {plainly / fast:.2f} | {peak / 2**20:,.0f} MiB |"
        )
        sys.stderr.write(lines[-1] + "\n")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
