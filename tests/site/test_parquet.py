"""Parquet hospitals, good and bad."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from fedhealth.core.errors import DataError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.task import Task
from fedhealth.site.sources.parquet import ParquetSource

SPEC = FeatureSpec(
    name="small",
    features=(Feature(name="age", range=(0, 120)), Feature(name="ward", kind="categorical", levels=("a", "b"))),
)
DEATH = Task(name="death", title="Death", outcome="died")


def rows(tmp_path, select, name="patients.parquet", **source):
    if select:
        duckdb.sql(f"copy ({select}) to '{tmp_path / name}'")
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source={"kind": "parquet"})
    chosen = ParquetSource(**({"path": name} | source))
    return chosen.rows(spec=SPEC, task=DEATH, manifest=manifest, folder=tmp_path, seed=1)


def test_numbers_words_dates_and_nulls_are_read_as_in_a_csv(tmp_path):
    select = "select * from (values ('40', 'a', 1), ('?', ' b ', 0), ('old', null, 1), (null, 'a', null)) as t(age, ward, died)"
    found = rows(tmp_path, select, missing=("?",))
    np.testing.assert_array_equal(found.columns["age"], [40, np.nan, np.inf, np.nan])
    assert found.columns["ward"].tolist() == ["a", "b", None, "a"]
    np.testing.assert_array_equal(found.outcome, [1, 0, 1, np.nan])
    assert found.patients.tolist() == ["row-0", "row-1", "row-2", "row-3"]


def test_a_date_is_no_number(tmp_path):
    found = rows(tmp_path, "select date '1950-01-01' as age, 'a' as ward, true as died")
    assert found.columns["age"].tolist() == [np.inf]
    assert found.outcome.tolist() == [1]


def test_a_folder_of_parts_is_one_table(tmp_path):
    for part in (1, 2):
        duckdb.sql(f"copy (select {part}0 as age, 'a' as ward, 0 as died) to '{tmp_path}/p{part}.parquet'")
    assert rows(tmp_path, "", name="ignored", path=".").columns["age"].tolist() == [10, 20]


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("select 40 as age, 'a' as ward, 1 as dead", "must have one column 'died' for died, found 0"),
        ("select 40 as age, 'a' as ward, 1 as died limit 0", "must hold patients, found no row"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, select, words):
    with pytest.raises(DataError, match=words):
        rows(tmp_path, select)


def test_a_file_that_is_no_parquet_or_breaks_off_is_refused(tmp_path):
    rows(tmp_path, "select i as age, 'a' as ward, 1 as died from range(9999) t(i)")
    path = tmp_path / "patients.parquet"
    for spoilt in (b"age,ward,died\n", path.read_bytes()[:-99]):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match="must be a table in CSV or Parquet, found a"):
            rows(tmp_path, "")
