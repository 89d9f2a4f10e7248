"""The contract with Flower's private names. If this fails after an upgrade, mend runtime/flower.py."""

import ast
import importlib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

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
