"""The cohort: who trains, who tests, and which group each patient is counted in."""

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import SettingError
from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.core.manifest import Policy, SiteManifest, load_manifest
from fedhealth.core.settings import read
from fedhealth.core.split import PARTS, Split
from fedhealth.core.table import Table
from fedhealth.core.task import Task
from fedhealth.places import builtin_sites, site_names
from fedhealth.site.cohort import NO_GROUP, Cohort, _check_spelling, group_codes

SPEC = FeatureSpec(
    name="s",
    features=(Feature(name="age"), Feature(name="ward", kind="categorical", levels=("a", "b"))),
    groups={"age_band": Group(column="age", cuts=(50, 60)), "ward": Group(column="ward", levels={"b": "B", "a": "A"})},
)


def table(n: int = 200, split=None) -> Table:
    return Table(
        patients=np.array([f"p{i}" for i in range(n)]),
        columns={"age": np.arange(n, dtype=float), "ward": np.array(["a", "b"] * (n // 2), dtype=object)},
        outcome=(np.arange(n) % 3 == 0).astype(float),
        consent=np.ones(n, dtype=bool),
        split=split,
    )


def cohort(rows: Table, *, seed: int = 1, site: str = "ash") -> Cohort:
    return Cohort.of(rows, spec=SPEC, split=Split(), seed=seed, site=site)


def test_every_patient_is_in_exactly_one_part_with_their_own_values():
    found = cohort(table())
    ages = [age for name in PARTS for age in found.part(name).columns["age"].tolist()]
    assert sorted(ages) == list(range(200))
    for name in PARTS:
        part = found.part(name)
        np.testing.assert_array_equal(part.y, part.columns["age"] % 3 == 0)
        np.testing.assert_array_equal(part.groups["ward"], 1 - part.columns["age"] % 2)


def test_the_shape_counts_the_parts():
    found = cohort(table())
    assert {name: getattr(found.shape, name) for name in PARTS} == {name: len(found.part(name)) for name in PARTS}


def test_the_parts_are_those_of_the_study_split_for_this_hospital():
    rows = table()
    names = np.array(PARTS)[cohort(rows).split]
    assert (names == Split().assign(rows.patients, seed=1, site="ash")).all()
    assert (cohort(rows).split != cohort(rows, site="elm").split).any()


def test_a_patient_keeps_the_part_when_others_leave():
    whole, keep = cohort(table()), np.arange(200) % 7 != 0
    assert (cohort(table().rows(keep)).split == whole.split[keep]).all()


def test_the_tables_own_split_wins():
    own = np.array(["test"] * 5 + ["train"] * 195)
    assert cohort(table(split=own)).part("test").columns["age"].tolist() == [0, 1, 2, 3, 4]


def test_a_cut_belongs_to_the_group_above_it_and_an_unknown_age_to_none():
    ages = np.array([49.9, 50, 59.9, 60, 99, np.nan])
    assert group_codes(SPEC.groups["age_band"], {"age": ages}).tolist() == [0, 1, 1, 2, 2, NO_GROUP]


@pytest.mark.parametrize("column", [np.array([1.0, 0.0, 2.0, np.nan]), np.array(["1", "0", "2", None], dtype=object)])
def test_levels_are_numbered_in_the_groups_order_whether_words_or_numbers(column):
    group = Group(column="sex", levels={"1": "male", "0": "female"})
    assert group_codes(group, {"sex": column}).tolist() == [0, 1, NO_GROUP, NO_GROUP]


def test_an_unknown_part_is_refused():
    with pytest.raises(SettingError, match=r"known name, found 'tset'\. Did you mean test\?"):
        cohort(table()).part("tset")


def test_a_group_of_no_feature_is_refused():
    with pytest.raises(SettingError, match=r"must be a feature, found agee\. Did you mean age\?"):
        group_codes(Group(column="agee", cuts=(50,)), {"age": np.zeros(1)})


LABS = FeatureSpec(
    name="labs", features=tuple(Feature(name=name) for name in ("creatinine", "urea_nitrogen", "systolic_bp"))
)
DEATH = Task(name="death", title="Death", outcome="died")
ASH = SiteManifest(
    name="ash", title="Ash", policy=Policy(min_patients=1, min_cell=1, min_cohort=3), source={"kind": "csv"}
)


def misspelt(site=None, spec=None, task=None, **blocks) -> str:
    """What is said of a misspelt name in a manifest; nothing where there is none."""
    try:
        _check_spelling(replace(site or ASH, **blocks), spec or LABS, task or DEATH)
    except SettingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("block", ["units", "codes"])
@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ("creatinin", "creatinine"),
        ("creatine", "creatinine"),
        ("CREATININE", "creatinine"),
        ("Urea Nitrogen", "urea_nitrogen"),
        ("ureanitrogen", "urea_nitrogen"),
        ("sistolic_bp", "systolic_bp"),
    ],
)
def test_a_misspelt_feature_is_refused_and_the_right_one_named(block, found, meant):
    wrong = rf"ash: a name under `{block}` must be a feature's, found '{found}'.* Did you mean {meant}\?"
    with pytest.raises(SettingError, match=wrong):
        _check_spelling(replace(ASH, **{block: {found: "x"}}), LABS, DEATH)


@pytest.mark.parametrize(
    "name", ["diastolic_bp", "systolic_bp_min", "max_systolic_bp", "systolic_bt", "lactate", "dead"]
)
def test_another_studys_feature_may_be_named(name):
    assert misspelt(units={name: "x"}, codes={name: "x", "died": "dead"}) == ""
    assert "Did you mean creatinine" in misspelt(units={name: "x", "creatinin": "x"})


def test_another_studys_feature_that_is_spelt_nearly_alike_may_be_named_beside_this_ones():
    assert "found 'creatine'" in misspelt(units={"creatine": "g/L"})
    assert misspelt(units={"creatine": "g/L", "creatinine": "mg/dL"}) == ""


def test_the_outcome_is_a_column_too_but_has_no_unit():
    task = replace(DEATH, outcome="diagnosis")
    with pytest.raises(SettingError, match="Did you mean diagnosis"):
        _check_spelling(replace(ASH, codes={"diagnoses": "num"}), LABS, task)
    _check_spelling(replace(ASH, units={"diagnoses": "num"}), LABS, task)


@pytest.mark.parametrize("task", ["mortality", "readmission", "heart"])
def test_a_built_in_hospital_serves_every_built_in_task(task):
    config = resolved(composed([f"task={task}", f"features={task}"]))
    spec, of = read(FeatureSpec, config["features"], where="features"), read(Task, config["task"], where="task")
    manifests = [load_manifest(builtin_sites() / name) for name in site_names(builtin_sites())]
    assert {site.name: misspelt(site, spec, of) for site in manifests} == dict.fromkeys((s.name for s in manifests), "")
