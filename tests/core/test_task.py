"""What a task asks for, and which times it takes."""

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import read
from fedhealth.core.task import FollowUp, Task
from fedhealth.simulate import checked


@pytest.mark.parametrize(
    ("horizon", "unit", "days", "title"),
    [(365, "days", 365, "365 days"), (1, "years", 365.25, "1 year"), (6, "months", 182.625, "6 months"), (2, "weeks", 14, "2 weeks")],
)  # fmt: skip
def test_a_horizon_is_told_in_its_unit_and_known_in_days(horizon, unit, days, title):
    found = FollowUp(time="t", unit=unit, horizon=horizon)
    assert (found.horizon_days, found.horizon_title) == (days, title)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"horizon": 0}, "`horizon` must be above 0 days, found 0"),
        ({"horizon": -3, "unit": "years"}, "`horizon` must be above 0 years, found -3"),
        ({"horizon": 1, "unit": "year"}, "found 'year'. Did you mean years?"),
        ({}, "`follow_up.horizon` must be set, found nothing"),
    ],
)
def test_a_follow_up_that_says_nothing_is_refused(keys, said):
    with pytest.raises(SettingError, match=said):
        read(Task, {"name": "a", "title": "A", "outcome": "b", "follow_up": {"time": "t", **keys}}, where="task")


@pytest.mark.parametrize("time", ["age", "died"])
def test_the_time_may_be_neither_a_feature_nor_the_outcome(smoke, time):
    with pytest.raises(SettingError, match=f"must be a column of its own, found {time}"):
        checked(smoke("task=survival", "model=cox", f"task.follow_up.time={time}"))
