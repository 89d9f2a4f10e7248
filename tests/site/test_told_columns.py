"""A column is told once without noise: nothing that could be subtracted from it leaves after."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fedhealth.core.errors import IntegrityError, Refused
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.tabulation import Tabulation
from fedhealth.evaluation.tables import TableLayout
from fedhealth.simulate import checked, clients
from fedhealth.site.cohort import Cohort
from fedhealth.site.told_columns import ToldColumns, reads_of


@pytest.fixture
def hospital(smoke, tmp_path):
    """A hospital's record and cohort, and the layout of tables of the smoke study."""
    simulation = checked(smoke())
    client = clients(simulation)["galen-heart"]

    def layout(*tables: tuple[str, ...], bins=None) -> TableLayout:
        spec = simulation.study.features
        if bins:
            features = tuple(replace(f, bins=bins) if f.name == "age" else f for f in spec.features)
            spec = replace(spec, features=features)
        return TableLayout.of(replace(simulation.study, features=spec, tabulation=Tabulation(tables=tables)))

    return Told(tmp_path / "hospital" / "told.json"), client.cohort, layout


class Told(ToldColumns):
    """The record of a hospital whose columns are read from what their names say, unless a test says otherwise."""

    def admit(self, layout, cohort, *, reads=None, floor=5):
        names = {axis.column for table in layout.tables for axis in table.axes}
        super().admit(layout, cohort, reads={**{name: [name] for name in names}, **(reads or {})}, floor=floor)


def without(cohort: Cohort, patient: int) -> Cohort:
    """The cohort after one patient has left."""
    keep = np.arange(len(cohort.patients)) != patient
    everyone = cohort.everyone
    rest = replace(
        everyone,
        columns={name: column[keep] for name, column in everyone.columns.items()},
        y=everyone.y[keep],
        groups={name: codes[keep] for name, codes in everyone.groups.items()},
    )
    return Cohort(cohort.patients[keep], rest, cohort.split[keep])


def test_the_same_table_of_the_same_patients_is_told_again_in_whatever_order_they_come(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    order = np.random.default_rng(0).permutation(len(cohort.patients))
    shuffled = Cohort(
        cohort.patients[order],
        replace(
            cohort.everyone,
            columns={name: column[order] for name, column in cohort.everyone.columns.items()},
            y=cohort.everyone.y[order],
        ),
        cohort.split[order],
    )
    record = told.path.read_bytes()
    told.admit(layout(("age",)), shuffled)
    assert told.path.read_bytes() == record  # taken for the same, and not told as something new


def test_a_column_is_not_told_again_once_a_patient_has_left(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    with pytest.raises(Refused, match="other patients") as refusal:
        told.admit(layout(("age",)), without(cohort, 3))
    assert refusal.value.code == "told_before"
    told.admit(layout(("female",)), without(cohort, 3))  # a column of which nothing was told


def test_a_column_is_not_told_again_once_a_value_was_corrected(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    ages = cohort.everyone.columns["age"].copy()
    ages[0] += 30
    changed = replace(cohort.everyone, columns={**cohort.everyone.columns, "age": ages})
    with pytest.raises(Refused):
        told.admit(layout(("age",)), Cohort(cohort.patients, changed, cohort.split))


def test_a_column_is_not_told_again_cut_elsewhere_or_beside_another(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    for other in (layout(("age",), bins=(50.0, 66.0)), layout(("age", "female"))):
        with pytest.raises(Refused, match="another table"):
            told.admit(other, cohort)


def test_a_mean_in_another_range_and_words_in_another_order_are_another_table(hospital):
    told, cohort, layout = hospital
    first = layout(("age",), ("admission",))
    told.admit(first, cohort)
    ages, wards = first.tables
    backwards = replace(wards.rows, levels=wards.rows.levels[::-1])
    for table in (replace(ages, range=(0.0, 50.0)), replace(wards, rows=backwards)):
        with pytest.raises(Refused, match="another table"):
            told.admit(replace(first, tables=(table,)), cohort)


def test_a_column_beside_others_is_cut_in_one_way_and_of_one_set_of_patients(hospital):
    told, cohort, layout = hospital
    # Their totals by age or outcome would differ by the patients between the cuts, or by the one who left.
    told.admit(layout(("female", "age"), bins=(60.0,)), cohort)
    with pytest.raises(Refused, match="age told in another table"):
        told.admit(layout(("admission", "age"), bins=(61.0,)), cohort)
    told.admit(layout(("admission", "died_in_hospital")), cohort)
    with pytest.raises(Refused, match="died_in_hospital told of other patients"):
        told.admit(layout(("diabetes", "died_in_hospital")), without(cohort, 3))
    told.admit(layout(("diabetes", "died_in_hospital")), cohort)


def test_a_column_that_stood_beside_others_may_be_rows_once(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("female", "age"), ("admission", "female")), cohort)
    told.admit(layout(("age",)), cohort)
    told.admit(layout(("diabetes", "age")), cohort)  # beside again, which takes its own table from nobody
    with pytest.raises(Refused, match="age told in another table"):
        told.admit(layout(("age", "admission")), cohort)


def test_one_record_under_two_names_is_one_column(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort, reads={"age": ["age", "3022304"]})
    # Cut a little elsewhere, it would tell of those between the cuts; over a longer window, of those who came in late.
    with pytest.raises(Refused, match="sodium told"):
        told.admit(layout(("sodium",)), cohort, reads={"sodium": ["sodium", "3022304", "3000285"]})
    with pytest.raises(Refused, match="sodium told"):
        told.admit(layout(("female", "sodium")), cohort, reads={"sodium": ["3022304"]})
    told.admit(layout(("sodium",)), cohort, reads={"sodium": ["sodium", "3000285"]})


def test_a_record_is_known_by_every_code_and_by_the_hospitals_own_column(smoke):
    study = checked(smoke()).study
    spec = study.features
    again = replace(spec["lactate"], name="lactate_48h", window_h=(0.0, 48.0))
    other = replace(spec["lactate"], name="acid", loinc=(), omop=())
    study = replace(study, features=replace(spec, features=(*spec.features, again, other)))
    manifest = SiteManifest(
        name="elm",
        title="Elm",
        policy=Policy(min_patients=1, min_cell=1, min_cohort=3),
        source={"kind": "csv"},
        codes={"acid": "LAC", "lactate": "LAC | L2"},
    )
    found = reads_of(study, manifest)
    assert found["lactate"] & found["lactate_48h"] >= set(spec["lactate"].loinc)
    assert found["lactate"] & found["acid"] == {"LAC"}
    apart = [name for name in spec.names if name != "lactate"]
    assert not any(found[one] & found[two] for one, two in combinations([*apart, study.task.outcome], 2))


def test_few_without_a_value_beside_are_not_told_by_the_totals_of_another_table(hospital):
    """Of 950 patients 3 women have no lactate: nobody sees them but by how many women another table has."""
    told, cohort, layout = hospital
    n = len(cohort.patients)
    columns = {**cohort.everyone.columns, "female": np.arange(n) % 2 * 1.0, "lactate": np.full(n, 2.0)}
    columns["lactate"][[1, 3, 5]] = np.nan
    few = Cohort(cohort.patients, replace(cohort.everyone, columns=columns), cohort.split)
    rows, totals = layout(("female", "lactate")), layout(("admission", "female"))
    assert int(rows.tables[0].axes[0].codes(columns, few.everyone.y, None)[[1, 3, 5]].sum()) == 3
    for first, second in ((rows, totals), (totals, rows)):
        told.path.unlink(missing_ok=True)
        told.admit(first, few)
        with pytest.raises(Refused, match="female told beside another"):
            told.admit(second, few)
    told.path.unlink()
    with pytest.raises(Refused, match="female told beside another"):
        told.admit(layout(("female", "lactate"), ("admission", "female")), few)
    told.admit(layout(("female", "lactate"), ("admission", "female")), few, floor=3)  # three are not few there


def test_a_refusal_notes_nothing(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    with pytest.raises(Refused):
        told.admit(layout(("female",), ("age", "admission")), cohort)
    told.admit(layout(("female", "admission")), cohort)


def test_the_record_names_no_patient_and_a_spoilt_one_stops_the_hospital(hospital):
    told, cohort, layout = hospital
    told.admit(layout(("age",)), cohort)
    text = told.path.read_text()
    assert not any(patient in text for patient in cohort.patients.tolist())
    told.path.write_text("[]")
    with pytest.raises(IntegrityError):
        told.admit(layout(("age",)), cohort)
