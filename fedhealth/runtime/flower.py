"""The private parts of Flower 1.41 that FedHealth needs, and nothing else.

Flower makes no promise about these names. When an upgrade breaks one of them the contract
test `tests/runtime/test_flower.py` fails first and says what each is for; mend it here.
"""

from __future__ import annotations

import logging

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_FAILED",
    "NO_REPLY",
    "Run",
    "begin_run",
    "quiet",
    "set_message_id",
    "set_reply_to",
    "set_sender",
    "twin",
]

#: A client app raised. Flower's own number, so that its strategies log it as such.
CLIENT_FAILED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
#: No reply came in time.
NO_REPLY: int = ErrorCode.MESSAGE_UNAVAILABLE


def begin_run(run_id: int) -> Run:
    """An empty run, and this process named as its server task.

    `Message` reads the identity of the task it is made in from process-wide state.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = 1
    TaskIdentity.task_id = 1
    return Run.create_empty(run_id=run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its identifier, as every Flower grid does; there is no public setter."""
    message.metadata.__dict__["_message_id"] = message_id


def set_sender(message: Message, node_id: int) -> None:
    """Name the node a reply stands for. Error replies made on a node's behalf lack it."""
    message.metadata.__dict__["_src_node_id"] = node_id


def set_reply_to(message: Message, message_id: str) -> None:
    """Name the message that a reply made on a node's behalf answers."""
    message.metadata.__dict__["_reply_to_message_id"] = message_id


def twin(message: Message) -> Message:
    """A message with its own metadata and records; the bytes of the arrays are shared."""
    metadata = object.__new__(type(message.metadata))
    metadata.__dict__.update(message.metadata.__dict__)
    records = message.content.copy()
    for name, record in message.content.items():
        records[name] = record.copy()
    return Message(metadata=metadata, content=records)


def quiet() -> None:
    """Keep Flower's own narration out of the terminal; FedHealth reports the rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
