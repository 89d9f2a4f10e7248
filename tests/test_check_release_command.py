"""`fedhealth site check-release`: a release beside one hospital's patients, said there and nowhere else."""

from __future__ import annotations

import pytest

from fedhealth import cli
from fedhealth.compose import composed, resolved
from fedhealth.core.manifest import load_manifest
from fedhealth.core.study import study_from
from fedhealth.evaluation.margins import MarginLayout
from fedhealth.governance.proposal import propose
from fedhealth.governance.signing import new_key, signing_key
from fedhealth.release.records import csv_text
from fedhealth.site.cohort import load_cohort
from fedhealth.site.release_check import Real
from fedhealth.study_document import document_of
from fedhealth.synthetic.folders import write_sites

NAMES = ["hospital-01", "hospital-02", "hospital-03"]


@pytest.fixture
def asked(tmp_path):
    """The file of a release's study over drawn hospitals of some size, the study, and its layout."""

    def made(size: int):
        write_sites(tmp_path / "drawn", h=0.0, n=3, seed=7, size=size)
        words = ["experiment=smoke", "secagg=masked", "privacy=release", "privacy.epsilon=3"]
        config = resolved(composed([*words, f"sites.folder={tmp_path / 'drawn'}", f"sites.names=[{','.join(NAMES)}]"]))
        document = document_of(config, NAMES)
        new_key(tmp_path / "anna.key")
        signed = propose(
            document, purpose="A test", expires="2999-01-01", name="Anna", key=signing_key(tmp_path / "anna.key")
        )
        (tmp_path / "release.study").write_text(signed.text)
        study = study_from(document)
        return study, MarginLayout.of(study)

    return made


def real(tmp_path, study, layout, name):
    folder = tmp_path / "drawn" / name
    manifest = load_manifest(folder)
    cohort, _ = load_cohort(
        manifest, folder, spec=study.features, task=study.task, split=study.split, seed=study.seed
    )  # fmt: skip
    return Real.of(layout, [cohort])


def check(tmp_path, capsys, study, layout, cells):
    (tmp_path / "patients.csv").write_text(csv_text(study, layout, cells, seed=1))
    words = [
        str(tmp_path / "release.study"),
        str(tmp_path / "patients.csv"),
        "--site",
        str(tmp_path / "drawn" / NAMES[0]),
    ]
    code = cli.main(["site", "check-release", *words])
    return code, *capsys.readouterr()


def test_copies_of_the_patients_are_found_out_and_others_are_not(asked, tmp_path, capsys):
    study, layout = asked(900)
    others = real(tmp_path, study, layout, NAMES[1]).train
    code, out, err = check(tmp_path, capsys, study, layout, others)
    assert (code, err) == (0, "")
    assert "FOR THE HOSPITALS" in out
    copied = real(tmp_path, study, layout, NAMES[0]).train
    code, out, err = check(tmp_path, capsys, study, layout, copied)
    assert code == 3
    assert "at most 55% of synthetic patients may be nearer to a patient behind them than to another" in err
    assert "share of synthetic patients nearer to a training patient" in out


def test_a_hospital_of_few_patients_reads_the_figures_and_gets_no_verdict(asked, tmp_path, capsys):
    study, layout = asked(150)
    code, out, err = check(tmp_path, capsys, study, layout, real(tmp_path, study, layout, NAMES[0]).train)
    assert (code, err) == (0, "")
    assert "Nearness is not judged: 200 patients of either kind must be compared" in out


def test_a_table_of_something_else_is_refused_in_one_line(asked, tmp_path, capsys):
    asked(150)
    (tmp_path / "patients.csv").write_text("age,died\n70,1\n")
    words = [
        str(tmp_path / "release.study"),
        str(tmp_path / "patients.csv"),
        "--site",
        str(tmp_path / "drawn" / NAMES[0]),
    ]
    assert cli.main(["site", "check-release", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["site", "check-release", words[0], str(tmp_path / "none.csv"), *words[2:]]) == 2
    assert "found no file" in capsys.readouterr().err
