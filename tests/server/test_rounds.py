"""Which round is the best, and when waiting for a better one ends."""

import pytest

from fedhealth.server.rounds import Progress

ALL, FEWER = ["ash", "elm", "oak"], ["ash", "oak"]


def progress(*rounds) -> Progress:
    """Rounds as (watched, who scored it)."""
    history = [{"round": k, "watched": w, "scored_by": who} for k, (w, who) in enumerate(rounds, start=1)]
    return Progress(model={}, done=len(history), history=history)


def test_the_lowest_watched_value_is_the_best_round_and_the_earlier_of_equals():
    found = progress((0.5, ALL), (0.3, ALL), (0.3, ALL), (0.4, ALL))
    assert found.best_round == 2
    assert found.waited == 2


def test_a_round_that_other_hospitals_scored_is_not_compared():
    # Without elm the loss looks lower; that says nothing of the model.
    found = progress((0.5, ALL), (0.4, ALL), (0.2, FEWER), (0.45, ALL))
    assert found.best_round == 2
    assert found.waited == 1


def test_a_hospital_that_leaves_for_good_does_not_hold_the_study_at_its_last_round():
    found = progress((0.5, ALL), (0.4, ALL), (0.6, FEWER), (0.55, FEWER), (0.5, FEWER))
    assert found.best_round == 5
    assert found.waited == 0


@pytest.mark.parametrize("rounds", [[], [(None, ALL)]])
def test_where_nothing_is_scored_the_last_round_counts(rounds):
    found = progress(*rounds)
    assert found.best_round == len(rounds)
    assert found.waited == 0
