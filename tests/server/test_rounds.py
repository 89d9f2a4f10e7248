"""Which round is the best, when waiting for a better one ends, and what a hospital is told to remember."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.core.update import ALL as ALL_OF_THEM
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.runtime import flower
from fedhealth.runtime.policy import Exchange
from fedhealth.server.rounds import COUNT, Progress, _reminded, _row

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


def test_a_rounds_interval_has_the_noise_of_all_whose_scores_are_in_the_sum(smoke_study):
    privacy = {"score_bins": 20, "evaluation_noise": 4.0, "local_noise": 0.0}
    study = replace(smoke_study, privacy=privacy, secagg={"min_cohort": 3, "colluders": 1}, roster=tuple("abcd"))
    events, others = np.linspace(10, 90, 20), np.linspace(90, 10, 20)
    row = _row(
        study, 1, {ALL_OF_THEM: np.concatenate([events, others])}, [{COUNT: 4.0}], [Exchange(("a",), (), 0, 0, 0.0)], 4
    )
    layout = SummaryLayout.of(study, grouped=False)
    sums, _ = layout.unpack(np.concatenate([events, others]))
    # Four shares, three of which make the whole.
    assert row["auroc"] == measures.auroc(sums, noise=4 * (4 / 3) ** 0.5).to_json()
    assert row["auroc"] != measures.auroc(sums, noise=4 * (1 / 3) ** 0.5).to_json()
