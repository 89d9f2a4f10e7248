"""What one hospital answers in a private study, whoever asks and in whatever order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import Refused
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.study import digest, packed
from fedhealth.models.logistic import Logistic
from fedhealth.models.weights import first_network, weights_of
from fedhealth.runtime.codec import Request
from fedhealth.simulate import checked, clients
from fedhealth.site.client import Client
from fedhealth.site.memory import Memory

GIVEN = ("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1.1")


@pytest.fixture
def hospital(smoke, tmp_path):
    """A hospital's client, how to ask it, and its training patients; `parts` replace the study's own, unplanned."""

    def made(*words, **parts):
        simulation = checked(smoke(*GIVEN, *words))
        found = clients(simulation)["galen-heart"]
        document = {**simulation.document, **parts}
        client = Client(found.folder, packed(document), digest(document), run_folder=str(tmp_path / "run"))
        scaling = Preprocessor.from_spec(simulation.study.features)
        weights = weights_of(first_network(Logistic(), scaling.width, seed=7))
        memory = Memory(tmp_path / "memory")

        def ask(purpose, round_=0, **config):
            said = {"preprocessor": packed(scaling.to_json()), **config}
            return client.answer(Request(purpose, round_, weights, said), memory)

        return client, ask, memory

    return made


def whats(client):
    return [row.what for row in client.ledger.rows()]


def test_every_weight_in_a_mean_is_the_noisy_number_that_the_hospital_told(hospital):
    client, ask, _ = hospital("privacy.insecure_seed=3")
    told = ask("query.shape").arrays["sum"]
    trained = ask("train", 1)
    assert trained.weight == round(told[0])
    assert trained.weight != client.cohort.shape.train
    assert trained.metrics == {}
    assert set(trained.arrays) == {"weight", "bias"}
    scored = ask("evaluate", 2, **{"part": "test", "of-round": 1})
    assert scored.weight == pytest.approx(scored.arrays["sum"].sum())
    assert set(scored.metrics) == {"shared", "min-cell"}


def test_nothing_is_trained_before_the_number_of_patients_is_told(hospital):
    client, ask, _ = hospital()
    with pytest.raises(Refused) as refused:
        ask("train", 1)
    assert refused.value.code == "no_size"
    assert whats(client) == []


@pytest.mark.parametrize("question", ["query.moments", "query.spread"])
def test_means_are_refused_whoever_asks(hospital, question):
    client, ask, _ = hospital()
    with pytest.raises(Refused) as refused:
        ask(question)
    assert refused.value.code == "not_private"
    assert whats(client) == []


@pytest.mark.parametrize(
    "strategy", ["newton", "afl", "apfl", "finetune", "qfedavg"]
)  # fmt: skip
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_method_that_is_not_private_is_refused_by_the_hospital_itself(hospital, strategy, purpose):
    part = resolved(composed([f"strategy={strategy}"]))["strategy"]
    client, ask, _ = hospital(strategy=part)
    ask("query.shape")
    with pytest.raises(Refused) as refused:
        ask(purpose, 1, **{"part": "test", "of-round": 1, "server-round": 1})
    assert refused.value.code == "not_private"
    assert whats(client) == ["query.shape"]


def test_where_adaptive_clipping_stands_is_kept_for_the_next_round(hospital):
    _, ask, memory = hospital("privacy.clipping=adaptive", "privacy.max_grad_norm=0.01", "privacy.insecure_seed=1")
    own = replace(memory, folder=memory.folder / "privacy")
    ask("query.shape")
    bounds = []
    for round_ in (1, 2):
        ask("train", round_)
        bounds.append(float(own.before(round_ + 1)["bound"][0]))
    # Every gradient is longer than 0.01, so the bound grows by a tenth in each of ten steps, but for noise.
    assert 0.015 < bounds[0] < bounds[1]
    # An earlier round goes on from where clipping stood then.
    ask("train", 1)
    assert float(own.before(2)["bound"][0]) == bounds[0]


def test_groups_are_not_told_and_a_histogram_is_of_the_asked_cells(hospital):
    _, ask, _ = hospital("privacy.score_bins=8")
    ask("query.shape")
    scored = ask("evaluate", 1, **{"part": "test", "of-round": 1, "grouped": True})
    assert scored.arrays["sum"].shape == (16,)


def test_two_answers_to_one_question_differ_and_both_are_charged(hospital):
    client, ask, _ = hospital()
    one, other = ask("query.shape"), ask("query.shape")
    assert not np.array_equal(one.arrays["sum"], other.arrays["sum"])
    assert whats(client) == ["query.shape"] * 2
