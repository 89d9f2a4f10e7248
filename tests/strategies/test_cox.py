"""A Cox model over hospitals, held to textbook answers and to a pooled stratified fit written apart."""

from __future__ import annotations

import numpy as np
import pytest
from federation import Bench, Federation, benches, population
from scipy.optimize import root

from fedhealth.core.training import LocalTraining
from fedhealth.models.cox import Cox
from fedhealth.site.engines.plain import Plain
from fedhealth.strategies.newton import cox_sums

SIZES = (60, 200, 90)


def hospital(x, time, event) -> Bench:
    y = np.column_stack([event, time, np.zeros(len(event))]).astype(float)
    return Bench(np.array(x, dtype=float).reshape(len(event), -1), y, LocalTraining(), Cox())


def log_hazard_ratio(*hospitals: Bench, rounds: int = 8) -> float:
    return float(Federation("newton", hospitals).run(rounds)["weight"][0, 0])


def score_of(x, time, event, at) -> np.ndarray:
    """The derivative of the log partial likelihood of one stratum, event by event (Efron)."""
    weight, found = np.exp(x @ at), np.zeros(len(at))
    for t in np.unique(time[event == 1]):
        dead = [i for i in range(len(time)) if time[i] == t and event[i] == 1]
        for k in range(len(dead)):
            share = [weight[j] * (1 - k / len(dead) * (j in dead)) if time[j] >= t else 0.0 for j in range(len(time))]
            found += x[dead[k]] - np.average(x, axis=0, weights=share)
    return found


def pooled_stratified_fit(hospitals) -> np.ndarray:
    """Where the derivatives of all hospitals sum to 0."""

    def slope(at):
        return sum(score_of(h.x, h.y[:, 1], h.y[:, 0], at) for h in hospitals)

    found = root(slope, np.zeros(hospitals[0].x.shape[1]), tol=1e-13)
    assert found.success
    return found.x


def test_three_deaths_in_turn_have_the_closed_form():
    # With r = exp(b) the likelihood is r / (2 r + 1) * 1 / (1 + r), whose maximum is at r^2 = 1/2.
    found = log_hazard_ratio(hospital([1, 0, 1], [1, 2, 3], [1, 1, 1]))
    assert found == pytest.approx(-np.log(2) / 2, abs=1e-9)


def test_two_deaths_on_one_day_have_efrons_closed_form():
    # r / ((r + 2) (r + 2 - (r + 1) / 2)), whose maximum is at r^2 = 6; Breslow's would be at r = 2.
    found = log_hazard_ratio(hospital([1, 0, 0], [1, 1, 2], [1, 1, 0]))
    assert found == pytest.approx(np.log(6) / 2, abs=1e-9)


def test_therneau_and_grambschs_first_data_set_has_their_answer():
    # Modeling Survival Data (2000, doi:10.1007/978-1-4757-3294-8), appendix E: the log likelihood by Efron's way is
    # 2 b - log(3 r + 3) - log(r + 3) - log((r + 5) / 2) with r = exp(b), so at 0 it is -log 72, and b = 1.676857.
    own = hospital([0, 1, 1, 1, 0, 0], [9, 1, 1, 6, 6, 8], [1, 1, 0, 1, 1, 0])
    found = log_hazard_ratio(own)
    assert found == pytest.approx(1.676857, abs=1e-6)
    assert cox_sums(own.x, own.y, np.zeros(1))[0] == pytest.approx(np.log(72))
    r = np.exp(found)
    expected = 2 * found - np.log(3 * r + 3) - np.log(r + 3) - np.log((r + 5) / 2)
    assert -cox_sums(own.x, own.y, np.array([found]))[0] == pytest.approx(expected)


def test_two_hospitals_never_compare_a_patient_across_their_doors():
    # Each hospital alone has r / (1 + r) for a death of a patient with x = 1 beside one with x = 0, and 1 / (1 + r)
    # for the opposite. Two of the one and one of the other: r = 2, whatever the hospitals' clocks.
    one = [hospital([1, 0], [1, 5], [1, 0]), hospital([1, 0], [700, 900], [1, 0])]
    assert log_hazard_ratio(*one, hospital([0, 1], [50, 60], [1, 0])) == pytest.approx(np.log(2), abs=1e-9)


def test_newton_equals_the_pooled_stratified_fit_in_a_handful_of_rounds_where_fedavg_stays_short():
    hospitals = benches(SIZES, model=Cox(), d=5)
    expected = pooled_stratified_fit(hospitals)
    found = Federation("newton", hospitals).run(6)["weight"][0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    training = LocalTraining(batch_size=1000, epochs=3, learning_rate=0.1)
    average = Federation("fedavg", benches(SIZES, training, model=Cox(), d=5)).run(60)["weight"][0]
    assert np.abs(average - expected).max() > 1e-2


def test_patients_of_all_hospitals_in_one_table_with_strata_give_the_same_sums():
    hospitals = benches(SIZES, model=Cox())
    at = np.array([0.3, -0.2, 0.5])
    apart = [cox_sums(h.x, h.y, at) for h in hospitals]
    y = np.concatenate([np.column_stack([h.y[:, :2], np.full(len(h.y), k)]) for k, h in enumerate(hospitals)])
    together = cox_sums(np.concatenate([h.x for h in hospitals]), y, at)
    for k, part in enumerate(together):
        np.testing.assert_allclose(part, sum(found[k] for found in apart), rtol=1e-10)


def test_the_hessian_is_the_slope_of_the_gradient_and_the_gradient_that_of_the_loss():
    own, at, step = benches((80,), model=Cox())[0], np.array([0.3, -0.2, 0.5]), 1e-5
    up, down = ([cox_sums(own.x, own.y, at + sign * step * row) for row in np.eye(3)] for sign in (1, -1))
    _, gradient, hessian = cox_sums(own.x, own.y, at)
    np.testing.assert_allclose(gradient, [(a[0] - b[0]) / (2 * step) for a, b in zip(up, down, strict=True)], rtol=1e-6)
    np.testing.assert_allclose(hessian, [(a[1] - b[1]) / (2 * step) for a, b in zip(up, down, strict=True)], rtol=1e-6)


def test_the_gradient_that_training_follows_is_that_of_newtons_loss():
    own, at = benches((80,), model=Cox())[0], np.array([0.3, -0.2, 0.5])
    loss, gradient = own.gradient({"weight": at[None]})
    expected = cox_sums(own.x, own.y, at)
    assert loss == pytest.approx(expected[0] / 80, rel=1e-12)
    np.testing.assert_allclose(gradient["weight"][0], expected[1] / 80, rtol=1e-10)


def test_a_hospital_without_an_event_adds_nothing_to_the_fit():
    hospitals = benches(SIZES, model=Cox())
    quiet = Bench(hospitals[0].x, hospitals[0].y * [0, 1, 1], LocalTraining(), Cox())
    found, without = (Federation("newton", h).run(6)["weight"] for h in ([*hospitals, quiet], hospitals))
    np.testing.assert_allclose(found, without, atol=1e-9)
    assert Plain().fit(quiet.network, quiet.x, quiet.y, LocalTraining(), np.random.default_rng(1))[0] == 0
    assert not quiet.network.weight.detach().numpy().any()


def test_scores_of_any_size_give_finite_sums():
    own = hospital([900, -900, 3], [1, 2, 3], [1, 1, 0])
    assert all(np.isfinite(part).all() for part in cox_sums(own.x, own.y, np.ones(1)))
    assert np.isfinite(own.gradient({"weight": np.ones((1, 1))})[0])


def test_newton_with_a_ridge_penalises_every_hazard_ratio():
    hospitals, ridge = benches(SIZES, model=Cox()), 0.05
    n = sum(len(h.y) for h in hospitals)
    found = Federation("newton", hospitals, ridge=ridge).run(8)["weight"][0]
    slope = sum(score_of(h.x, h.y[:, 1], h.y[:, 0], found) for h in hospitals)
    np.testing.assert_allclose(slope / n, ridge * found, atol=1e-8)


def test_the_population_has_ties_and_censoring():
    for (_, y), bench in zip(population(SIZES), benches(SIZES, model=Cox()), strict=True):
        weeks = bench.y[:, 1]
        assert len(np.unique(weeks)) < len(weeks)
        assert 0 < y.sum() < len(y)
