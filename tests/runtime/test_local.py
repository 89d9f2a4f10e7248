import re

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedhealth.core.errors import SettingError
from fedhealth.core.update import SealedUpdate
from fedhealth.runtime.codec import arrays_of, metrics_of, read_request, reason_of, write_reply, write_request
from fedhealth.runtime.local import Local, LocalGrid


def echo_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        request = read_request(message)
        context.state["seen"] = message.content["config"]
        message.content["config"]["spoilt"] = 1
        weight = float(context.node_config["weight"])
        return write_reply(SealedUpdate(weight, request.arrays, {"loss": weight}, is_masked=False), to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        raise ValueError("the patient in bed 4 is 83")

    return app


def grid(workers=0) -> LocalGrid:
    return LocalGrid(echo_app(), [{"weight": i + 1.0} for i in range(5)], {}, workers=workers)


@pytest.mark.parametrize("workers", [0, 3])
def test_every_message_gets_the_reply_of_its_node(workers):
    local = grid(workers)
    messages = [
        write_request("train", node, {"w": np.full(3, node, dtype=np.float32)}) for node in local.get_node_ids()
    ]
    replies = sorted(local.send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
    local.close()
    assert [arrays_of(reply)["w"][0] for reply in replies] == [100, 101, 102, 103, 104]
    assert [metrics_of(reply)["num-examples"] for reply in replies] == [1, 2, 3, 4, 5]


def test_no_node_can_change_what_another_reads():
    local = grid()
    message = write_request("train", 100, {}, {"a": 1})
    local.send_and_receive([message])
    assert "spoilt" not in message.content["config"]


def test_a_failing_app_is_an_error_reply_without_its_text():
    local = grid()
    (reply,) = local.send_and_receive([write_request("evaluate", 100)])
    assert reply.has_error()
    assert reason_of(reply) == "failed with ValueError"


def test_a_nodes_state_lives_from_message_to_message():
    local = grid()
    local.send_and_receive([write_request("train", 102, {}, {"server-round": 4})])
    assert local._contexts[102].state["seen"]["server-round"] == 4


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"executor": "spark"}, "`executor` must be fork or ray, found 'spark'"),
        ({"address": "auto"}, "`address` is for executor=ray, found 'auto' with fork"),
        ({"executor": "ray", "workers": 2}, "`workers` must be 0 with executor=ray, found 2"),
        ({"executor": "ray", "address": "head"}, "`address` must be host:port or auto, found 'head'"),
    ],
    ids=["spark", "address", "workers", "no port"],
)
def test_an_executor_that_can_not_be_gets_one_helpful_line(settings, line):
    with pytest.raises(SettingError, match=re.escape(line)):
        Local(**settings)
