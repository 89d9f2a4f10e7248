"""The grid of a deployment: a question outlives the process that it was lost with, and counts once."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.core.errors import FedHealthError
from fedhealth.runtime import flower as in_any_runtime
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment import grid as module
from fedhealth.runtime.deployment.grid import AGAIN, FIRST, MOST_TIMES, DeployedGrid

NODE = 7
#: Flower's code for a node that is not there.
GONE = 5


@dataclass
class Line(Grid):
    """A grid in which the test plays the SuperLink."""

    sent: list[Message] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)
    let_in: str | None = "first"
    takes: bool = True

    def set_run(self, run) -> None: ...
    @property
    def run(self): ...
    def create_message(self, *args, **kwargs): ...
    def send_and_receive(self, messages, *, timeout=None): ...

    def get_nodes(self):
        return [SimpleNamespace(node_id=NODE, last_activated_at=self.let_in)] if self.let_in else []

    def get_node_ids(self):
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            in_any_runtime.set_message_id(message, f"m{len(self.sent)}")
            self.sent.append(message)
            ids.append(message.metadata.message_id if self.takes else "")
        return ids

    def pull_messages(self, message_ids):
        wanted = set(message_ids)
        found = [reply for reply in self.replies if reply.metadata.reply_to_message_id in wanted]
        self.replies = [reply for reply in self.replies if reply not in found]
        return found

    def says(self, to: Message, number: int) -> None:
        self.replies.append(Message(flower.pack(RecordDict({"a": ConfigRecord({"number": number})})), reply_to=to))

    def loses(self, to: Message) -> None:
        self.replies.append(Message(Error(GONE, "node_unavail"), reply_to=to))


@pytest.fixture
def line(monkeypatch):
    in_any_runtime.begin_run(1)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    return Line()


def asked(line: Line, return_s: float = 60.0) -> tuple[DeployedGrid, list[str]]:
    grid = DeployedGrid(line, return_s)
    return grid, grid.push_messages([Message(RecordDict({"q": ConfigRecord({"n": 1})}), NODE, "train")])


def numbers(replies) -> list[int]:
    return [reply.content["a"]["number"] for reply in replies]


def test_an_answer_comes_back_unpacked_to_the_message_that_asked(line):
    grid, ids = asked(line)
    assert grid.pull_messages(ids) == []
    line.says(line.sent[0], 3)
    (reply,) = grid.pull_messages(ids)
    assert (numbers([reply]), reply.metadata.reply_to_message_id) == ([3], ids[0])


def test_a_hospital_that_was_let_in_anew_is_asked_again_with_the_name_of_the_first(line):
    grid, ids = asked(line)
    line.let_in = "second"
    grid.pull_messages(ids)
    again = line.sent[1]
    assert again.content[AGAIN][FIRST] == ids[0]
    assert flower.unpack(again.content)["q"]["n"] == 1
    line.says(again, 4)
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.reply_to_message_id == ids[0]


def test_two_answers_to_two_copies_count_once(line):
    grid, ids = asked(line)
    line.let_in = "second"
    grid.pull_messages(ids)
    line.says(line.sent[0], 5)
    line.says(line.sent[1], 5)
    assert numbers(grid.pull_messages(ids)) == [5]
    assert grid.pull_messages(ids) == []


def test_a_hospital_that_is_gone_is_waited_for_and_asked_once_it_is_back(line):
    grid, ids = asked(line)
    line.let_in = None
    line.loses(line.sent[0])
    assert grid.pull_messages(ids) == []
    line.let_in = "second"
    assert grid.pull_messages(ids) == []
    line.says(line.sent[1], 6)
    assert numbers(grid.pull_messages(ids)) == [6]


def test_one_that_stays_away_past_the_deadline_is_an_error_with_a_reason(line):
    grid, ids = asked(line, return_s=0.0)
    line.let_in = None
    line.loses(line.sent[0])
    (reply,) = grid.pull_messages(ids)
    assert reply.error.reason == "went away with a question and did not come back to it within 0 s"
    assert reply.metadata.reply_to_message_id == ids[0]


def test_a_question_that_ends_its_hospital_every_time_is_given_up(line):
    grid, ids = asked(line, return_s=0.0)
    for time in range(2 * MOST_TIMES):
        line.let_in = f"time {time}"
        found = grid.pull_messages(ids)
        if found:
            break
    assert found[0].has_error()
    assert len(line.sent) == MOST_TIMES


def test_a_message_that_the_superlink_does_not_take_ends_the_run(line):
    line.takes = False
    with pytest.raises(FedHealthError, match="found 0 of 1 taken"):
        asked(line)


def test_what_was_open_before_is_not_answered_to_the_next_question(line):
    grid, first = asked(line)
    second = grid.push_messages([Message(RecordDict({"q": ConfigRecord({"n": 2})}), NODE, "train")])
    line.says(line.sent[0], 1)
    line.says(line.sent[1], 2)
    assert numbers(grid.pull_messages([*first, *second])) == [2]
