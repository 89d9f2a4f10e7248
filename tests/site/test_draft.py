"""The first site.yaml of a table that nobody described: what is guessed, and that each guess is marked."""

from __future__ import annotations

import random
import re

import pytest
import yaml

from fedhealth.cli import main
from fedhealth.core.errors import DataError
from fedhealth.core.manifest import load_manifest
from fedhealth.core.sensitivity import guessed
from fedhealth.core.split import Split
from fedhealth.data_command import study_parts
from fedhealth.site.cohort import load_cohort
from fedhealth.site.draft import drafted

TASK, SPEC = study_parts("mortality", None)


@pytest.fixture
def table(tmp_path):
    """Twelve columns as a hospital may have exported them: semicolons, short names, SI units, a name and a note."""
    rng = random.Random(3)
    rows = ["Patient_ID;Name;Age;Sex_female;HR;SBP;crea;glucose_mmol_L;Temp;wbc;ward_notes;Expired"]
    for i in range(200):
        crea = "NA" if i % 11 == 0 else f"{rng.lognormvariate(4.4, 0.4):.0f}"
        rows.append(
            f"x{i};N{i};{rng.randint(30, 90)};{i % 2};{rng.gauss(85, 15):.0f};{rng.gauss(120, 20):.0f};{crea};"
            f"{rng.lognormvariate(2, 0.3):.1f};{rng.gauss(37, 0.6):.1f};{rng.lognormvariate(2.3, 0.4):.1f};fine;{int(i % 6 == 0)}"
        )
    path = tmp_path / "export.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_columns_units_and_missing_words_are_guessed_and_say_why(table):
    draft = drafted(table, name="elm", spec=SPEC, task=TASK)
    found = {each.variable: (each.column, each.unit) for each in draft.guesses}
    assert found["died_in_hospital"] == ("Expired", "")
    assert found["heart_rate"] == ("HR", "")
    assert found["creatinine"] == ("crea", "umol/L")
    assert found["glucose"] == ("glucose_mmol_L", "mmol/L")
    assert found["temperature"] == ("Temp", "")
    assert found["female"] == ("Sex_female", "")
    assert found["lactate"] == ("", "")
    why = {each.variable: each.why for each in draft.guesses}
    assert why["creatinine"] == "a usual name for it; its values look like umol/L"
    assert why["glucose"] == "a usual name for it, which names the unit"


def test_each_guess_is_marked_for_review_in_a_file_that_loads(table, tmp_path):
    folder = tmp_path / "elm"
    folder.mkdir()
    text = drafted(table, name="elm", spec=SPEC, task=TASK).text
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    manifest = load_manifest(folder)
    block = re.search(r"codes:\n((?:  .*\n)+)units:\n((?:  .*\n)+)", text)
    assert all("# review" in line for line in (block[1] + block[2]).splitlines())
    assert manifest.source["patient"] == "Patient_ID"
    assert manifest.source["delimiter"] == ";"
    assert manifest.source["missing"] == ["NA"]
    assert manifest.sensitivity["Name"] == "identifier"
    assert manifest.sensitivity["ward_notes"] == "text"
    found, quality = load_cohort(manifest, folder, spec=SPEC, task=TASK, split=Split(), seed=1)
    assert len(found.patients) == 200
    assert 0.4 < float(found.everyone.columns["creatinine"][1]) < 4  # µmol/L brought to mg/dL
    assert quality.features["lactate"].missing == 200


def test_the_command_drafts_once_and_what_it_drafts_can_be_inspected(table, tmp_path, capsys):
    words = ["site", "new", "--from", str(table), "--task", "mortality", "--out", str(tmp_path / "sites")]
    assert main(words) == 0
    assert "review" in capsys.readouterr().out
    assert main(["site", "inspect-data", str(tmp_path / "sites" / "export")]) == 0
    assert main(words) == 2
    assert "a site.yaml is never written over" in capsys.readouterr().err


def test_a_parquet_table_is_drafted_as_one(table, tmp_path):
    import duckdb

    path = tmp_path / "export.parquet"
    duckdb.sql(f"copy (from read_csv('{table}')) to '{path}'")
    draft = drafted(path, name="elm", spec=SPEC, task=TASK)
    assert yaml.safe_load(draft.text)["source"]["kind"] == "parquet"
    assert {each.variable: each.column for each in draft.guesses}["systolic_bp"] == "SBP"


def test_no_identifier_or_text_is_ever_drafted_as_a_feature(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("age name,glucose notes,died\n1,2,0\n3,4,1\n")
    found = {each.column for each in drafted(path, name="elm", spec=SPEC, task=TASK).guesses}
    assert not [column for column in found if guessed(column) in ("identifier", "text")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be CSV in UTF-8, found nothing"),
        (b"\xff\xfe\x00a", "must be CSV in UTF-8, found a UnicodeDecodeError"),
        (b"a,b\n", "must have a header and rows, found no row"),
        (b"a,a\n1,2\n", "found two columns of one name"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        drafted(path, name="elm", spec=SPEC, task=TASK)
    with pytest.raises(DataError, match="--from must name a table"):
        drafted(tmp_path / "none.csv", name="elm", spec=SPEC, task=TASK)
