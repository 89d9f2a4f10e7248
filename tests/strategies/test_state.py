import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAvg, FedTrimmedAvg, MultiKrum

from fedhealth.runtime import flower
from fedhealth.strategies import state
from fedhealth.strategies.needs import least_sites, needs_of


@pytest.fixture(autouse=True)
def a_run():
    flower.begin_run(1)


def replies(shift: float) -> list[Message]:
    found = []
    for node in (100, 101):
        asked = Message(RecordDict({"config": ConfigRecord()}), node, "train")
        arrays = ArrayRecord([np.full(3, node / 100 + shift)])
        metrics = MetricRecord({"num-examples": 10.0})
        found.append(Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked))
    return found


class OneGrid:
    def get_node_ids(self):
        return [100, 101]


def two_rounds(between):
    """FedAdagrad's weights after two rounds, with its memory carried by `between`."""
    strategy, arrays = FedAdagrad(), ArrayRecord([np.zeros(3)])
    for round_ in (1, 2):
        strategy.configure_train(round_, arrays, ConfigRecord(), OneGrid())
        arrays, _ = strategy.aggregate_train(round_, replies(0.1 * round_))
        strategy = between(strategy)
    return arrays.to_numpy_ndarrays()[0]


def through_a_checkpoint(strategy):
    fresh = FedAdagrad()
    state.load(fresh, *state.dump(strategy))
    return fresh


def test_fedadagrad_goes_on_bit_equal_after_a_round_trip():
    np.testing.assert_array_equal(two_rounds(through_a_checkpoint), two_rounds(lambda strategy: strategy))


def test_without_its_memory_fedadagrad_goes_elsewhere():
    assert not np.array_equal(two_rounds(lambda _: FedAdagrad()), two_rounds(lambda strategy: strategy))


def test_fedadagrad_takes_the_step_of_its_paper():
    # Reddi 2020, arXiv 2003.00295, algorithm 2, by hand for the first round from zero weights.
    strategy = FedAdagrad(eta=0.1, tau=1e-3)
    strategy.configure_train(1, ArrayRecord([np.zeros(3)]), ConfigRecord(), OneGrid())
    arrays, _ = strategy.aggregate_train(1, replies(0.0))
    delta = (1.00 + 1.01) / 2
    np.testing.assert_allclose(arrays.to_numpy_ndarrays()[0], 0.1 * delta / (delta + 1e-3))


class Declared(FedAvg):
    needs = "sum"


class Undeclared(FedAvg):
    pass


@pytest.mark.parametrize(("strategy", "needs"), [(FedAvg(), "sum"), (Declared(), "sum"), (Undeclared(), "each")])
def test_a_strategy_that_does_not_declare_itself_needs_each_update(strategy, needs):
    assert needs_of(strategy) == needs


def aggregated(strategy, values) -> float:
    """The strategy's mean of one number a hospital, each with as many patients."""
    sent = []
    for node, value in enumerate(values, start=100):
        asked = Message(RecordDict({"config": ConfigRecord()}), node, "train")
        arrays, metrics = ArrayRecord([np.array([float(value)])]), MetricRecord({"num-examples": 10.0})
        sent.append(Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked))
    arrays, _ = strategy.aggregate_train(1, sent)
    return float(arrays.to_numpy_ndarrays()[0][0])


@pytest.mark.parametrize("beta", [0.1, 0.2, 0.3, 0.4])
def test_a_trimmed_mean_of_the_least_hospitals_cuts_a_wild_one_and_of_fewer_does_not(beta):
    least = least_sites(FedTrimmedAvg(beta=beta))
    assert aggregated(FedTrimmedAvg(beta=beta), [0] * (least - 1) + [1e6]) == 0
    assert aggregated(FedTrimmedAvg(beta=beta), [0] * (least - 2) + [1e6]) > 1


@pytest.mark.parametrize(("hostile", "select"), [(1, 4), (2, 5), (2, 9)])
def test_multikrum_of_the_least_hospitals_selects_no_hostile_one(hostile, select):
    strategy = MultiKrum(num_malicious_nodes=hostile, num_nodes_to_select=select)
    honest = np.linspace(0, 1, least_sites(strategy) - hostile)
    assert 0 <= aggregated(strategy, [*honest, *(1e6 * np.arange(1, hostile + 1))]) <= 1


def test_a_list_of_arrays_such_as_fedavgms_momentum_survives():
    class Momentum:
        def __init__(self):
            self.momentum_vector = None

    old, new = Momentum(), Momentum()
    old.momentum_vector = [np.arange(3.0), np.ones((2, 2))]
    state.load(new, *state.dump(old))
    assert all(np.array_equal(a, b) for a, b in zip(new.momentum_vector, old.momentum_vector, strict=True))
