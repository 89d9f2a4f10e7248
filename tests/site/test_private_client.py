"""What one hospital answers in a private study, whoever asks and in whatever order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from composing import config_of

from fedhealth.core.errors import IntegrityError, Refused
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


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_features_that_are_scaled_otherwise_than_the_spec_says_are_refused_whatever_the_patients_are(hospital, purpose):
    """Read as numbers, words fail where somebody has a word: that would tell of a patient without noise."""
    client, ask, _ = hospital()
    ask("query.shape")
    own = Preprocessor.from_spec(client.study.features).to_json()
    as_number = {"mean": 0.0, "sd": 1.0, "transform": "none"}
    features = [{"name": feature["name"], **as_number} for feature in own["features"]]
    with pytest.raises(Refused) as refused:
        ask(purpose, 1, **{"part": "test", "of-round": 1, "preprocessor": packed({**own, "features": features})})
    assert refused.value.code == "another_task"


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
    part = config_of(f"strategy={strategy}")["strategy"]
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


def test_a_question_that_comes_again_gets_the_answer_it_got_and_costs_nothing(hospital):
    client, ask, _ = hospital()
    ask("query.shape")
    for purpose, round_, said in (
        ("query.shape", 0, {}), ("train", 1, {}), ("evaluate", 2, {"part": "test", "of-round": 1})
    ):  # fmt: skip
        one, other = ask(purpose, round_, **said), ask(purpose, round_, **said)
        assert one.weight == other.weight
        assert one.metrics == other.metrics
        assert all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())
    assert whats(client) == ["query.shape", "train", "evaluate"]


def test_another_question_gets_another_answer_and_is_charged(hospital):
    client, ask, _ = hospital()
    ask("query.shape")
    one, other = ask("train", 1), ask("train", 1, more=1)
    assert not np.array_equal(one.arrays["weight"], other.arrays["weight"])
    assert whats(client) == ["query.shape", "train", "train"]


@pytest.mark.parametrize(("purpose", "said"), [
    ("query.shape", {}), ("train", {}), ("evaluate", {"part": "test", "of-round": 1}), ("evaluate", {"part": "train", "of-round": 1}),
])  # fmt: skip
def test_a_study_asks_no_more_often_than_its_epsilon_was_worked_out_for(hospital, purpose, said):
    """Whatever the hospital's cap: the coordinator varies the question, and means to average the noise away."""
    client, ask, _ = hospital("rounds=2", "privacy.evaluate_every=2")
    ask("query.shape")
    planned = {"query.shape": 1, "train": 2, "evaluate": 2}[purpose]
    for again in range(planned - whats(client).count(purpose)):
        ask(purpose, 1, again=again, **said)
    with pytest.raises(Refused, match="as often as its epsilon") as refused:
        ask(purpose, 1, again=99, **said)
    assert refused.value.code == "study_spent"
    assert whats(client).count(purpose) == planned


def test_an_answer_that_was_spoilt_on_the_disk_is_not_sent(hospital):
    _, ask, memory = hospital()
    ask("query.shape")
    (path,) = (memory.folder / "answers").glob("*.safetensors")
    path.write_bytes(b"")
    with pytest.raises(IntegrityError, match="Remove it"):
        ask("query.shape")


def test_a_paused_hospital_does_not_repeat_an_answer_either(hospital):
    client, ask, _ = hospital()
    ask("query.shape")
    manifest = client.manifest
    client.__dict__["manifest"] = replace(manifest, policy=replace(manifest.policy, paused=True))
    with pytest.raises(Refused, match="paused"):
        ask("query.shape")
