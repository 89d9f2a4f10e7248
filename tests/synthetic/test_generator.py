"""The room's promises: the same bytes, a known risk, and the wards' own distributions."""

import csv
import gzip
import time

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from fedhealth.core.errors import SettingError
from fedhealth.core.features import Conversion
from fedhealth.core.settings import read
from fedhealth.synthetic import Hospital, generate
from fedhealth.synthetic.physiology import MEASUREMENTS, filtration_rate

# Medians of the first day in PhysioNet/CinC 2012 set A. The coma scale is the day's worst.
MEDIANS = {
    "age": 67,
    "heart_rate": 86,
    "systolic_bp": 115,
    "respiratory_rate": 19,
    "temperature": 37.0,
    "coma_scale": 8,
    "urine_output": 80,
    "creatinine": 0.9,
    "urea_nitrogen": 18.5,
    "sodium": 139,
    "potassium": 4.1,
    "glucose": 130,
    "bicarbonate": 23,
    "white_cells": 11.6,
    "hematocrit": 31.3,
    "platelets": 195.5,
    "lactate": 1.91,
    "albumin": 3.0,
    "bilirubin": 0.7,
}


@pytest.fixture(scope="module")
def million():
    return generate(Hospital(size=1_000_000), name="average", seed=1, task="mortality")


def made(name="a", seed=1, task="mortality", units=None, **keys):
    hospital = read(Hospital, {"size": 20_000, **keys}, where="test")
    return generate(hospital, name=name, seed=seed, task=task, units=units)


def bytes_of(generated):
    table = generated.table
    columns = [
        column.tobytes() if column.dtype != object else "".join(column).encode() for column in table.columns.values()
    ]
    arrays = (table.patients, table.outcome, table.consent, generated.risk, generated.severity, generated.treated)
    return b"".join([*columns, *(array.tobytes() for array in arrays)])


def test_the_same_seed_gives_the_same_bytes():
    size = 70_000  # more than two chunks
    assert bytes_of(made(size=size)) == bytes_of(made(size=size))


@pytest.mark.parametrize("change", [{"seed": 2}, {"name": "b"}, {"task": "readmission"}])
def test_another_seed_name_or_task_gives_other_patients(change):
    first, second = made(), made(**change)
    assert not np.array_equal(first.severity, second.severity)
    assert set(first.table.patients).isdisjoint(second.table.patients)


def test_adding_a_hospital_changes_no_other():
    alone = bytes_of(made("b"))
    made("a")
    among_others = bytes_of(made("b"))
    made("c")
    assert among_others == alone


def test_a_hospitals_own_seed_stands_in_for_the_studys():
    own = generate(Hospital(size=500, seed=3), name="a", seed=99, task="mortality")
    assert bytes_of(own) == bytes_of(generate(Hospital(size=500), name="a", seed=3, task="mortality"))


def test_the_outcome_is_calibrated_to_the_true_risk(million):
    rate, risk = calibration_curve(million.table.outcome, million.risk, n_bins=20, strategy="quantile")
    assert np.abs(rate - risk).max() < 0.01


def test_the_true_risk_has_an_auroc_between_80_and_86_percent(million):
    assert 0.80 <= roc_auc_score(million.table.outcome, million.risk) <= 0.86


def test_one_patient_in_seven_dies(million):
    assert million.table.outcome.mean() == pytest.approx(554 / 4000, abs=0.02)  # PhysioNet 2012 set A


@pytest.mark.parametrize(("name", "median"), MEDIANS.items())
def test_medians_are_those_of_a_real_unit(million, name, median):
    assert np.nanmedian(million.table.columns[name]) == pytest.approx(median, rel=0.05)


@pytest.mark.parametrize(("name", "found"), [("creatinine", 3.9), ("bilirubin", 7.7)])
def test_the_upper_tail_is_that_of_a_real_ward(million, name, found):
    assert np.nanquantile(million.table.columns[name], 0.95) == pytest.approx(found, rel=0.1)


@pytest.mark.slow
def test_quartiles_of_blood_tests_are_near_the_real_ones(million, real_data):
    names = {"Creatinine": "creatinine", "BUN": "urea_nitrogen", "Na": "sodium", "K": "potassium", "WBC": "white_cells"}
    real = {name: {} for name in names}
    with gzip.open(real_data / "physionet2012_a" / "set_a.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["param"] in real and float(row["minute"]) <= 1440 and float(row["value"]) >= 0:
                real[row["param"]].setdefault(row["record"], []).append(float(row["value"]))
    for name, ours in names.items():
        medians = [np.median(values) for values in real[name].values()]
        spread = np.subtract(*np.quantile(medians, [0.75, 0.25]))
        for quantile in (0.25, 0.75):
            gap = np.nanquantile(million.table.columns[ours], quantile) - np.quantile(medians, quantile)
            assert abs(gap) < 0.3 * spread, (name, quantile)


@pytest.mark.slow
def test_a_million_patients_take_a_few_processor_seconds():
    start = time.process_time()
    generate(Hospital(size=1_000_000), name="average", seed=2, task="mortality")
    assert time.process_time() - start < 6  # twice the promise; experiments/generator measures it


def test_pseudonyms_are_unique(million):
    assert len(set(million.table.patients.tolist())) == 1_000_000


def test_the_record_holds_no_column_of_the_oracle(million):
    assert {"risk", "severity", "treated"}.isdisjoint(million.table.columns)


@pytest.mark.parametrize(
    "conversion", [Conversion(factor=0.011312), Conversion(factor=5 / 9, offset=-160 / 9), Conversion(factor=100)]
)
def test_local_units_come_back_to_the_usual_ones(conversion):
    usual, local = made(), made(units={"creatinine": conversion})
    back = local.table.columns["creatinine"] * conversion.factor + conversion.offset
    np.testing.assert_allclose(back, usual.table.columns["creatinine"], rtol=1e-12, atol=1e-12)
    assert np.array_equal(local.risk, usual.risk)


def test_a_biased_analyser_moves_what_is_seen_and_not_the_risk():
    fair, biased = made(), made(devices={"potassium": {"offset": 0.4}, "lactate": {"gain": 1.5}})
    assert np.array_equal(fair.risk, biased.risk)
    seen = biased.table.columns
    assert np.nanmedian(seen["potassium"] - fair.table.columns["potassium"]) == pytest.approx(0.4, abs=1e-5)
    assert np.nanmedian(seen["lactate"] / fair.table.columns["lactate"]) == pytest.approx(1.5, rel=1e-5)


def test_a_panel_that_is_always_absent_leaves_no_value():
    columns = made(missing={"panels": {"chemistry": 1.0}}).table.columns
    chemistry = [name for name, measurement in MEASUREMENTS.items() if measurement.panel == "chemistry"]
    assert all(np.isnan(columns[name]).all() for name in chemistry)
    assert np.isfinite(columns["platelets"]).any()


def test_missing_at_random_measures_lactate_in_the_sicker():
    blind = made(missing={"mar": 0.0, "mnar": 0.0})
    keen = made(missing={"mar": 1.0, "mnar": 0.0})
    gaps = []
    for generated in (blind, keen):
        measured = np.isfinite(generated.table.columns["lactate"])
        gaps.append(generated.severity[measured].mean() - generated.severity[~measured].mean())
    assert abs(gaps[0]) < 0.05
    assert gaps[1] > 0.3


def test_missing_not_at_random_keeps_the_unusual_values():
    sodium = [
        made(missing={"mar": 0.0, "mnar": mnar, "rate_logit": {"sodium": 4}}).table.columns["sodium"] for mnar in (0, 2)
    ]
    assert np.nanstd(sodium[1]) > 1.2 * np.nanstd(sodium[0])


def test_an_age_floor_admits_nobody_younger():
    assert made(casemix={"age_median": 83, "age_min": 65}).table.columns["age"].min() >= 65


def test_consent_is_given_at_the_hospitals_rate():
    assert made(consent_rate=0.75).table.consent.mean() == pytest.approx(0.75, abs=0.02)


def test_drift_makes_the_years_last_patients_sicker():
    severity = made(drift={"severity": 1.0}).severity
    assert severity[-5000:].mean() - severity[:5000].mean() == pytest.approx(0.75, abs=0.08)


def test_the_concept_changes_the_risk_and_nobodys_body():
    usual, other = made(), made(concept={"scale": 0.2, "seed": 4})
    assert np.array_equal(usual.severity, other.severity)
    assert not np.allclose(usual.risk, other.risk)


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(SettingError, match="Did you mean mortality"):
        made(task="mortalty")


def test_readmission_adds_its_history_and_a_plausible_rate():
    generated = made(task="readmission")
    assert generated.table.columns["length_of_stay"].min() >= 1
    assert generated.table.columns["admissions_prior_year"].min() == 0
    assert 0.12 <= generated.risk.mean() <= 0.20


def test_the_filtration_rate_is_that_of_ckd_epi_2021():
    # By hand from the published equation: a man of 50 with 1.0 mg/dL and a woman of 60 with 0.6 mg/dL.
    man = 142 * (1.0 / 0.9) ** -1.2 * 0.9938**50
    woman = 142 * (0.6 / 0.7) ** -0.241 * 0.9938**60 * 1.012
    found = filtration_rate(np.array([1.0, 0.6]), np.array([50.0, 60.0]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(found, [man, woman], rtol=1e-6)
