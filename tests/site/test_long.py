"""Long tables: real intensive care stays, and tables with what goes wrong in them."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest, load_manifest
from fedhealth.core.task import Task
from fedhealth.places import builtin_sites
from fedhealth.site.sources import open_source
from fedhealth.site.sources.long import LongSource

DEATH = Task(name="death", title="Death", outcome="died")


@pytest.mark.slow
def test_a_real_units_stays_are_what_a_plain_reading_finds(real_data):
    folder = builtin_sites() / "coronary-care"
    path = real_data / "physionet2012_a" / "set_a.csv.gz"
    pulse = {"unit": "1/min", "range": (20.0, 250.0), "record": "heart_rate"}
    kinds = ("first", "last", "min", "max", "mean", "count")
    spec = FeatureSpec(
        name="icu",
        features=(
            *(Feature(name=f"hr_{how}", aggregate=how, window_h=(0, 48), **pulse) for how in kinds),
            Feature(name="heart_rate", kind="series", window_h=(0, 48), unit="1/min", range=(20.0, 250.0)),
        ),
    )
    task = Task(name="icu", title="ICU", outcome="died_in_hospital")
    manifest = load_manifest(folder)
    found = open_source(manifest, folder).rows(spec=spec, task=task, manifest=manifest, folder=folder, seed=1)

    values, unit = defaultdict(list), {}
    with gzip.open(path, "rt") as file:
        for record, minute, what, value in csv.reader(file):
            if what == "ICUType":
                unit[record] = value
            elif what == "HR" and float(value) != -1 and int(minute) < 48 * 60:
                values[record].append((int(minute), float(value)))
    mine = [record for record in unit if float(unit[record]) == 1]
    assert sorted(found.patients.tolist()) == sorted(mine)
    assert len(mine) == 577
    assert found.outcome.sum() == 81
    for at, record in enumerate(found.patients.tolist()):
        assert found.columns["hr_count"][at] == len(values[record])  # of which some are out of range
        own = [(when, value) for when, value in values[record] if 20 <= value <= 250]
        if not own:
            assert np.isnan(found.columns["hr_max"][at])
            continue
        rates = [value for _, value in own]
        assert (found.columns["hr_min"][at], found.columns["hr_max"][at]) == (min(rates), max(rates))
        assert found.columns["hr_mean"][at] == pytest.approx(sum(rates) / len(rates), rel=1e-12)
        for how, minute in (("first", min(own)[0]), ("last", max(own)[0])):
            assert found.columns[f"hr_{how}"][at] == max(value for when, value in own if when == minute)
        hours = {when // 60: value for when, value in sorted(own)}
        series = found.columns["heart_rate"][at]
        assert {hour: series[hour] for hour in np.flatnonzero(np.isfinite(series)).tolist()} == hours


SPEC = FeatureSpec(
    name="small",
    features=(
        Feature(name="glucose", unit="mg/dL", units={"mmol/L": Conversion(factor=18.0156)}, range=(10, 1500)),
        Feature(name="glucose_count", record="glucose", aggregate="count"),
    ),
)


def rows(tmp_path, lines, outcomes=("a,1", "b,0"), source=None, header="record,minute,parameter,value,unit", **more):
    (tmp_path / "long.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "outcomes.csv").write_text("\n".join(["record,died", *outcomes]))
    chosen = LongSource(**({"path": "long.csv", "outcomes": "outcomes.csv", "unit": "unit"} | (source or {})))
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source={"kind": "long"}, **more)
    return chosen.rows(spec=SPEC, task=DEATH, manifest=manifest, folder=tmp_path, seed=1)


def test_units_times_and_what_can_not_be_used(tmp_path):
    found = rows(
        tmp_path,
        [
            "a,30,glucose,90,mg/dL",
            "a,60,glucose,10,mmol/L",
            "a,90,glucose,5,furlong",
            "a,95,glucose,9999,mg/dL",
            "a,99,glucose,high,mg/dL",
            "a,1500,glucose,200,mg/dL",
            "a,soon,glucose,200,mg/dL",
            "z,30,glucose,90,mg/dL",
        ],
    )
    assert found.columns["glucose"].tolist() == pytest.approx([180.156, np.nan], nan_ok=True)
    assert found.columns["glucose_count"].tolist() == [
        4,
        0,
    ]  # a count has no unit and no range; what is no number is none
    assert found.records["glucose"] == {"unknown_unit": 1, "not_a_number": 1, "out_of_range": 1}
    assert [(each.place, each.code) for each in found.quarantine] == [("long.csv: 1 rows", "record_without_outcome")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"header": "record,minute,what,value,unit"}, "must have one column 'parameter' for source.parameter, found 0"),
        ({"source": {"outcomes": "none.csv"}}, "must name a file, found none"),
        (
            {"source": {"only": {"unit_type": 4.0}}},
            "must hold records of this hospital, found none. Correct source.only",
        ),
        ({"outcomes": ("a,1", ",0")}, "each patient must have a pseudonym, found 1 of 2 rows without"),
        ({"outcomes": ()}, "must hold records of this hospital, found none"),
    ],
)
def test_tables_that_are_none_are_refused_in_one_line(tmp_path, change, words):
    with pytest.raises(DataError) as fault:
        rows(tmp_path, ["a,30,glucose,90,mg/dL"], **change)
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_word_is_no_feature_of_a_long_table(tmp_path):
    spec = FeatureSpec(name="s", features=(Feature(name="ward", kind="categorical", levels=("a",)),))
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    manifest = SiteManifest(name="ash", title="Ash", policy=policy, source={"kind": "long"})
    with pytest.raises(SettingError, match="a feature of a long table must be a number, found ward categorical"):
        LongSource(path="x", outcomes="y").rows(spec=spec, task=DEATH, manifest=manifest, folder=tmp_path, seed=1)


def test_a_feature_the_hospital_has_not_is_missing_and_its_count_too(tmp_path):
    found = rows(tmp_path, ["a,30,glucose,90,mg/dL"], codes={"glucose": "", "glucose_count": ""})
    assert np.isnan(found.columns["glucose"]).all()
    assert np.isnan(found.columns["glucose_count"]).all()
