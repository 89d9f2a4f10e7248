"""Times to an event against the law that they are drawn from."""

import numpy as np
import pytest
from scipy.stats import kstest, weibull_min

from fedhealth.core.errors import SettingError
from fedhealth.synthetic import Hospital, generate
from fedhealth.synthetic.outcomes import survival
from fedhealth.synthetic.weibull import Weibull

#: Nobody is lost, and the register stays open for ever.
OPEN = Weibull(shape=0.7, scale_days=365.25, lost_a_year=1e-12, open_days=1e9)
SCORE, YEAR = np.log(np.array([0.1, 0.5, 2.0])), 365.25


def test_the_risk_is_the_weibulls_own():
    # exp(s) (t / scale)^k is scipy's law with a scale of scale / exp(s / k).
    for days in (30, 365.25, 2000):
        expected = weibull_min(0.7, scale=365.25 * np.exp(-SCORE / 0.7)).cdf(days)
        np.testing.assert_allclose(OPEN.risk(SCORE, days), expected, rtol=1e-12)


def test_without_censoring_times_follow_the_law():
    n = 20_000
    event, days = OPEN.follow(np.full(n, np.log(0.5)), np.zeros(n), np.random.default_rng(1))
    law = weibull_min(0.7, scale=365.25 * 0.5 ** (-1 / 0.7))
    # A day stands for the one that ends with it, so a uniform part of it is taken off.
    assert event.all()
    assert kstest(days - np.random.default_rng(2).random(n), law.cdf).pvalue > 0.01


def test_a_patient_is_followed_until_the_register_is_read_or_they_are_lost():
    n, law = 100_000, Weibull(shape=1, scale_days=YEAR, lost_a_year=0.2, open_days=400)
    never = np.full(n, -50.0)
    event, days = law.follow(never, np.full(n, 0.5), np.random.default_rng(1))
    assert not event.any()
    assert days.max() == 400
    # Whole days seen: followed for at least a year's 365 days is lost after day 365.
    assert np.mean(days >= 365) == pytest.approx(0.8 ** (365 / YEAR), abs=0.004)
    _, first = law.follow(never, np.full(n, -0.5), np.random.default_rng(1))
    assert first.max() == 765


def test_an_event_is_seen_where_it_comes_before_the_end_of_follow_up():
    made = generate(Hospital(size=200_000), name="a", seed=1, task="survival", horizon_days=365)
    event, days = made.table.outcome == 1, made.table.days
    assert days.min() >= 0
    assert (days == np.rint(days)).all()
    # The product-limit estimate of the horizon's risk, where loss does not depend on risk, against the truth.
    alive = 1.0
    for day in range(1, 366):
        alive *= 1 - (event & (days == day)).sum() / (days >= day).sum()
    assert 1 - alive == pytest.approx(made.risk.mean(), abs=0.003)


def test_the_true_risk_is_that_of_the_horizon_asked_for():
    near, far = (
        generate(Hospital(size=1000), name="a", seed=1, task="survival", horizon_days=days) for days in (30, 365.25)
    )
    ratio = np.log1p(-near.risk) / np.log1p(-far.risk)
    np.testing.assert_allclose(ratio, (30 / 365.25) ** survival.TIMES.shape, rtol=1e-6)
    assert (near.table.days == far.table.days).all()


@pytest.mark.parametrize(("task", "horizon", "said"), [("survival", None, "Add"), ("mortality", 365, "Remove")])
def test_a_horizon_goes_with_times_alone(task, horizon, said):
    with pytest.raises(SettingError, match=rf"found task={task} .* {said} task.follow_up"):
        generate(Hospital(size=10), name="a", seed=1, task=task, horizon_days=horizon)
