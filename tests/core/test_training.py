import math

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.training import LocalTraining, Schedule


def rates(schedule: Schedule, rounds: int) -> list[float]:
    return [
        LocalTraining(learning_rate=2.0, schedule=schedule).at(k, rounds).learning_rate for k in range(1, rounds + 1)
    ]


def test_the_learning_rate_stays_falls_by_steps_or_follows_a_cosine():
    assert rates(Schedule(), 3) == [2, 2, 2]
    assert rates(Schedule(kind="exponential", factor=0.5, every=2), 5) == [2, 2, 1, 1, 0.5]
    assert rates(Schedule(kind="cosine", factor=0.1), 3) == pytest.approx([2, 2 * (0.1 + 0.9 / 2), 0.2])


def test_a_warm_up_rises_to_the_full_rate():
    assert rates(Schedule(warmup=3), 5) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_after_a_warm_up_the_schedule_begins_at_its_full_rate():
    # Three rounds of rise, then what the schedule would give from its first round on.
    exponential = Schedule(kind="exponential", factor=0.5, every=2, warmup=3)
    assert rates(exponential, 8) == pytest.approx([0.5, 1.0, 1.5, 2, 2, 1, 1, 0.5])
    cosine = Schedule(kind="cosine", factor=0.1, warmup=3)
    assert rates(cosine, 6) == pytest.approx([0.5, 1.0, 1.5, 2, 2 * (0.1 + 0.9 / 2), 0.2])


def test_a_cosine_ends_at_its_factor_whatever_the_number_of_rounds():
    assert Schedule(kind="cosine", factor=0.25).at(1, 1) == 1
    assert Schedule(kind="cosine", factor=0.25).at(40, 40) == pytest.approx(0.25)
    assert not math.isnan(Schedule(kind="cosine", factor=0.25).at(60, 40))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimiser": "adamw", "momentum": 0.9}, "`momentum` belongs to sgd"),
        ({"clip_norm": 0.0}, "`clip_norm` must be above 0 or null"),
        ({"beta2": 1.0}, r"`beta2` must lie in \[0, 1\)"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        LocalTraining(**settings)


@pytest.mark.parametrize("settings", [{"factor": 0.0}, {"factor": 1.1}, {"every": 0}, {"warmup": -1}])
def test_a_schedule_out_of_its_range_is_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Schedule(**settings)


def test_steps_are_counted_as_they_are_taken():
    assert LocalTraining(epochs=3, batch_size=10).steps_for(21) == 9
    assert LocalTraining(steps=5).steps_for(1000) == 5
