"""What holds for every strategy, Flower's included: a new config is tested by being there."""

from __future__ import annotations

import shutil
from functools import cache

import numpy as np
import pytest
from federation import (
    STRATEGIES,
    Federation,
    Still,
    averaged,
    benches,
    failed,
    population,
    spec_of,
)

from fedhealth.core.training import LocalTraining
from fedhealth.models.cox import Cox
from fedhealth.models.mlp import Mlp
from fedhealth.server.store import Store
from fedhealth.simulate import checked, open_run, run
from fedhealth.strategies.method import Method, SumServer, strategy_of
from fedhealth.strategies.needs import needs_of

#: Methods that keep layers need more than one; fedbn needs one that normalises.
MODELS = {"fedper": Mlp(hidden=(4,)), "fedrep": Mlp(hidden=(4,)), "fedbn": Mlp(hidden=(4,), normalisation="batch")}
#: Whose update is the weighted mean when each hospital takes one full step from the same start.
MEANS = ["fedavg", "fedavgm", "fedprox", "scaffold", "fednova", "ditto", "apfl", "finetune"]


#: Every strategy with a model of events, and some that must also do with one of times.
CASES = [*STRATEGIES, *(f"{stem} of cox" for stem in ("newton", "fedavg", "scaffold", "fednova", "fedadam", "afl"))]


def model_of(case: str):
    return Cox() if case.endswith(" of cox") else MODELS.get(case)


#: Two to four steps a hospital.
TRAINING = LocalTraining(batch_size=16, learning_rate=0.1)


def federation(case: str, found=None, **settings) -> Federation:
    return Federation(case.partition(" of ")[0], found or benches(training=TRAINING, model=model_of(case)), **settings)


@cache
def models(case: str) -> list[dict[str, np.ndarray]]:
    """The models after one to three rounds, not to be written into."""
    whole = federation(case)
    found = [{name: array.copy() for name, array in whole.run().items()} for _ in range(3)]
    for array in (array for model in found for array in model.values()):
        array.setflags(write=False)
    return found


@pytest.mark.parametrize("stem", CASES)
def test_the_order_of_the_hospitals_changes_nothing(stem):
    one = models(stem)[1]
    other = federation(stem).run(2, mend=lambda replies: replies[::-1])
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stem", CASES)
def test_a_model_that_no_hospital_changes_stays_as_it_is(stem):
    still = federation(stem, [Still(model=model_of(stem)) for _ in range(7)])
    before = {name: array.copy() for name, array in still.weights.items()}
    after = still.run(3)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-12)


@pytest.mark.parametrize("stem", CASES)
def test_a_model_that_no_hospital_learned_for_stays_as_it_is(stem):
    before = models(stem)[1]
    # Methods that remember (momentum, control variates) may coast; a fresh server has nothing to coast on.
    idlers = federation(stem, weights=before)
    after = idlers.run(2, work=idlers.method.idle)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-12)


@pytest.mark.parametrize("stem", CASES)
def test_a_hospital_that_learned_nothing_replies_as_it_would_and_claims_its_patients(stem):
    found = federation(stem)
    message = found.asked()[1]
    honest, idle = (found.answered(message, work) for work in (None, found.method.idle))
    shapes = [{n: a.numpy().shape for n, a in reply.content["arrays"].items()} for reply in (honest, idle)]
    assert shapes[0] == shapes[1]
    assert set(honest.content["metrics"]) == set(idle.content["metrics"])
    if not stem.startswith("afl"):
        assert idle.content["metrics"]["num-examples"] == len(found.benches[1].y)


@pytest.mark.parametrize("stem", CASES)
def test_a_hospital_changes_neither_what_it_received_nor_what_it_remembers(stem):
    found = federation(stem)
    found.run()
    for memory in found.memories:
        for array in (memory or {}).values():
            array.setflags(write=False)
    messages = found.asked()
    sent = [{n: a.numpy().copy() for n, a in message.content["arrays"].items()} for message in messages]
    for message in messages:
        found.answered(message)
    for before, message in zip(sent, messages, strict=True):
        for name, array in before.items():
            np.testing.assert_array_equal(message.content["arrays"][name].numpy(), array)


@pytest.mark.parametrize("stem", CASES)
def test_a_strategy_leaves_the_old_model_as_it_was(stem):
    found = federation(stem)
    before = {name: array.copy() for name, array in found.weights.items()}
    held = found.weights
    found.run()
    for name, array in before.items():
        np.testing.assert_array_equal(held[name], array)


@pytest.mark.parametrize("stem", CASES)
def test_a_hospital_that_fails_is_as_if_it_had_not_been_asked(stem):
    def without_the_third(replies):
        return [failed(r) if k == 2 else r for k, r in enumerate(replies)]

    def cut(replies):
        return [r for k, r in enumerate(replies) if k != 2]

    settings = {"num_malicious_nodes": 0} if stem == "bulyan" else {}
    one, other = (federation(stem, **settings).run(mend=mend) for mend in (without_the_third, cut))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("stem", MEANS)
def test_hospitals_weigh_by_their_patients(stem):
    # One whole-batch step from a common start: the weighted mean is the step on all patients together.
    sizes, training = (10, 60, 30), LocalTraining(batch_size=1000, learning_rate=0.2)
    weights = federation(stem, benches(sizes, training)).run()
    x, y = (np.concatenate(part) for part in zip(*population(sizes), strict=True))
    slope = x.T @ (0.5 - y) / len(y)
    np.testing.assert_allclose(weights["weight"][0], -0.2 * slope, rtol=1e-9)
    np.testing.assert_allclose(weights["bias"], [-0.2 * np.mean(0.5 - y)], rtol=1e-9)


@pytest.mark.parametrize("stem", CASES)
def test_what_a_strategy_says_it_needs_is_true(stem):
    # With drift, so that a median, a selection or a fairness weight is not the mean by chance.
    if stem == "bulyan":
        with pytest.raises(TypeError):  # It gives no model for a single reply.
            federation(stem, num_malicious_nodes=0).run(mend=averaged)
        assert needs_of(federation(stem).strategy) == "each"
        return
    whole, summed = models(stem)[2], federation(stem).run(3, mend=averaged)
    same = all(np.allclose(array, summed[name], rtol=1e-6, atol=1e-9) for name, array in whole.items())
    assert needs_of(federation(stem).strategy) == ("sum" if same else "each")


@pytest.mark.parametrize("stem", CASES)
def test_what_stays_at_the_hospital_is_not_in_any_message(stem):
    found = federation(stem)
    names = found.benches[0].names
    kept = set(names.all) - found.method.shared(names)
    for _ in range(2):
        replies = []
        for message in found.asked():
            replies.append(found.answered(message))
            for side in (message, replies[-1]):
                assert not kept & {name.rpartition(":")[2] for name in side.content["arrays"]}
        found.strategy.aggregate_train(found.round, replies)


@pytest.mark.parametrize("stem", CASES)
def test_a_hospital_replies_with_what_the_strategy_says_it_asks_for(stem):
    found = federation(stem)
    for message in found.asked():
        arrays = {n: a.numpy().shape for n, a in found.answered(message).content["arrays"].items()}
        if isinstance(found.strategy, SumServer):
            assert arrays == found.strategy.replies(found.weights)
        else:
            assert arrays == {name: array.shape for name, array in found.weights.items()}


def test_flowers_median_empties_its_replies_so_the_loop_gives_it_copies(smoke):
    from fedhealth.runtime.codec import arrays_of
    from fedhealth.server.rounds import _own

    found = federation("fedmedian")
    replies = [found.answered(message) for message in found.asked()]
    before = [arrays_of(r) for r in replies]
    found.strategy.aggregate_train(1, _own(replies))
    for arrays, r in zip(before, replies, strict=True):
        for name, array in arrays.items():
            np.testing.assert_array_equal(arrays_of(r)[name], array)
    found.strategy.aggregate_train(1, replies)
    assert any(not arrays_of(r) for r in replies), "Flower has mended FedMedian: rounds._own can go"


def overrides(stem: str) -> list[str]:
    """What makes a strategy fit three hospitals."""
    model = MODELS.get(stem)
    words = [f"strategy={stem}", "rounds=4"]
    if model is not None:
        words += ["model=mlp", "model.hidden=[4]", f"model.normalisation={model.normalisation}"]
    if "num_malicious_nodes" in spec_of(stem):
        words.append("strategy.num_malicious_nodes=0")
    if "num_nodes_to_select" in spec_of(stem):
        words.append("strategy.num_nodes_to_select=2")
    if "beta" in spec_of(stem):
        words.append("strategy.beta=0.4")
    return words


def test_a_method_with_models_of_the_hospitals_own_says_so():
    personal = {stem for stem in STRATEGIES if federation(stem).method.is_personal}
    assert personal == {"apfl", "ditto", "fedbn", "fedper", "fedrep", "finetune"}


def test_memory_is_looked_for_by_every_method_that_keeps_some():
    forgetful = {stem for stem in STRATEGIES if not federation(stem).method.remembers}
    assert {"fedavg", "fedprox", "fedadam"} <= forgetful
    assert not forgetful & {"apfl", "ditto", "fedbn", "feddyn", "fedper", "fedrep", "scaffold"}


@pytest.mark.slow
@pytest.mark.parametrize("stem", STRATEGIES)
def test_a_study_resumed_after_two_rounds_ends_bit_equal(stem, smoke, tmp_path):
    own = ("fedavgm", "fedadagrad", "fedadam", "fedyogi")
    words = [*overrides(stem), "server_optimiser=" + ("plain" if stem in own else "adam")]
    simulation = checked(smoke(*words, f"run.folder={tmp_path / 'whole'}"))
    whole, cut = open_run(simulation), Store(tmp_path / "cut")
    run(simulation, whole, lambda row: None)
    shutil.copytree(whole.folder, cut.folder)
    for round_ in (3, 4):
        shutil.rmtree(cut.folder / "checkpoints" / f"{round_:05d}")
    (cut.folder / "model.safetensors").unlink()
    run(simulation, cut, lambda row: None)
    assert (whole.folder / "model.safetensors").read_bytes() == (cut.folder / "model.safetensors").read_bytes()
    sums = [store.read_json("results.json")["sums"] for store in (whole, cut)]
    assert sums[0] == sums[1], "the hospitals' own models differ after a resume"


@pytest.mark.parametrize("stem", STRATEGIES)
def test_a_config_gives_a_flower_strategy(stem):
    from flwr.serverapp.strategy import Strategy

    assert isinstance(strategy_of(spec_of(stem)), Strategy)


def test_methods_say_where_they_come_from():
    import re

    undocumented = [
        cls.__name__ for cls in _methods() if not re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.", cls.__doc__ or "")
    ]
    assert not undocumented, f"cite the paper and its equation or algorithm in the docstring of {undocumented}"


def _methods():
    import dataclasses

    todo, found = [Method], []
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        found += [cls] if dataclasses.is_dataclass(cls) and cls.__module__.startswith("fedhealth.") else []
    return found
