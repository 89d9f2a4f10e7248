"""Hazards by interval, held to loops over intervals, to scikit-learn on the patients' intervals, and to hand sums."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedhealth.core.seeds import rng_of
from fedhealth.core.training import LocalTraining
from fedhealth.models.hazards import Hazards
from fedhealth.models.weights import first_network
from fedhealth.site.discrete_hazards import hazard_loss, risk_by
from fedhealth.site.engines.plain import Plain


def network(hidden=(), intervals=4):
    return first_network(Hazards(hidden=hidden, intervals=intervals, interval_days=10.0), 3, seed=1)


def patients(n=300, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    hazard = 1 / (1 + np.exp(-(x @ [0.8, -0.5, 0.0] - 1.5)))
    lived = rng.geometric(hazard) - 1
    days, censored = lived * 10 + rng.uniform(0, 10, n), rng.uniform(0, 60, n)
    return x, np.column_stack([days <= censored, np.minimum(days, censored), np.zeros(n)])


def by_loops(made, x, outcome):
    total = 0.0
    with torch.no_grad():
        logits = made.logits(made(torch.from_numpy(x)).squeeze(1)).numpy()
    for row, (event, days, _) in zip(logits, outcome, strict=True):
        for place, logit in enumerate(row):
            hazard = 1 / (1 + math.exp(-logit))
            if days >= (place + 1) * 10:
                total -= math.log(1 - hazard)
            elif event and days >= place * 10:
                total -= math.log(hazard)
    return total / len(x)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_the_loss_is_what_loops_over_intervals_find(hidden):
    made, (x, outcome) = network(hidden), patients()
    found = hazard_loss(made, made(torch.from_numpy(x)).squeeze(1), torch.from_numpy(outcome))
    assert float(found.detach()) == pytest.approx(by_loops(made, x, outcome), rel=1e-6)


@pytest.mark.slow
def test_a_linear_fit_is_the_logistic_regression_of_the_intervals_that_patients_went_through():
    x, outcome = patients(600)
    rows, falls = [], []
    for each, (event, days, _) in zip(x, outcome, strict=True):
        for place in range(4):
            is_last = event and place * 10 <= days < (place + 1) * 10
            if is_last or days >= (place + 1) * 10:
                rows.append([*each, *(float(place == other) for other in range(4))])
                falls.append(is_last)
    expected = LogisticRegression(C=1e8, fit_intercept=False, max_iter=5000, tol=1e-10).fit(rows, falls).coef_[0]
    made = network()
    training = LocalTraining(steps=3000, epochs=1, batch_size=600, learning_rate=0.5)
    Plain().fit(made, x, outcome, training, rng_of(1, purpose="batches"))
    weights = made.score[0].weight.detach().numpy()[0]
    np.testing.assert_allclose(weights, expected[:3], atol=5e-3)
    baseline = (made.logits(made(torch.zeros(1, 3)).squeeze(1))).detach().numpy()[0]
    np.testing.assert_allclose(baseline, expected[3:], atol=5e-3)


def test_the_risk_is_one_less_the_product_of_the_intervals_survived():
    made = network()
    with torch.no_grad():
        made.baseline.copy_(torch.tensor([0.0, -1.0, 1.0, -2.0]))
    score = np.array([float(made.baseline.detach().mean())])  # a patient whose own score is 0
    h = [1 / (1 + math.exp(-b)) for b in (0.0, -1.0, 1.0, -2.0)]
    assert risk_by(made, score, 20.0)[0] == pytest.approx(1 - (1 - h[0]) * (1 - h[1]))
    assert risk_by(made, score, 25.0)[0] == pytest.approx(1 - (1 - h[0]) * (1 - h[1]) * (1 - h[2]) ** 0.5)
    assert risk_by(made, score, 50.0)[0] == pytest.approx(1 - math.prod(1 - each for each in h[:3]) * (1 - h[3]) ** 2)


def test_a_patients_loss_depends_on_no_other():
    made, (x, outcome) = network((5,)), patients(40)
    whole = by_loops(made, x, outcome)
    each = [by_loops(made, x[i : i + 1], outcome[i : i + 1]) for i in range(40)]
    assert np.mean(each) == pytest.approx(whole)
