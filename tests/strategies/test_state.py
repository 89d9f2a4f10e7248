import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAvg

from fedhealth.runtime import flower
from fedhealth.strategies import state
from fedhealth.strategies.needs import needs_of


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


def test_a_list_of_arrays_such_as_fedavgms_momentum_survives():
    class Momentum:
        def __init__(self):
            self.momentum_vector = None

    old, new = Momentum(), Momentum()
    old.momentum_vector = [np.arange(3.0), np.ones((2, 2))]
    state.load(new, *state.dump(old))
    assert all(np.array_equal(a, b) for a, b in zip(new.momentum_vector, old.momentum_vector, strict=True))
