"""The contract with Flower's private names. If this fails after an upgrade, mend runtime/flower.py."""

import ast
import importlib
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedhealth.runtime import flower


def message() -> Message:
    flower.begin_run(1)
    return Message(RecordDict({"config": ConfigRecord({"a": 1})}), 100, "train")


def test_a_message_can_be_made_once_the_process_has_an_identity():
    assert message().metadata.run_id == 1


def test_a_message_takes_an_id_and_its_reply_names_it():
    asked = message()
    flower.set_message_id(asked, "7")
    assert Message(RecordDict(), reply_to=asked).metadata.reply_to_message_id == "7"


def test_a_reply_takes_a_sender_and_what_it_answers():
    reply = Message(RecordDict(), reply_to=message())
    flower.set_sender(reply, 103)
    flower.set_reply_to(reply, "9")
    assert (reply.metadata.src_node_id, reply.metadata.reply_to_message_id) == (103, "9")


def test_a_twin_changes_nothing_of_its_original():
    asked = message()
    twin = flower.twin(asked)
    twin.content["config"]["a"] = 2
    flower.set_message_id(twin, "5")
    assert (asked.content["config"]["a"], asked.metadata.message_id) == (1, "")


def configured(strategy, nodes=(100, 101, 104)):
    class Nodes:
        def get_node_ids(self):
            return list(nodes)

    flower.begin_run(1)
    return list(strategy.configure_evaluate(3, ArrayRecord(), ConfigRecord({"a": 1}), Nodes()))


def test_copied_messages_are_flowers_own_but_for_when_they_were_made():
    own, copying = (FedAvg(min_evaluate_nodes=1, min_available_nodes=1) for _ in range(2))
    flower.copy_messages(copying)

    def told(messages):
        metadata = [{k: v for k, v in vars(m.metadata).items() if k != "_created_at"} for m in messages]
        return sorted(metadata, key=lambda each: each["_dst_node_id"]), [m.content["config"]["a"] for m in messages]

    assert told(configured(copying)) == told(configured(own))
    made = configured(copying)
    assert all(vars(message).keys() == vars(configured(own)[0]).keys() for message in made)
    flower.set_message_id(made[0], "7")
    assert [message.metadata.message_id for message in made] == ["7", "", ""]
    assert made[0].content is made[1].content, "what all are asked is held once"


def test_a_strategy_that_makes_messages_its_own_way_goes_on_so():
    class Own(FedAvg):
        def _construct_messages(self, record, node_ids, message_type):
            return ["mine"]

    strategy = Own(min_evaluate_nodes=1, min_available_nodes=1)
    flower.copy_messages(strategy)
    flower.copy_messages(object())

    assert configured(strategy) == ["mine"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_name_taken_from_flower_is_there_even_those_taken_late():
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(Path(flower.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("flwr")
        for alias in node.names
    ]
    assert len(taken) > 10
    assert not [name for module, name in taken if not hasattr(importlib.import_module(module), name)]


def test_flower_is_of_the_version_these_names_were_read_in():
    from importlib.metadata import version

    assert version("flwr").startswith("1.41."), "read the new version's source, then widen the pin"
