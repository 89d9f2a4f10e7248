"""Quality: what becomes of a value that is missing, in another unit, no number, or beyond belief."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.errors import REFUSALS, DataError, Refused, SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.table import Table
from fedhealth.site.quality import FeatureQuality, check_fit, check_schema, harmonise


def manifest(**units: str) -> SiteManifest:
    policy = Policy(min_patients=1, min_cell=1, min_cohort=3)
    return SiteManifest(name="ash", title="Ash", policy=policy, source={"kind": "csv"}, units=units)


def table(outcome=None, **columns) -> Table:
    n = len(next(iter(columns.values())))
    return Table(
        patients=np.array([f"p{i}" for i in range(n)]),
        columns={name: np.array(c, dtype=object if isinstance(c[0], str) else float) for name, c in columns.items()},
        outcome=np.zeros(n) if outcome is None else np.array(outcome, dtype=float),
        consent=np.ones(n, dtype=bool),
    )


def harmonised(rows: Table, *features: Feature, **units: str):
    return harmonise(rows, FeatureSpec(name="s", features=features), manifest(**units))


AGE = Feature(name="age", range=(0.0, 120.0))
TEMPERATURE = Feature(
    name="temperature", unit="Cel", units={"[degF]": Conversion(factor=5 / 9, offset=-160 / 9)}, range=(30.0, 44.0)
)


def test_a_value_is_brought_to_the_specs_unit_before_its_range_is_asked():
    found, report = harmonised(table(temperature=[98.6, 212.0]), TEMPERATURE, temperature="[degF]")
    np.testing.assert_allclose(found.columns["temperature"], [37.0, np.nan])
    assert report.features["temperature"].implausible == 1


def test_missing_unreadable_and_implausible_are_told_apart():
    age = Feature(name="age", range=(0.0, 120.0), missing=("-9",))
    found, report = harmonised(table(age=[np.nan, -9, np.inf, -np.inf, 121, 0, 120]), age)
    np.testing.assert_equal(found.columns["age"], [*[np.nan] * 5, 0, 120])
    assert report.features["age"] == FeatureQuality(missing=2, unreadable=2, implausible=1, rejected=0)


def test_a_missing_code_is_the_sources_word_and_so_in_the_sources_unit():
    feature = Feature(name="temperature", unit="Cel", units=TEMPERATURE.units, missing=("0",))
    found, _ = harmonised(table(temperature=[0.0, 32.0]), feature, temperature="[degF]")
    np.testing.assert_allclose(found.columns["temperature"], [np.nan, 0.0], atol=1e-12)


def test_clipping_moves_to_the_nearer_end_and_mends_nothing_that_is_no_number():
    age = Feature(name="age", range=(0.0, 120.0), on_bad="clip")
    found, report = harmonised(table(age=[-1, 200, np.inf, 50]), age)
    np.testing.assert_equal(found.columns["age"], [0, 120, np.nan, 50])
    assert report.features["age"] == FeatureQuality(missing=0, unreadable=1, implausible=2, rejected=0)


def test_rejecting_leaves_out_the_bad_and_keeps_the_missing():
    age = Feature(name="age", range=(0.0, 120.0), on_bad="reject")
    found, report = harmonised(table(age=[200, np.inf, np.nan, 50], height=[1, 2, 3, 4]), age, Feature(name="height"))
    assert found.patients.tolist() == ["p2", "p3"]
    assert found.columns["height"].tolist() == [3, 4]
    assert (report.rejected, report.kept, report.features["age"].rejected) == (2, 2, 2)


def test_a_patient_who_is_bad_twice_is_rejected_once():
    features = [Feature(name=name, range=(0.0, 1.0), on_bad="reject") for name in ("a", "b")]
    _, report = harmonised(table(a=[5, 1], b=[5, 1]), *features)
    assert report.rejected == 1
    assert [quality.rejected for quality in report.features.values()] == [1, 1]


def test_a_yes_or_no_is_0_or_1_and_nothing_between():
    found, report = harmonised(table(sex=[0, 1, 0.5, 2, -1]), Feature(name="sex", kind="binary"))
    np.testing.assert_equal(found.columns["sex"], [0, 1, np.nan, np.nan, np.nan])
    assert report.features["sex"].implausible == 3


def test_a_word_that_is_no_level_becomes_no_word():
    ward = Feature(name="ward", kind="categorical", levels=("a", "b"), missing=("?",))
    found, report = harmonised(table(ward=["a", "?", "c", "b"]), ward)
    assert found.columns["ward"].tolist() == ["a", None, None, "b"]
    assert (report.features["ward"].missing, report.features["ward"].implausible) == (1, 1)


def test_faults_are_counted_among_patients_whose_outcome_is_known():
    found, report = harmonised(table(outcome=[0, np.nan, 1], age=[50, 999, np.nan]), AGE)
    assert found.patients.tolist() == ["p0", "p2"]
    assert (report.rows, report.unknown_outcome, report.kept) == (3, 1, 2)
    assert report.features["age"] == FeatureQuality(missing=1, unreadable=0, implausible=0, rejected=0)


def test_the_sources_own_table_stays_as_it_was():
    rows = table(ward=["a", "c"])
    harmonised(rows, Feature(name="ward", kind="categorical", levels=("a",)))
    assert rows.columns["ward"].tolist() == ["a", "c"]


cells = st.lists(st.floats(-300, 300) | st.sampled_from([np.nan, np.inf, -np.inf]), min_size=1, max_size=30)


@given(values=cells, on_bad=st.sampled_from(["null", "clip", "reject"]))
def test_whatever_comes_in_is_in_range_or_missing_and_every_row_is_counted(values, on_bad):
    age = Feature(name="age", range=(0.0, 120.0), on_bad=on_bad)
    found, report = harmonised(table(age=[*values, 50.0]), age)
    held = found.columns["age"]
    assert ((held >= 0) & (held <= 120) | np.isnan(held)).all()
    assert report.rows == report.kept + report.rejected + report.unknown_outcome == len(values) + 1
    assert len(found) == report.kept


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (table(age=[np.inf, np.inf, np.nan]), DataError, ["column of numbers", "found 2 cells", "`codes`"]),
        (table(age=[200.0, np.inf, 500.0]), DataError, ["at least one patient", "3 rejected", "Check the outcome"]),
        (table(outcome=[np.nan, np.nan], age=[50, 60]), DataError, ["known outcome", "2 without an outcome", "Check"]),
        (table(age=[50.0]).rows(np.array([False])), DataError, ["at least one patient", "found none of 0", "Check"]),
    ],
    ids=["text", "all rejected", "no outcome known", "nobody"],
)
def test_rows_that_can_be_no_cohort_are_refused_with_rule_found_and_remedy(rows, error, words):
    with pytest.raises(error) as caught:
        harmonised(rows, Feature(name="age", range=(0.0, 120.0), on_bad="reject"))
    assert all(word in str(caught.value) for word in ["ash: ", *words])
    assert "\n" not in str(caught.value)


def test_an_unknown_unit_is_refused_with_the_hospital_and_the_nearest_unit():
    with pytest.raises(SettingError, match=r"^ash: temperature must come in a unit .* found 'degF'.*Did you mean") as e:
        harmonised(table(temperature=[98.6]), TEMPERATURE, temperature="degF")
    assert "[degF]" in str(e.value)


def test_a_patient_with_two_rows_is_refused_without_being_named():
    rows = table(age=[50, 60, 70])
    rows = Table(np.array(["ann", "ann", "ann"]), rows.columns, rows.outcome, rows.consent)
    with pytest.raises(DataError, match="each patient must have one row, found 2 rows too many") as caught:
        harmonised(rows, AGE)
    assert "ann" not in str(caught.value)


def refused(spec, **columns):
    rows = table(**columns)
    _, report = harmonise(rows, spec, manifest())
    check_fit(report, spec, manifest())


def test_a_required_feature_is_good_for_four_fifths_of_the_patients_or_the_round_is_refused():
    spec = FeatureSpec(name="s", features=(Feature(name="age", range=(0.0, 120.0), required=True),))
    refused(spec, age=[50.0] * 8 + [999.0, np.nan])
    with pytest.raises(
        Refused, match="age must have a good value for 80% of the patients, found none for 3 of 10"
    ) as no:
        refused(spec, age=[50.0] * 7 + [999.0, np.nan, np.inf])
    assert no.value.code in REFUSALS


def test_a_feature_that_is_not_required_may_be_missing():
    missing = {"age": [50.0] + [np.nan] * 9}
    with pytest.raises(Refused, match="none for 9 of 10"):
        refused(FeatureSpec(name="s", features=(replace(AGE, required=True),)), **missing)
    rows, report = harmonise(table(**missing), FeatureSpec(name="s", features=(AGE,)), manifest())
    assert check_fit(report, FeatureSpec(name="s", features=(AGE,)), manifest()) is None
    assert np.isnan(rows.columns["age"]).sum() == 9


def test_another_version_of_the_schema_is_refused():
    with pytest.raises(Refused, match="schema_version must be the feature spec's 2, found 1") as no:
        check_schema(FeatureSpec(name="s", features=(AGE,), schema_version=2), manifest())
    assert no.value.code in REFUSALS


def test_values_that_the_source_converted_are_not_converted_again():
    rows = replace(table(temperature=[37.0]), in_spec_units=True)
    found, _ = harmonised(rows, TEMPERATURE, temperature="[degF]")
    assert found.columns["temperature"].tolist() == [37.0]


def test_rejected_patients_are_quarantined_with_the_reason():
    age = Feature(name="age", range=(0.0, 120.0), on_bad="reject")
    _, report = harmonised(table(age=[200, np.inf, 50]), age)
    assert [(each.place, each.code) for each in report.quarantine] == [
        ("patient p0", "age_out_of_range"),
        ("patient p1", "age_not_a_number"),
    ]


def test_a_series_is_missing_as_a_whole_and_bad_by_one_number():
    pulse = Feature(name="pulse", kind="series", range=(20.0, 250.0), window_h=(0, 3))
    rows = table(pulse=[[80.0, np.nan, 90.0], [np.nan] * 3, [999.0, 70.0, np.nan]])
    found, report = harmonised(rows, pulse)
    np.testing.assert_equal(found.columns["pulse"][2], [np.nan, 70.0, np.nan])
    assert report.features["pulse"] == FeatureQuality(missing=1, unreadable=0, implausible=1, rejected=0)
