import time

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedhealth.core.errors import QuorumError
from fedhealth.core.update import SealedUpdate
from fedhealth.runtime.codec import read_request, write_reply, write_request
from fedhealth.runtime.local import LocalGrid
from fedhealth.runtime.policy import Patience, PolicyGrid

# Named so that the order of the nodes is not the order of the names.
NAMES = {100: "cedar", 101: "alder", 102: "birch"}
MODEL = {"w": np.zeros(2, dtype=np.float32)}


def app(behaviour) -> ClientApp:
    client = ClientApp()

    @client.train()
    def train(message: Message, context) -> Message:
        request = read_request(message)
        arrays, weight, metrics = behaviour(context.node_id, dict(request.arrays))
        return write_reply(SealedUpdate(weight, arrays, metrics, is_masked=False), to=message)

    return client


def policy(behaviour, workers=0, **patience) -> PolicyGrid:
    inner = LocalGrid(app(behaviour), [{}, {}, {}], {}, workers=workers)
    return PolicyGrid(inner, NAMES, Patience(poll_s=0.01, **patience))


def ask(grid: PolicyGrid) -> list[Message]:
    return grid.send_and_receive([write_request("train", node, MODEL) for node in grid.get_node_ids()])


def good(node, arrays):
    return arrays, 10.0, {"loss": 0.5}


def test_replies_come_sorted_by_hospital_whatever_the_order_of_nodes():
    grid = policy(good)
    assert [grid.site_of(reply) for reply in ask(grid)] == ["alder", "birch", "cedar"]


def spoil(arrays=None, weight=10.0, metrics=None):
    def behaviour(node, found):
        if node != 101:
            return good(node, found)
        return arrays or found, weight, metrics or {"loss": 0.5}

    return behaviour


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        (spoil(arrays={"w": np.array([np.nan, 0], dtype=np.float32)}), "an array that is not finite"),
        (spoil(arrays={"w": np.array([np.inf, 0], dtype=np.float32)}), "an array that is not finite"),
        (spoil(arrays={"w": np.zeros(3, dtype=np.float32)}), "other names or shapes"),
        (spoil(arrays={"v": np.zeros(2, dtype=np.float32)}), "other names or shapes"),
        (spoil(weight=-1.0), "num-examples outside 0"),
        (spoil(weight=1e12), "num-examples outside 0"),
        (spoil(weight=float("nan")), "num-examples that is not finite"),
        (spoil(weight=0.0), "trained on nobody"),
        (spoil(metrics={"loss": float("inf")}), "loss that is not finite"),
    ],
)
def test_a_reply_that_would_spoil_the_model_is_refused_by_name(behaviour, fault):
    grid = policy(behaviour, quorum=2)
    ask(grid)
    (exchange,) = grid.exchanges()
    assert exchange.answered == ("birch", "cedar")
    assert exchange.failed[0].site == "alder"
    assert fault in exchange.failed[0].reason


def fails(node, arrays):
    if node == 102:
        raise OSError("disk of bed 7")
    return good(node, arrays)


def test_a_failing_hospital_is_named_and_the_round_goes_on_above_the_quorum():
    grid = policy(fails, quorum=2)
    ask(grid)
    (exchange,) = grid.exchanges()
    assert [str(failure) for failure in exchange.failed] == ["birch failed with OSError"]


def test_below_the_quorum_the_round_stops_and_says_who_failed():
    with pytest.raises(
        QuorumError, match=r"at least 3 of 3 hospitals must answer, found 2\. birch failed with OSError"
    ):
        ask(policy(fails, quorum=3))


def test_what_a_strategy_needs_is_the_least_quorum():
    grid = policy(fails, quorum=2)
    grid.need(1)
    ask(grid)
    grid.need(3)
    with pytest.raises(QuorumError, match="at least 3 of 3"):
        ask(grid)


def test_no_quorum_named_asks_for_every_hospital():
    with pytest.raises(QuorumError, match="at least 3 of 3"):
        ask(policy(fails, quorum=None))


def straggles(node, arrays):
    time.sleep(3.0 if node == 100 else 0)
    return good(node, arrays)


def test_a_straggler_gets_its_grace_and_no_more():
    grid = policy(straggles, workers=3, quorum=2, grace_s=0.1)
    started = time.monotonic()
    ask(grid)
    (exchange,) = grid.exchanges()
    assert exchange.answered == ("alder", "birch")
    assert "gave no answer within" in str(exchange.failed[0])
    assert time.monotonic() - started < 2.5


def test_a_round_ends_at_its_timeout():
    with pytest.raises(QuorumError, match="cedar gave no answer"):
        ask(policy(straggles, workers=3, quorum=3, timeout_s=0.2))


def test_absent_hospitals_are_waited_for_and_then_named():
    inner = LocalGrid(app(good), [{}, {}], {})
    grid = PolicyGrid(inner, NAMES, Patience(quorum=3, node_timeout_s=0.05, poll_s=0.01))
    with pytest.raises(QuorumError, match=r"found 2\. Absent: birch"):
        grid.get_node_ids()


def test_only_the_asked_hospitals_are_shown():
    grid = policy(good)
    grid.ask(["cedar", "birch"])
    assert grid.get_node_ids() == [102, 100]


def test_bytes_are_counted_both_ways():
    grid = policy(good)
    ask(grid)
    (exchange,) = grid.exchanges()
    assert exchange.bytes_down == exchange.bytes_up > 3 * MODEL["w"].nbytes


def test_a_reply_that_does_not_fit_the_question_counts_as_none():
    grid = policy(lambda node, arrays: ({"w": arrays["w"] + node}, 10.0, {}), quorum=2)
    messages = [write_request("train", node, MODEL) for node in grid.get_node_ids()]
    grid.send_and_receive(messages, fault_of=lambda arrays: "too much" if arrays["w"][0] > 101 else None)
    (exchange,) = grid.exchanges()
    assert [str(failure) for failure in exchange.failed] == ["birch sent too much"]


class _Slow(LocalGrid):
    """Has nothing ready for its first `waits` looks, and does not wait by itself."""

    waits = looks = 0

    def pull_messages(self, message_ids):
        self.looks += 1
        return super().pull_messages(message_ids) if self.looks > self.waits else []


def test_a_grid_with_nothing_ready_is_looked_at_now_and_then_and_not_without_a_pause():
    inner = _Slow(app(good), [{}, {}, {}], {})
    inner.waits = 5
    started = time.monotonic()
    ask(PolicyGrid(inner, NAMES, Patience(poll_s=0.02)))
    assert time.monotonic() - started >= 5 * 0.02
    assert inner.looks == 5 + len(NAMES)


def test_a_hospital_waited_for_in_vain_is_not_waited_for_again_and_counts_once_it_is_back():
    inner = LocalGrid(app(good), [{}, {}, {}], {})
    here = [100, 101]
    inner.get_node_ids = lambda: list(here)
    grid = PolicyGrid(inner, NAMES, Patience(quorum=2, node_timeout_s=0.3, poll_s=0.01))

    def took(expected) -> float:
        started = time.monotonic()
        assert set(grid.get_node_ids()) == expected
        return time.monotonic() - started

    assert took({100, 101}) >= 0.3
    assert took({100, 101}) < 0.2
    here.append(102)
    assert took({100, 101, 102}) < 0.2
    here.remove(102)
    # It was back in between, so it is waited for anew.
    assert took({100, 101}) >= 0.3
