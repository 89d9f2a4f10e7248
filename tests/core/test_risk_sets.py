"""Who is at risk of each event, counted by hand."""

import numpy as np
import pytest

from fedhealth.core.risk_sets import RiskSets, strata

# Six patients; the third and fourth die in week 6 together, the second and fifth leave alive.
TIME = np.array([9.0, 1.0, 6.0, 6.0, 8.0, 1.0])
EVENT = np.array([1, 0, 1, 1, 0, 1])
WEIGHT = np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0])


def test_whoever_is_followed_that_long_is_at_risk_and_tied_events_leave_by_shares():
    found = RiskSets.of(EVENT, TIME).denominators(WEIGHT)
    # Week 9: the first alone. Week 6: 2 + 5 + 7 + 11, then less half of 5 + 7. Week 1: all.
    assert found.tolist() == [2, 25, 25 - 12 / 2, 41]


def test_the_risk_a_patient_ran_is_the_sum_over_the_events_they_could_have_had():
    sets = RiskSets.of(EVENT, TIME)
    found = sets.hazard(sets.denominators(WEIGHT))
    week1, week6 = 1 / 41, 1 / 25 + 1 / 19
    tied = week1 + week6 - 0.5 / 19
    expected = [week1 + week6 + 1 / 2, week1, tied, tied, week1 + week6, week1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_patient_who_leaves_on_the_day_of_an_event_was_at_risk_of_it():
    assert RiskSets.of(np.array([1, 0]), np.array([3.0, 3.0])).at_risk.tolist() == [2]


def test_nobody_with_an_event_gives_no_risk_set():
    sets = RiskSets.of(np.zeros(3), np.arange(3.0))
    assert sets.hazard(sets.denominators(np.ones(3))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("width", [1, 3])
def test_many_weights_at_once_are_as_one_by_one(width):
    sets, weights = RiskSets.of(EVENT, TIME), np.random.default_rng(1).random((6, width))
    each = [sets.denominators(weights[:, k]) for k in range(width)]
    np.testing.assert_allclose(sets.denominators(weights), np.stack(each, axis=1))


def test_strata_part_the_rows():
    outcome = np.array([[1, 5.0, 2], [0, 4.0, 0], [1, 3.0, 2]])
    assert [rows.tolist() for rows in strata(outcome)] == [[1], [0, 2]]
