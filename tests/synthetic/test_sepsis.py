"""Simulated sepsis: a day of series whose true risk is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedhealth.synthetic import Hospital, generate
from fedhealth.synthetic.outcomes.sepsis import SERIES, STEPS


@pytest.fixture(scope="module")
def made():
    return generate(Hospital(size=8000), name="elm", seed=3, task="sepsis")


def test_the_outcome_is_drawn_from_a_risk_that_tells_much_and_not_all(made):
    assert 0.06 < made.table.outcome.mean() < 0.2
    assert 0.72 < roc_auc_score(made.table.outcome, made.risk) < 0.92
    order = np.argsort(made.risk)
    shares = [made.table.outcome[part].mean() for part in np.array_split(order, 8)]
    risks = [made.risk[part].mean() for part in np.array_split(order, 8)]
    np.testing.assert_allclose(shares, risks, atol=0.035)


def test_series_have_an_hour_a_step_and_the_infection_itself_is_in_no_record(made):
    assert all(made.table.columns[name].shape == (8000, STEPS) for name in SERIES)
    assert "infection" not in made.table.columns


def test_whoever_falls_ill_changes_over_the_day_and_is_looked_at_more(made):
    ill = made.table.outcome == 1
    pulse = made.table.columns["heart_rate_hourly"]
    well, unwell = (np.nanmean(pulse[who][:, -6:]) - np.nanmean(pulse[who][:, :6]) for who in (~ill, ill))
    assert unwell > well + 3
    seen = np.isfinite(made.table.columns["lactate_hourly"]).mean(axis=1)
    assert seen[ill].mean() > 1.2 * seen[~ill].mean()


def test_the_same_seed_gives_the_same_bytes_in_chunks_as_in_units(made):
    again = generate(Hospital(size=8000), name="elm", seed=3, task="sepsis")
    for name in SERIES:
        assert again.table.columns[name].tobytes() == made.table.columns[name].tobytes()
