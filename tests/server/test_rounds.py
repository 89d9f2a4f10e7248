"""Which round is the best, when waiting for a better one ends, and what a hospital is told to remember."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.runtime import flower
from fedhealth.server.rounds import Progress, _reminded

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


class Names:
    """As much of a grid as a reminder asks for."""

    def name_of(self, node):
        return {1: "ash", 2: "elm", 3: "oak"}[node]


@pytest.mark.parametrize(
    ("trained_by", "remembered"),
    [
        ([ALL, ALL, FEWER], {1: None, 2: 2, 3: None}),
        ([ALL, FEWER, FEWER], {1: None, 2: 1, 3: None}),
        ([FEWER, FEWER], {1: None, 2: 0, 3: None}),
        ([], {1: None, 2: None, 3: None}),
    ],
)
def test_a_hospital_that_the_last_round_did_not_count_is_told_the_last_one_that_did(trained_by, remembered):
    flower.begin_run(1)
    past = Progress(model={}, history=[{"round": k, "trained_by": who} for k, who in enumerate(trained_by, start=1)])
    for node, expected in remembered.items():
        message = Message(RecordDict({"config": ConfigRecord({"server-round": 4})}), node, "train")
        present = set(past.history[-1]["trained_by"]) if past.history else None
        config = _reminded(message, Names(), past, present).content["config"]
        assert config.get("memory-round") == expected
        assert "memory-round" not in message.content["config"]
