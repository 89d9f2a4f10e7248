"""What a hospital answers when it is asked for the scores of a round's model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.study import packed
from fedhealth.models.logistic import Logistic
from fedhealth.models.weights import first_network, weights_of
from fedhealth.runtime.codec import Request
from fedhealth.simulate import checked, clients
from fedhealth.site.memory import Memory


@pytest.fixture
def asked(smoke, scaling, tmp_path):
    """The score sums of a model that is tuned before use, as asked for in some round."""
    simulation = checked(
        smoke("strategy=finetune", "training.learning_rate=0.5", "schedule=exponential", "training.schedule.factor=0.5")
    )
    client, study = clients(simulation)["galen-heart"], simulation.study
    scaled = scaling(study, client)
    config = {"preprocessor": packed(scaled.to_json()), "part": "validation"}
    weights = weights_of(first_network(Logistic(), scaled.width, seed=study.seed))
    request = Request("evaluate", 0, weights, config)

    def answer(*, in_round: int, of_round: int) -> np.ndarray:
        named = replace(request, round_=in_round, config={**config, "of-round": of_round})
        return client.answer(named, Memory(tmp_path / "memory")).arrays["sum"]

    return answer


def test_the_round_that_is_tested_at_the_end_is_tuned_as_when_it_was_chosen(asked):
    chosen = asked(in_round=2, of_round=2)
    np.testing.assert_array_equal(asked(in_round=9, of_round=2), chosen)
    # The rate falls from round to round, so another round's tuning gives other scores.
    assert not np.array_equal(asked(in_round=9, of_round=9), chosen)
