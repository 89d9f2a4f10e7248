"""A study in one process on a grid that loses replies where a test says, and keeps every message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from fedhealth.runtime.local import FIRST_NODE, LocalGrid
from fedhealth.server.app import make, policed
from fedhealth.server.store import Store
from fedhealth.simulate import Simulation, _nodes, _run_config, identified
from fedhealth.site.app import app

STEPS = ("query.share", "query.mask", "query.confirm", "query.reveal")
#: Whether a hospital's reply is lost: by its name, the question, the round and the message's own type.
Lose = Callable[[str, str, int, str], bool]


def nobody(name: str, question: str, round_: int, kind: str) -> bool:
    return False


class LossyGrid(LocalGrid):
    """A local grid whose replies may get lost on their way; the hospital has done its work."""

    def __init__(self, names: dict[int, str], lose: Lose, *rest) -> None:
        super().__init__(*rest)
        self.names, self.lose = names, lose
        self.question, self.round = "", 0
        self.sent: list[tuple[str, Message]] = []
        self.came: list[tuple[str, Message]] = []

    def push_messages(self, messages):
        messages = list(messages)
        kind = messages[0].metadata.message_type
        if kind not in STEPS:
            self.question = kind
            self.round = int(messages[0].content["config"].get("server-round", 0))
        self.sent += [(self.names[m.metadata.dst_node_id], m) for m in messages]
        return super().push_messages(messages)

    def _answer(self, message):
        reply, name = super()._answer(message), self.names[message.metadata.dst_node_id]
        if self.lose(name, self.question, self.round, message.metadata.message_type):
            return Message(Error(2, "lost"), reply_to=message)
        if reply.has_error():
            return reply
        # As it came: a reader may take out what it has read.
        self.came.append((name, Message(RecordDict(dict(reply.content.items())), reply_to=message)))
        for key, record in list(reply.content.items()):
            reply.content[key] = record.copy()
        return reply


def conducted(simulation: Simulation, folder: Path, lose: Lose = nobody) -> tuple[Store, LossyGrid]:
    """The run's folder and the grid that carried it."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    simulation = identified(simulation, store)
    config, names = _run_config(simulation, store), dict(enumerate(simulation.study.roster, start=FIRST_NODE))
    grid = LossyGrid(names, lose, app, _nodes(simulation, folder).values(), config)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    named = policed(grid, names, simulation.study, simulation.digest, poll_s=0)
    make(lambda row: None)(named, context)
    return store, grid
