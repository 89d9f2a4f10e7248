"""The server's steps, against their papers and Flower's own where it has them."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvgM

from fedhealth.core.errors import SettingError
from fedhealth.runtime import flower
from fedhealth.server.optimisers.adaptive import Adaptive
from fedhealth.server.optimisers.plain import Plain
from fedhealth.server.optimisers.sgd import Sgd
from fedhealth.simulate import checked, open_run, run

DIRECTIONS = [np.array([0.3, -0.2, 0.0]), np.array([-0.1, 0.4, 0.2]), np.array([0.2, 0.1, -0.3])]


def walked(optimiser) -> np.ndarray:
    """Where three rounds lead whose strategy's model lies in these directions."""
    at, memory = {"w": np.array([1.0, 2.0, 3.0])}, {}
    for direction in DIRECTIONS:
        at, memory = optimiser.step(at, {"w": at["w"] + direction}, memory)
    return at["w"]


def test_plain_takes_the_strategys_model():
    np.testing.assert_allclose(walked(Plain()), np.array([1.0, 2.0, 3.0]) + sum(DIRECTIONS))


@pytest.mark.parametrize("kind", ["adagrad", "adam", "yogi"])
def test_the_adaptive_step_is_algorithm_2(kind):
    at, m, v = np.array([1.0, 2.0, 3.0]), np.zeros(3), np.full(3, 0.01**2)
    for d in DIRECTIONS:
        m = 0.8 * m + 0.2 * d
        v = {"adagrad": v + d**2, "adam": 0.95 * v + 0.05 * d**2, "yogi": v - 0.05 * d**2 * np.sign(v - d**2)}[kind]
        at = at + 0.5 * m / (np.sqrt(v) + 0.01)
    np.testing.assert_allclose(walked(Adaptive(kind=kind, learning_rate=0.5, beta1=0.8, beta2=0.95, tau=0.01)), at)


def test_momentum_is_flowers_fedavgm():
    flower.begin_run(1)
    strategy, at = FedAvgM(server_learning_rate=0.7, server_momentum=0.6, min_train_nodes=1, min_available_nodes=1), np.array([1.0, 2.0, 3.0])  # fmt: skip

    class One:
        def get_node_ids(self):
            return [100]

    for direction in DIRECTIONS:
        arrays = ArrayRecord({"w": Array(at)})
        (asked,) = strategy.configure_train(1, arrays, ConfigRecord(), One())
        content = RecordDict(
            {"arrays": ArrayRecord({"w": Array(at + direction)}), "metrics": MetricRecord({"num-examples": 3.0})}
        )
        found, _ = strategy.aggregate_train(1, [Message(content, reply_to=asked)])
        at = found["w"].numpy()
    np.testing.assert_allclose(walked(Sgd(learning_rate=0.7, momentum=0.6)), at)


@pytest.mark.slow
def test_over_the_rounds_of_a_study_momentum_is_flowers_fedavgm(smoke, tmp_path):
    found = []
    for stem, words in (
        ("fedavgm", ["strategy.server_learning_rate=0.8"]),
        (
            "fedavg",
            ["server_optimiser=momentum", "server_optimiser.learning_rate=0.8", "server_optimiser.momentum=0.9"],
        ),
    ):
        simulation = checked(smoke(f"strategy={stem}", f"run.folder={tmp_path / stem}", "rounds=4", *words))
        store = open_run(simulation)
        run(simulation, store, lambda row: None)
        found.append(store.load().model)
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sgd(learning_rate=0), "`learning_rate` must be above 0"),
        (lambda: Sgd(momentum=1), "`momentum` must lie in"),
        (lambda: Adaptive(tau=0), "`tau` must be above 0"),
        (lambda: Adaptive(beta2=1), "`beta2` must lie in"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(make, words):
    with pytest.raises(SettingError, match=words):
        make()
