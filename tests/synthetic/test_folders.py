"""Hospitals as folders: drawn from the knob, or cut from a pooled table."""

import csv

import numpy as np
import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.manifest import load_manifest
from fedhealth.core.settings import read
from fedhealth.evaluation.heterogeneity import heterogeneity, sums_of
from fedhealth.synthetic import Hospital
from fedhealth.synthetic.between import draw_hospital
from fedhealth.synthetic.folders import split_table, write_sites


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "pooled.csv"
    rng = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["centre", "age", "chest_pain", "chol", "num"])
        for i in range(200):
            chol = "?" if i % 9 == 0 else f"{rng.normal(240, 40):.1f}"
            writer.writerow([f"Centre {i % 3 + 1}", f"{rng.normal(55, 9):.0f}", "typical", chol, i % 4])
    return path


def hospital_of(path):
    manifest = load_manifest(path.parent)
    return read(Hospital, {k: v for k, v in manifest.source.items() if k != "kind"}, where=str(path))


def test_written_hospitals_read_back_as_drawn(tmp_path):
    for path in write_sites(tmp_path, h=1.0, n=5, seed=7):
        found = hospital_of(path)
        assert found == draw_hospital(path.parent.name, 1.0, 7, found.size)


def test_asking_for_one_hospital_more_changes_no_other(tmp_path):
    few, more = (write_sites(tmp_path / str(n), h=1.0, n=n, seed=7) for n in (3, 4))
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in more[:3]]


def test_hospitals_at_0_are_average_and_equal_in_size(tmp_path):
    found = [hospital_of(path) for path in write_sites(tmp_path, h=0.0, n=3, seed=7, size=500)]
    assert found == [Hospital(size=500)] * 3


def test_a_hand_edit_wins_and_nothing_else_is_written(tmp_path):
    edited = write_sites(tmp_path, h=1.0, n=1, seed=7)[0]
    edited.write_text("mine")
    with pytest.raises(SettingError, match=r"never written over, found .*hospital-01"):
        write_sites(tmp_path, h=1.0, n=3, seed=7)
    assert edited.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["hospital-01"]


@pytest.mark.parametrize(("keys", "words"), [({"h": -1, "n": 2}, "h must be"), ({"h": 1, "n": 0}, "n must be")])
def test_an_impossible_draw_is_refused(tmp_path, keys, words):
    with pytest.raises(SettingError, match=words):
        write_sites(tmp_path, seed=1, **keys)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "quantity", "feature"])
def test_a_split_keeps_every_row_once(table, tmp_path, scheme):
    split = split_table(table, tmp_path / "sites", scheme=scheme, outcome="num", parts=4, least=20)
    rows = [line for path in split.paths for line in (path.parent / "patients.csv").read_text().splitlines()[1:]]
    assert sorted(rows) == sorted(table.read_text().splitlines()[1:])
    assert min(len(outcome) for outcome in split.outcome.values()) >= 20
    assert load_manifest(split.paths[0].parent).source["path"] == "patients.csv"


def test_a_natural_split_is_named_for_the_columns_values(table, tmp_path):
    split = split_table(table, tmp_path / "sites", scheme="natural", column="centre", outcome="num")
    assert [path.parent.name for path in split.paths] == ["centre-1", "centre-2", "centre-3"]
    assert {len(outcome) for outcome in split.outcome.values()} == {66, 67}


def test_the_parts_feed_the_heterogeneity_report(table, tmp_path):
    split = split_table(table, tmp_path / "sites", scheme="feature", outcome="num", parts=4)
    found = heterogeneity({name: sums_of(split.columns[name], split.outcome[name]) for name in split.columns})
    assert found.rows()[0] == ("hospitals", "4")
    assert set(found.value) == {"age", "chol"}
    assert max(found.value.values()) > 0.3  # cut along the first component: far apart


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scheme": "dirichlett"}, "Did you mean dirichlet"),
        ({"scheme": "natural"}, "needs the column"),
        ({"scheme": "natural", "column": "center"}, "Did you mean centre"),
        ({"scheme": "iid", "outcome": "nums"}, "Did you mean num"),
        ({"scheme": "iid", "outcome": "chest_pain"}, "must be a number, found words"),
        ({"scheme": "iid", "parts": 30}, "needs 300 rows, found 200"),
    ],
)
def test_an_impossible_split_is_refused_before_anything_is_written(table, tmp_path, keys, words):
    with pytest.raises((DataError, SettingError), match=words):
        split_table(table, tmp_path / "sites", **{"outcome": "num", **keys})
    assert not (tmp_path / "sites").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("", "no patient"), ("a,num\n", "no patient"), ("a,num\n1\n", "2 cells, found 1 that don't")]
)
def test_a_table_without_whole_rows_is_refused(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        split_table(path, tmp_path / "sites", scheme="iid", outcome="num")


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="found none at"):
        split_table(tmp_path / "no.csv", tmp_path, scheme="iid", outcome="num")


@pytest.mark.parametrize("text", ["63.0,typical,1\n67.0,none,0\n", "age,age,num\n63,63,1\n"])
def test_a_table_whose_first_row_is_no_header_is_refused_without_showing_it(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="must begin with the names of its columns") as refusal:
        split_table(path, tmp_path / "sites", scheme="iid", outcome="num", parts=1, least=1)
    assert "63" not in str(refusal.value).replace(str(path), "")
    assert "typical" not in str(refusal.value)
