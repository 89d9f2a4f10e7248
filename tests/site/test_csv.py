"""CSV hospitals, good and bad: from the file to the cohort, each fault in one line without a patient's value."""

import re

import numpy as np
import pytest
import yaml

from fedhealth.core.errors import DataError, FedHealthError, SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import load_manifest
from fedhealth.core.split import Split
from fedhealth.core.task import FollowUp, Task
from fedhealth.site.cohort import load_cohort

SPEC = FeatureSpec(
    name="small",
    features=(
        Feature(name="age", unit="a", range=(0, 120)),
        Feature(name="creatinine", unit="mg/dL", units={"umol/L": Conversion(factor=1 / 88.42)}, range=(0.1, 30.0)),
        Feature(name="ward", kind="categorical", levels=("a", "b")),
    ),
)
TASK = Task(name="death", title="Death", outcome="died")
GOOD = "age,creatinine,ward,died\n40,0.9,a,0\n50,,b,1\n60,1.4,c,1\n70,2.0,a,\n"


def cohort(tmp_path, text=GOOD, spec=SPEC, task=TASK, source=None, **manifest):
    home = tmp_path / "ash"
    home.mkdir(exist_ok=True)
    found = {
        "name": "ash",
        "title": "Ash",
        "policy": {"min_patients": 1, "min_cell": 1, "min_cohort": 3},
        "source": {"kind": "csv", "path": "patients.csv"} | (source or {}),
    } | manifest
    (home / "site.yaml").write_text(yaml.safe_dump(found))
    if text is not None:
        (home / "patients.csv").write_text(text)
    return load_cohort(load_manifest(home), home, spec=spec, task=task, split=Split(), seed=1)


def test_a_good_table_becomes_a_cohort_and_a_count_of_its_faults(tmp_path):
    found, quality = cohort(tmp_path)
    np.testing.assert_array_equal(found.everyone.columns["age"], [40, 50, 60])
    assert found.everyone.columns["ward"].tolist() == ["a", "b", None]
    assert found.everyone.y.tolist() == [0, 1, 1]
    assert (quality.rows, quality.unknown_outcome, quality.kept) == (4, 1, 3)
    assert quality.features["creatinine"].missing == 1
    assert quality.features["ward"].implausible == 1


def test_a_local_unit_and_a_local_name_are_brought_to_the_specs(tmp_path):
    text = GOOD.replace("creatinine", "LAB1").replace("0.9", "88.42")
    found, _ = cohort(tmp_path, text, units={"creatinine": "umol/L"}, codes={"creatinine": "LAB1"})
    assert found.everyone.columns["creatinine"][0] == pytest.approx(1.0)


def test_a_misspelt_unit_is_refused_and_not_left_unused(tmp_path):
    with pytest.raises(
        SettingError, match="found 'creatinin', which this study does not have. Did you mean creatinine?"
    ):
        cohort(tmp_path, units={"creatinin": "umol/L"})


def test_a_patient_without_consent_is_nowhere(tmp_path):
    text = "age,creatinine,ward,died,ok\n40,1,a,0,yes\n41,1,a,1,no\n42,1,a,1,\n43,1,a,1,1\n"
    found, quality = cohort(tmp_path, text, source={"consent": "ok"})
    assert found.everyone.columns["age"].tolist() == [40, 43]
    assert quality.rows == 2


def test_the_tables_own_split_wins(tmp_path):
    text = "age,creatinine,ward,died,part\n40,1,a,0,test\n41,1,a,1,train\n"
    found, _ = cohort(tmp_path, text, source={"split": "part"})
    assert found.part("test").columns["age"].tolist() == [40]


@pytest.mark.parametrize(("on_bad", "expected"), [("null", np.nan), ("clip", 120.0)])
def test_what_is_implausible_is_mended_by_its_rule(tmp_path, on_bad, expected):
    spec = FeatureSpec(name="s", features=(Feature(name="age", range=(0, 120), on_bad=on_bad),))
    found, quality = cohort(tmp_path, "age,died\n200,1\n50,0\n", spec)
    np.testing.assert_equal(found.everyone.columns["age"][0], expected)
    assert quality.features["age"].implausible == 1


def test_on_bad_reject_leaves_the_patient_out(tmp_path):
    spec = FeatureSpec(name="s", features=(Feature(name="age", range=(0, 120), on_bad="reject"),))
    found, quality = cohort(tmp_path, "age,died\n200,1\n50,0\n", spec)
    assert found.everyone.columns["age"].tolist() == [50]
    assert quality.rejected == 1


SECRET = "83.1415"


def test_a_file_that_can_not_be_opened_is_the_hospitals_fault_alone(tmp_path):
    with pytest.raises(DataError, match="source.path of ash must name a readable file, found File name too long. Corr"):
        cohort(tmp_path, source={"path": "a" * 5000})


RULE_FOUND_REMEDY = re.compile(r".+(must|not) .+found .+[.?] [A-Z`].+[.?]")  # without DOTALL: in one line


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        (None, {}, "source.path of ash must name a file"),
        ("", {}, "must hold patients, found an empty file"),
        ("age,creatinine,ward,died\n", {}, "must hold patients, found a header and no row"),
        (GOOD.replace("died", "dead"), {}, "must have one column 'died' for died, found 0"),
        (GOOD.replace("ward", "unit"), {}, "must have one column 'ward' for ward, found 0"),
        (GOOD.replace("age", "died"), {}, "must have one column 'died' for died, found 2"),
        ("age,creatinine,ward,died\nold,1,a,1\nyoung,1,a,0\n", {}, "age must be a column of numbers, found 2 cells"),
        (f"age,creatinine,ward,died\n{SECRET},1,a\n", {}, "each row must have 4 cells, found 3 in row 1"),
        (f"{SECRET},1,a,1\n40,1,a,0\n", {}, "must begin with the names of its columns, found 3 that are numbers"),
        ("age,creatinine,ward,died\n40,1,a,\n", {}, "at least one patient must have a known outcome"),
        (GOOD, {"units": {"creatinine": "mg"}}, "must come in a unit the feature spec knows, found 'mg'"),
        (GOOD, {"source": {"delimiter": ";;"}}, "`delimiter` must be one character"),
        (GOOD, {"source": {"pfad": "x"}}, "`pfad` is not a key here"),
        (GOOD, {"source": {"kind": "cvs"}}, "source.kind must be a known kind, found cvs. Did you mean csv?"),
        (GOOD, {"source": {"path": "${NOT_SET_ANYWHERE}/x.csv"}}, "must be under NOT_SET_ANYWHERE"),
        ("age,creatinine,ward,died,id\n4,1,a,1,x\n5,1,a,0,x\n", {"source": {"patient": "id"}}, "found 1 rows too many"),
        ("age,creatinine,ward,died,id\n4,1,a,1,\n5,1,a,0,x\n", {"source": {"patient": "id"}}, "found 1 of 2 rows without"),
        (GOOD.replace("died", "died,part").replace(",0\n", ",0,nope\n").replace(",1\n", ",1,test\n").replace(",\n", ",,test\n"),
         {"source": {"split": "part"}}, "found 1 of 4 rows that don't"),
    ],
)  # fmt: skip
def test_bad_data_is_refused_in_one_line(tmp_path, text, more, words):
    with pytest.raises((DataError, SettingError)) as error:
        cohort(tmp_path, text, **more)
    assert words in str(error.value)
    assert RULE_FOUND_REMEDY.fullmatch(str(error.value)), str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.exit_code == 2


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "ash").mkdir()
    (tmp_path / "ash" / "patients.csv").write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(FedHealthError, match="must be CSV in UTF-8"):
        cohort(tmp_path, None)


TIMES = Task(name="death", title="Death", outcome="died", follow_up=FollowUp(time="followed", horizon=365))
SURVIVAL = "age,creatinine,ward,died,followed\n40,0.9,a,0,400\n50,,b,1,0\n60,1.4,c,1,12.5\n70,2.0,a,,\n"


def test_times_are_read_beside_the_outcome_and_kept_in_days(tmp_path):
    found, _ = cohort(tmp_path, SURVIVAL, task=TIMES)
    assert found.everyone.outcome.tolist() == [[0, 400, 0], [1, 0, 0], [1, 12.5, 0]]
    months, _ = cohort(tmp_path, SURVIVAL, task=TIMES, units={"followed": "months"})
    np.testing.assert_allclose(months.everyone.days, np.array([400, 0, 12.5]) * 365.25 / 12)


@pytest.mark.parametrize(
    ("cell", "said"),
    [("", "found 1 of 3 whose time is missing"), ("-2", "found 1 of 3 whose time is negative"), ("long", "is not a number"), ("-inf", "is not a number")],
)  # fmt: skip
def test_a_time_that_is_none_is_refused_without_its_value(tmp_path, cell, said):
    with pytest.raises(DataError, match=rf"must have a time of 0 or more, .*{said}") as fault:
        cohort(tmp_path, SURVIVAL.replace("12.5", cell), task=TIMES)
    assert "60" not in str(fault.value)
    assert "\n" not in str(fault.value)


def test_times_in_an_unknown_unit_or_under_a_misspelt_name_are_refused(tmp_path):
    with pytest.raises(SettingError, match="known unit, found 'mnths'. Did you mean months?"):
        cohort(tmp_path, SURVIVAL, task=TIMES, units={"followed": "mnths"})
    with pytest.raises(SettingError, match="found 'folowed', which this study does not have. Did you mean followed?"):
        cohort(tmp_path, SURVIVAL, task=TIMES, units={"folowed": "months"})
    with pytest.raises(DataError, match="must have one column 'followed' for followed, found 0"):
        cohort(tmp_path, GOOD, task=TIMES)


def test_an_empty_local_name_says_that_the_hospital_has_no_such_column(tmp_path):
    text = "age,died\n40,0\n50,1\n"
    found, quality = cohort(tmp_path, text, codes={"creatinine": "", "ward": ""})
    assert np.isnan(found.everyone.columns["creatinine"]).all()
    assert found.everyone.columns["ward"].tolist() == [None, None]
    assert quality.features["creatinine"].missing == 2


@pytest.mark.parametrize(("column", "what"), [("patient_name", "a direct identifier"), ("notes", "free text"), ("id", "a direct identifier")])  # fmt: skip
def test_an_identifier_or_free_text_is_refused_as_a_feature(tmp_path, column, what):
    text = GOOD.replace("ward", column)
    with pytest.raises(
        DataError, match=f"neither a direct identifier nor free text, found {what} in '{column}' for ward"
    ):
        cohort(tmp_path, text, codes={"ward": column})
    found, _ = cohort(tmp_path, text, codes={"ward": column}, sensitivity={column: "measure"})
    assert found.everyone.columns["ward"].tolist() == ["a", "b", None]


def test_a_column_that_the_hospital_calls_an_identifier_is_none_whatever_its_name(tmp_path):
    with pytest.raises(DataError, match="found a direct identifier in 'LAB1' for creatinine"):
        cohort(tmp_path, GOOD.replace("creatinine", "LAB1"), codes={"creatinine": "LAB1"}, sensitivity={"LAB1": "identifier"})  # fmt: skip


def test_ten_thousand_columns_are_no_trouble(tmp_path):
    extra = ",".join(f"c{i}" for i in range(10_000))
    cells = ",".join("1" for _ in range(10_000))
    lines = GOOD.splitlines()
    text = "\n".join([f"{extra},{lines[0]}", *(f"{cells},{line}" for line in lines[1:])])
    found, _ = cohort(tmp_path, text)
    assert found.everyone.columns["age"].tolist() == [40, 50, 60]
    with pytest.raises(DataError) as fault:
        cohort(tmp_path, text.replace(",died", ",dead", 1))
    assert len(str(fault.value)) < 400
