"""One knob: alike at 0, as far apart as real hospitals at 1."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedhealth.core.errors import SettingError
from fedhealth.evaluation.heterogeneity import heterogeneity, sums_of
from fedhealth.synthetic import generate
from fedhealth.synthetic.between import draw_hospital, draw_units
from fedhealth.synthetic.physiology import MEASUREMENTS


def drawn(h, hospitals, size, seed=1):
    for name in (f"hospital-{k}" for k in range(hospitals)):
        yield name, generate(draw_hospital(name, h, seed, size), name=name, seed=seed, task="mortality")


@pytest.fixture(scope="module")
def real():
    return dict(drawn(1.0, 120, 1500))


@pytest.fixture(scope="module")
def apart(real):
    return heterogeneity({name: sums_of(made.table.columns, made.table.outcome) for name, made in real.items()})


def test_at_0_no_value_tells_the_hospitals_apart():
    alike = heterogeneity({n: sums_of(made.table.columns, made.table.outcome) for n, made in drawn(0.0, 20, 10_000)})
    assert max(alike.value.values()) < 0.005
    assert max(share for share in alike.missingness.values() if not math.isnan(share)) < 0.005
    assert alike.outcome < 0.005


def test_at_1_values_differ_as_in_real_hospitals(apart):
    assert 0.03 <= apart.median_value <= 0.10
    measured = np.median([apart.value[name] for name in MEASUREMENTS])
    assert 0.03 <= measured <= 0.10


def test_at_1_missingness_differs_more_than_values(apart):
    assert 0.08 <= apart.median_missingness <= 0.25
    vitals = np.median([apart.missingness[name] for name in ("heart_rate", "respiratory_rate", "temperature")])
    assert 0.15 <= vitals <= 0.30  # eICU: .23 to .25


def test_at_1_outcomes_differ_as_in_real_hospitals(apart):
    assert 0.02 <= apart.outcome <= 0.06


def test_heart_rate_and_white_cells_hardly_differ(apart):
    assert apart.value["heart_rate"] < 0.04  # eICU: .023
    assert apart.value["white_cells"] < 0.03  # eICU: .010


def test_the_oracle_of_hospitals_that_differ_stays_between_80_and_86_percent(real):
    outcome = np.concatenate([made.table.outcome for made in real.values()])
    risk = np.concatenate([made.risk for made in real.values()])
    assert 0.80 <= roc_auc_score(outcome, risk) <= 0.86
    within = [roc_auc_score(made.table.outcome, made.risk) for made in real.values()]
    assert 0.80 <= np.mean(within) <= 0.86


def test_the_knob_stretches_one_and_the_same_hospital():
    near, far = (draw_hospital("a", h, 1, 100).casemix.severity for h in (0.5, 1.0))
    assert far == pytest.approx(2 * near, abs=0.002)


def test_half_of_real_hospitals_report_in_si_units():
    share = np.mean([bool(draw_units(f"hospital-{k}", 1.0, 1)) for k in range(400)])
    assert share == pytest.approx(0.5, abs=0.08)
    assert not any(draw_units(f"hospital-{k}", 0.0, 1) for k in range(20))


@pytest.mark.parametrize("h", [0.0, 1.0, 3.0, 20.0])
def test_any_knob_draws_a_hospital_that_can_be_run(h):
    for k in range(20):
        made = generate(draw_hospital(f"hospital-{k}", h, 1, 50), name="x", seed=1, task="mortality")
        assert ((made.risk > 0) & (made.risk < 1)).all()


@pytest.mark.parametrize("h", [-0.1, math.nan, math.inf])
def test_a_negative_knob_is_refused(h):
    with pytest.raises(SettingError, match="h must be 0 or more"):
        draw_hospital("a", h, 1, 100)
