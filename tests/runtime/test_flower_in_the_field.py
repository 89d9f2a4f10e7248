"""The contract with the private names that a deployment needs. If this fails after an upgrade, mend deployment/flower.py."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.runtime import flower as in_any_runtime
from fedhealth.runtime.codec import array_record
from fedhealth.runtime.deployment import flower


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_name_taken_from_flower_is_there_even_those_taken_late():
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(Path(flower.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("flwr")
        for alias in node.names
    ]
    assert len(taken) > 40
    assert not [name for module, name in taken if not hasattr(importlib.import_module(module), name)]


def test_a_grid_still_takes_its_client_its_retries_and_its_parts_from_where_they_are_put():
    from flwr.superlink.grid import HttpGrid, http_grid

    made = HttpGrid("127.0.0.1:1", token="t")
    assert {"_client", "_retry_invoker", "_run"} <= vars(made).keys()
    assert callable(http_grid.pull_objects)


def message(floats: int) -> Message:
    in_any_runtime.begin_run(1)
    records = RecordDict(
        {"arrays": array_record({"w": np.arange(floats, dtype=np.float32)}), "c": ConfigRecord({"n": 1})}
    )
    return Message(records, 7, "train", group_id="3")


def test_a_small_message_travels_as_one_record_and_arrives_as_it_was():
    sent = flower.outgoing(message(10), {"again": ConfigRecord({"first": "x"})})
    assert set(sent.content) == {"packed", "again"}
    assert (sent.metadata.dst_node_id, sent.metadata.message_type, sent.metadata.group_id) == (7, "train", "3")
    found = flower.unpack(sent.content)
    assert set(found) == {"arrays", "c", "again"}
    np.testing.assert_array_equal(found["arrays"]["w"].numpy(), np.arange(10))


def test_a_large_message_is_left_for_flower_to_cut():
    records = message(flower.SMALL_BYTES // 4 + 1).content
    assert flower.pack(records) is records
    assert flower.unpack(records) is records


def test_a_message_survives_the_pipe_and_can_be_answered_there():
    asked = message(3)
    in_any_runtime.set_message_id(asked, "a" * 64)
    there = flower.from_bytes(flower.to_bytes(asked))
    reply = flower.from_bytes(flower.to_bytes(Message(RecordDict(), reply_to=there)))
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == ("a" * 64, 7)


def test_a_token_shows_in_no_repr():
    assert "s3cret" not in repr(flower.Headed("s3cret")) + repr(flower.Task(1, 2, "s3cret"))


def test_a_message_whose_parts_stop_coming_is_given_up(monkeypatch):
    from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

    monkeypatch.setattr(flower, "FEW_STALL_S", 0.05)

    def never(object_id: str) -> bytes:
        raise ObjectUnavailableError(object_id)

    with pytest.raises(flower.HALF_SENT):
        flower.parts(["a" * 64], never)
