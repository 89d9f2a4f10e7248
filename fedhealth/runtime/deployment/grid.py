"""The grid of a deployment: it asks a hospital again that went away with a question and came back.

Flower gives a message out once. A process that ends with it, or a line that breaks over it,
takes it along, and nobody says so. But the SuperLink knows when it last let a hospital in:
where that changes while a question is open, the question is asked again, and the first
answer to any of its copies counts, once. A copy names the first, so that a hospital which
has answered gives the same answer again, and its patients pay once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.core.errors import FedHealthError
from fedhealth.runtime import flower as in_any_runtime
from fedhealth.runtime.deployment import flower

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedhealth.runtime.flower import Run

#: The record in which a copy names the first message, and its one key.
AGAIN, FIRST = "again", "first"
#: Seconds between looks at who is there, while answers are waited for.
LOOK_S = 1.0
#: How often one question is put to one hospital at most: it may be what ends the hospital's process.
MOST_TIMES = 4


@dataclass(slots=True)
class _Question:
    """One message that is open, with its copies.

    Attributes:
        message: as it was first sent.
        copies: the ids under which it is at the SuperLink, the first among them.
        let_in: when the hospital had last been let in as the last copy was sent.
        lost_at: since when it is known that no copy will be answered; None while one may.
    """

    message: Message
    copies: set[str]
    let_in: str
    lost_at: float | None = None


@dataclass(slots=True)
class _Open:
    """The open questions by their first id, and the first id of each copy."""

    questions: dict[str, _Question] = field(default_factory=dict)
    first_of: dict[str, str] = field(default_factory=dict)


class DeployedGrid(Grid):
    """A grid over the network whose questions outlive the hospitals' processes.

    Args:
        inner: Flower's grid of the run.
        return_s: how long a hospital that is gone may take to come back to a question.
    """

    def __init__(self, inner: Grid, return_s: float) -> None:
        self._inner = inner
        self._return_s = return_s
        self._open = _Open()
        self._looked_at = 0.0

    def set_run(self, run: Run) -> None:
        """Pass the run on."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The inner grid's run."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message for the inner grid."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """The hospitals that are there."""
        return list(self._inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send the messages; the ids returned name their replies, whichever copy is answered."""
        pending, there = list(messages), self._there()
        ids = self._sent([flower.outgoing(message) for message in pending])
        # One exchange at a time: what is open from the one before is given up.
        self._open = _Open()
        for message_id, message in zip(ids, pending, strict=True):
            let_in = there.get(message.metadata.dst_node_id, "")
            self._open.questions[message_id] = _Question(message, {message_id}, let_in)
            self._open.first_of[message_id] = message_id
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there, each to the first of its copies."""
        asked = [message_id for message_id in message_ids if message_id in self._open.questions]
        there = self._there() if time.monotonic() - self._looked_at >= LOOK_S else None
        copies = [copy for first in asked for copy in self._open.questions[first].copies]
        replies = [self._taken(reply) for reply in self._inner.pull_messages(copies)] if copies else []
        if there is not None:
            for first in asked:
                if first in self._open.questions:
                    self._look_after(first, there)
        given_up = [self._given_up(first) for first in asked]
        return [reply for reply in (*replies, *given_up) if reply is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies, within `timeout` seconds; a `PolicyGrid` around this one does it with more care."""
        deadline = None if timeout is None else time.monotonic() + timeout
        open_ids, replies = set(self.push_messages(messages)), []
        while open_ids and (deadline is None or time.monotonic() < deadline):
            found = self.pull_messages(open_ids)
            open_ids -= {reply.metadata.reply_to_message_id for reply in found}
            replies += found
            time.sleep(0 if found else 0.1)
        return replies

    def _there(self) -> dict[int, str]:
        """By node, when it was last let in; of those that are there now."""
        self._looked_at = time.monotonic()
        return {int(node.node_id): str(node.last_activated_at) for node in self._inner.get_nodes()}

    def _sent(self, messages: list[Message]) -> list[str]:
        ids = list(self._inner.push_messages(messages))
        if len(ids) != len(messages) or not all(ids):
            raise FedHealthError(
                f"every message must be taken by the SuperLink, found {sum(map(bool, ids))} of {len(messages)} taken. "
                "See its log; a hospital may have been revoked."
            )
        return ids

    def _taken(self, reply: Message) -> Message | None:
        """A reply as one to the first copy; None where it is kept back, or is of a question that is closed."""
        copy = reply.metadata.reply_to_message_id
        first = self._open.first_of.get(copy)
        question = self._open.questions.get(first) if first is not None else None
        if first is None or question is None:
            return None
        if reply.has_error() and reply.error.code in flower.LOST:
            question.copies.discard(copy)
            if not question.copies:
                question.lost_at = question.lost_at or time.monotonic()
            return None
        del self._open.questions[first]
        if reply.has_content():
            reply = flower.with_content(reply, flower.unpack(reply.content))
        in_any_runtime.set_reply_to(reply, first)
        return reply

    def _look_after(self, first: str, there: dict[int, str]) -> None:
        """Ask again where the hospital was let in anew, or where all copies are lost and it is there."""
        question = self._open.questions[first]
        let_in = there.get(question.message.metadata.dst_node_id)
        if let_in is None or (let_in == question.let_in and question.copies):
            return
        asked = sum(known == first for known in self._open.first_of.values())
        if asked >= MOST_TIMES:
            question.copies.clear()
            question.lost_at = question.lost_at or time.monotonic()
            return
        (copy,) = self._sent([flower.outgoing(question.message, {AGAIN: ConfigRecord({FIRST: first})})])
        question.copies.add(copy)
        question.let_in, question.lost_at = let_in, None
        self._open.first_of[copy] = first

    def _given_up(self, first: str) -> Message | None:
        """The error of a question whose hospital has not come back to it in time."""
        question = self._open.questions.get(first)
        if question is None or question.lost_at is None:
            return None
        if time.monotonic() - question.lost_at < self._return_s:
            return None
        del self._open.questions[first]
        reason = f"went away with a question and did not come back to it within {self._return_s:g} s"
        reply = Message(Error(in_any_runtime.NO_REPLY, reason), reply_to=question.message)
        in_any_runtime.set_reply_to(reply, first)
        return reply
