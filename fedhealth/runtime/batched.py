"""The batched grid: a simulation's hospitals, asked block by block, in this process, in forked ones or on Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.core.errors import FedHealthError
from fedhealth.core.study import packed, unpacked
from fedhealth.runtime import flower
from fedhealth.runtime.block import Answer, Asked, answered, from_bytes, size_of, to_bytes
from fedhealth.runtime.codec import Request, read_request, write_average, write_error, write_masked
from fedhealth.runtime.local import FIRST_NODE, LocalGrid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from flwr.app import Message, RecordDict

    from fedhealth.runtime.block import Crew


class Hands(Protocol):
    """Whoever answers blocks elsewhere; a block of one number always comes to the same one."""

    def give(self, number: int, content: Callable[[], bytes]) -> None:
        """Take a block's questions, which are written when they are sent."""

    def done(self) -> list[tuple[int, bytes]]:
        """The blocks that are done and their answers, in any order; waits up to 200 ms for the first.

        Raises:
            FedHealthError: one that had a block has ended.
        """

    def close(self) -> None:
        """Let all go; nothing is left running."""


#: Makes hands elsewhere of what the hospitals of each know from the start, by node id.
Away: TypeAlias = "Callable[[Sequence[Mapping[int, Mapping[str, Any]]]], Hands]"


@dataclass(frozen=True, slots=True)
class Desk:
    """Where blocks are answered, in whichever process.

    Attributes:
        crew: answers for a block.
        nodes: the nodes' configs by id, of the hospitals that may be asked here.
        is_summed: whether hospitals may answer a question together.
    """

    crew: Crew
    nodes: Mapping[int, Mapping[str, Any]]
    is_summed: Callable[[Request], bool]

    def work(self, asked: Sequence[tuple[int, Request]]) -> list[Answer]:
        """The answers of a block."""
        is_summed = bool(asked) and self.is_summed(asked[0][1])
        return answered(self.crew, [Asked(self.nodes[node], request) for node, request in asked], is_summed=is_summed)

    def serve(self, content: bytes) -> bytes:
        """The same, as it crosses between processes."""
        return to_bytes(self.work(_asked_from(content)))


class BatchedGrid(LocalGrid):
    """A local grid whose hospitals answer in blocks, and where a sum is all that is wanted, as one.

    A block is of hospitals that stand together in the roster; results do not depend on
    `processes`. Forked processes keep what they load, each the hospitals of its own blocks.

    Args:
        crew: answers for a block.
        nodes: the nodes' configs, in the order of the roster.
        processes: that share the blocks; forked ones, of which 1 or less is this one, or those of `away`.
        is_summed: whether hospitals may answer a question together.
        away: makes hands on other machines; None for forked ones.
    """

    def __init__(
        self,
        crew: Crew,
        nodes: Iterable[Mapping[str, Any]],
        *,
        processes: int = 1,
        is_summed: Callable[[Request], bool] = lambda _: False,
        away: Away | None = None,
    ) -> None:
        super().__init__(crew, [], {})
        self._nodes = dict(enumerate(nodes, start=FIRST_NODE))
        self._desk = Desk(crew, self._nodes, is_summed)
        self._size = size_of(len(self._nodes))
        workers = min(processes, -(-len(self._nodes) // self._size))
        self._hands: Hands | None = None
        if away is not None:
            self._hands = away(self._shares(workers))
        elif processes > 1:
            self._hands = _Forks(self._desk, workers)
        self._blocks: dict[int, list[_Sent]] = {}
        self._pending: list[list[_Sent]] = []
        self._stands: dict[str, tuple[dict[str, int], int]] = {}
        #: The records read last and what was read: a strategy sends most hospitals the very same.
        self._read: tuple[RecordDict, Request] | None = None

    def get_node_ids(self) -> list[int]:
        """The nodes' ids, in the order they were given."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take the messages; the ids returned name their replies. What they carry is only read."""
        blocks: dict[int, list[_Sent]] = defaultdict(list)
        ids = []
        self._stands.clear()
        self._read = None
        for message in messages:
            message_id, node = str(next(self._ids)), message.metadata.dst_node_id
            flower.set_message_id(message, message_id)
            blocks[(node - FIRST_NODE) // self._size].append(_Sent(node, message_id, message))
            ids.append(message_id)
        for number, block in sorted(blocks.items()):
            # A strategy may ask in an order of chance, and in a sum the order shows.
            block.sort(key=attrgetter("node"))
            if self._hands:
                self._blocks[number] = block
                self._hands.give(number, partial(self._asked_bytes, block))
            else:
                self._pending.append(block)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies of the next block, or with processes of all blocks that are done."""
        del message_ids
        if not self._hands:
            if not self._pending:
                return []
            block = self._pending.pop(0)
            asked = [(sent.node, request) for sent, request in zip(block, self._requests(block), strict=True)]
            return self._replies(block, self._desk.work(asked))
        found: list[Message] = []
        for number, content in self._hands.done():
            found += self._replies(self._blocks.pop(number), from_bytes(content))
        return found

    def covered(self, reply: Message) -> tuple[dict[str, int], int]:
        """By the id of each message that a reply answers its node, and the bytes of the arrays behind it as they left."""
        return self._stands[reply.metadata.message_id]

    def close(self) -> None:
        """Let the processes go."""
        if self._hands:
            self._hands.close()

    def _shares(self, workers: int) -> list[dict[int, Mapping[str, Any]]]:
        """By worker, the nodes of the blocks that come to it."""
        shares: list[dict[int, Mapping[str, Any]]] = [{} for _ in range(workers)]
        for node, config in self._nodes.items():
            shares[(node - FIRST_NODE) // self._size % workers][node] = config
        return shares

    def _requests(self, block: Sequence[_Sent]) -> list[Request]:
        """The requests of the messages; neighbours that carry the same records share what was read of them."""
        found = []
        for sent in block:
            records: RecordDict = sent.message.content
            if self._read is None or self._read[0] is not records:
                self._read = records, read_request(sent.message)
            found.append(self._read[1])
        return found

    def _asked_bytes(self, block: Sequence[_Sent]) -> bytes:
        """A block's questions, each different one once."""
        requests = self._requests(block)
        different = {id(request): request for request in requests}
        number = {key: i for i, key in enumerate(different)}
        header = {
            "nodes": [sent.node for sent in block],
            "which": [number[id(request)] for request in requests],
            "asked": [[r.purpose, r.round_, r.config, list(r.arrays)] for r in different.values()],
        }
        arrays = {f"{i}|{name}": array for i, r in enumerate(different.values()) for name, array in r.arrays.items()}
        said = packed(header).encode()
        return len(said).to_bytes(8, "little") + said + bytes(save_tensors(arrays))

    def _replies(self, block: Sequence[_Sent], answers: Iterable[Answer]) -> list[Message]:
        replies = []
        for answer in answers:
            asked = [block[place] for place in answer.places]
            to = asked[0].message
            if answer.error:
                reply = write_error(answer.error, to=to)
            elif answer.is_masked:
                reply = write_masked(answer.arrays, to=to)
            else:
                reply = write_average(answer.arrays, answer.metrics, answer.weight, to=to)
            reply_id = f"r{asked[0].message_id}"
            flower.set_message_id(reply, reply_id)
            self._stands[reply_id] = {sent.message_id: sent.node for sent in asked}, answer.size_bytes
            replies.append(reply)
        return replies


class _Sent(NamedTuple):
    """A message on its way, and what is asked of it often: ten thousand are not at hand any more when it is asked again."""

    node: int
    message_id: str
    message: Message


class _Forks:
    """Forked processes that each work for their own blocks, one after the other; `Hands`."""

    def __init__(self, desk: Desk, processes: int) -> None:
        self._hands = [_Hand(desk) for _ in range(processes)]

    def give(self, number: int, content: Callable[[], bytes]) -> None:
        self._hands[number % len(self._hands)].give(number, content)

    def done(self) -> list[tuple[int, bytes]]:
        busy: dict[Any, _Hand] = {hand.connection: hand for hand in self._hands if hand.given}
        for hand in busy.values():
            hand.write_ahead()
        return [busy[done].hear() for done in wait(list(busy), timeout=0.2)]

    def close(self) -> None:
        for hand in self._hands:
            hand.close()


class _Hand:
    """A forked process that answers one block after the other."""

    def __init__(self, desk: Desk) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.connection, desk), daemon=True)
        self._process.start()
        theirs.close()
        #: The blocks that it was given and has not answered yet, the oldest first; it has been sent the first.
        self.given: list[tuple[int, Callable[[], bytes]]] = []
        #: The questions of the second, once they are written.
        self._ahead: bytes | None = None

    def give(self, number: int, content: Callable[[], bytes]) -> None:
        """Give it a block, once it has done those before."""
        self.given.append((number, content))
        # A pipe holds little: two that both write and do not read would wait for ever.
        if len(self.given) == 1:
            self.connection.send_bytes(content())

    def write_ahead(self) -> None:
        """Write the questions that come next, while it still works: it would wait for them."""
        if self._ahead is None and len(self.given) > 1:
            self._ahead = self.given[1][1]()

    def hear(self) -> tuple[int, bytes]:
        """The number of the oldest block and what it answered; it is given the next.

        Raises:
            FedHealthError: it has ended.
        """
        try:
            found = self.connection.recv_bytes()
        except EOFError:
            raise FedHealthError(
                f"a process of the simulation must live to the end, found process {self._process.pid} ended. "
                "There may be too little memory; use runtime.processes=1."
            ) from None
        number, _ = self.given.pop(0)
        if self.given:
            self.connection.send_bytes(self._ahead or self.given[0][1]())
            self._ahead = None
        return number, found

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()


def _serve(ours: Connection, theirs: Connection, desk: Desk) -> None:
    """Answer blocks until the other end is closed."""
    # Whoever started this one is told of an interruption, and closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    theirs.close()
    try:
        while True:
            ours.send_bytes(desk.serve(ours.recv_bytes()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    # Not the interpreter's own end: what the parent registered for that is the parent's.
    os._exit(0)


def _asked_from(content: bytes) -> list[tuple[int, Request]]:
    """The inverse of `BatchedGrid._asked_bytes`."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, arrays = unpacked(content[8:end].decode()), load_tensors(content[end:])
    requests = [
        Request(purpose, round_, {name: arrays[f"{i}|{name}"] for name in names}, config)
        for i, (purpose, round_, config, names) in enumerate(header["asked"])
    ]
    return [(node, requests[which]) for node, which in zip(header["nodes"], header["which"], strict=True)]
