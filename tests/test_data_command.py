"""`fedhealth site inspect-data` and `new`, as a hospital uses them."""

import json

import pytest
import yaml

from fedhealth.cli import main
from fedhealth.places import builtin_sites

HEADER = "age,female,creatinine,died_in_hospital"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "norrvik"
    folder.mkdir()
    (folder / "site.yaml").write_text((builtin_sites() / "norrvik" / "site.yaml").read_text(encoding="utf-8"))
    return folder


def test_an_inspection_writes_a_page_that_stays(home, capsys):
    assert main(["site", "inspect-data", str(home)]) == 0
    page = (home / "quality" / "report.html").read_text(encoding="utf-8")
    assert "Norrvik Central Hospital" in page
    assert "This page stays at the hospital" in page
    assert (home / "quality" / "report.html").stat().st_mode & 0o777 == 0o600
    assert "patients can take part." in capsys.readouterr().out
    assert main(["site", "inspect-data", str(home)]) == 0
    assert json.loads((home / "quality" / "report.json").read_text())["features"][0]["drift"] == 0


def test_a_hospital_that_would_be_refused_is_told_so_by_words_and_by_the_exit_code(home, capsys):
    path = home / "site.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("min_patients: ", "min_patients: 9999"))
    assert main(["site", "inspect-data", str(home)]) == 3
    shown = capsys.readouterr().out
    assert "refused: norrvik: a round must have at least 9999" in shown
    assert "Why a round is refused" in (home / "quality" / "report.html").read_text(encoding="utf-8")


def test_data_that_can_not_be_read_is_one_line(home, capsys):
    path = home / "site.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    (home / "patients.csv").write_text(f"{HEADER}\n50,0,80,1\n")
    path.write_text(yaml.safe_dump(found | {"source": {"kind": "csv", "path": "patients.csv"}}))
    assert main(["site", "inspect-data", str(home)]) == 2
    assert "must have one column 'admission' for admission" in capsys.readouterr().err
