"""The policy grid: what a round may rely on, whatever grid carries its messages."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.core.errors import QuorumError
from fedhealth.runtime import flower
from fedhealth.runtime.batched import BatchedGrid
from fedhealth.runtime.codec import ARRAYS, COUNT, METRICS, is_spent, reason_of, size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from fedhealth.runtime.flower import Run

#: What makes a reply's arrays unusable, or None.
Fault: TypeAlias = "Callable[[Mapping[str, NDArray[np.generic]]], str | None]"

#: A reply may not claim more patients than this.
MOST_PATIENTS = 1e9


@dataclass(frozen=True, slots=True)
class Failure:
    """One hospital that gave no usable answer, and why."""

    site: str
    reason: str

    def __str__(self) -> str:
        return f"{self.site} {self.reason}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of one set of messages.

    Attributes:
        answered: the hospitals that gave a usable reply.
        failed: the others that were asked.
        bytes_down: of the arrays sent.
        bytes_up: of the arrays that came back.
        took_s: seconds.
        purpose: the type of the messages.
    """

    answered: tuple[str, ...]
    failed: tuple[Failure, ...]
    bytes_down: int
    bytes_up: int
    took_s: float
    purpose: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many answers a round needs and how long it waits for them.

    Attributes:
        quorum: answers a round needs; never more than the hospitals asked. None asks for
            every one of them.
        grace_s: seconds that stragglers get once the quorum is in; None waits for all.
        timeout_s: seconds a round waits at most.
        node_timeout_s: seconds to wait for the asked hospitals to be connected.
        poll_s: pause between looks where the grid had nothing.
    """

    quorum: int | None = 1
    grace_s: float | None = None
    timeout_s: float = 3600.0
    node_timeout_s: float = 60.0
    poll_s: float = 0.2


@dataclass(slots=True)
class _Round:
    """The messages of one exchange while they are open."""

    sent: dict[str, Message]
    fault_of: Fault | None
    replies: dict[str, Message] = field(default_factory=dict)
    bytes_up: int = 0

    #: The messages without an answer yet. Looked through at every pull, so it is kept and not made each time.
    open_ids: dict[str, None] = field(init=False)
    usable: int = 0

    def __post_init__(self) -> None:
        self.open_ids = dict.fromkeys(self.sent)

    def settle(self, ids: Iterable[str], *, is_usable: bool) -> None:
        """Count these messages as answered."""
        for message_id in ids:
            if message_id in self.open_ids:
                del self.open_ids[message_id]
                self.usable += is_usable


class PolicyGrid(Grid):
    """A grid whose rounds end, whose replies are checked, and whose failures have names.

    It wraps any grid and gives Flower's strategies what they do not look after: a quorum
    below which the run stops, a deadline for stragglers, the true name of a failing
    hospital, replies in the order of the hospitals' names (so that sums are bit-equal
    whatever the order of arrival), and no reply with a count or an array that would spoil
    the model. Of the nodes of the inner grid it shows only those that `ask` named.
    """

    #: What to do where too few answer.
    remedy = "Mend them, or lower rules.quorum."

    def __init__(
        self,
        inner: Grid,
        names: Mapping[int, str],
        patience: Patience | None = None,
        *,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        self._inner = inner
        self._names = dict(names)
        self._patience = patience or Patience()
        self._watch = watch or (lambda _site: None)
        self._asked = sorted(self._names, key=self._names.__getitem__)
        self._since: list[Exchange] = []
        self._given_up: set[int] = set()
        #: By reply of the last exchange that stands for several hospitals, their names.
        self._stands: dict[str, tuple[str, ...]] = {}

    def ask(self, sites: Iterable[str]) -> None:
        """From now on show only these hospitals' nodes."""
        wanted = set(sites)
        self._asked = [node for node in sorted(self._names, key=self._names.__getitem__) if self._names[node] in wanted]

    def need(self, quorum: int) -> None:
        """From now on let no round stand on fewer answers, where the quorum is lower."""
        if self._patience.quorum is not None:
            self._patience = replace(self._patience, quorum=max(self._patience.quorum, quorum))

    def site_of(self, reply: Message) -> str:
        """The hospital a reply stands for."""
        return self.name_of(reply.metadata.src_node_id)

    @property
    def noise(self) -> float:
        """The standard deviation of the noise in each number of the last sum; 0 where hospitals share none."""
        return 0.0

    def hospitals_of(self, reply: Message) -> tuple[str, ...]:
        """The hospitals whose patients a reply is of."""
        return self._stands.get(reply.metadata.message_id, (self.site_of(reply),))

    @property
    def is_masked(self) -> bool:
        """Whether the replies are sums, so that what is asked must be the same for every hospital."""
        return False

    def name_of(self, node: int) -> str:
        """The hospital at a node."""
        return self._names.get(node, f"node {node}")

    def exchanges(self) -> list[Exchange]:
        """What was exchanged since the last call."""
        since, self._since = self._since, []
        return since

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
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """The asked nodes that are connected, sorted by the hospitals' names.

        One that was waited for in vain is not waited for again, as long as a quorum is there without it; once it is
        back it counts again.

        Raises:
            QuorumError: fewer than the quorum are connected after `node_timeout_s`.
        """
        deadline = time.monotonic() + self._patience.node_timeout_s
        while True:
            connected = set(self._inner.get_node_ids())
            here = [node for node in self._asked if node in connected]
            self._given_up -= connected
            if len(here) == len(self._asked):
                return here
            is_enough = len(here) >= self._quorum(len(self._asked))
            if is_enough and self._given_up.issuperset(set(self._asked) - connected):
                return here
            if time.monotonic() >= deadline:
                break
            time.sleep(self._patience.poll_s)
        self._given_up |= set(self._asked) - connected
        if len(here) < self._quorum(len(self._asked)):
            absent = ", ".join(self._names[node] for node in self._asked if node not in connected)
            raise QuorumError(
                f"at least {self._quorum(len(self._asked))} hospitals must be connected within "
                f"{self._patience.node_timeout_s:g} s, found {len(here)}. Absent: {absent}."
            )
        return here

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Pass the messages on."""
        return list(self._inner.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Pass the replies back, unchecked."""
        return list(self._inner.pull_messages(message_ids))

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        fault_of: Fault | None = None,
    ) -> list[Message]:
        """The checked replies, errors among them, sorted by the hospitals' names.

        Args:
            messages: what is sent.
            timeout: seconds, where it is less than the grid's own.
            fault_of: what makes a reply's arrays unusable for this question, or None; a
                reply with a fault counts as none. By default a model must come back in
                the names and shapes it was sent in.

        Raises:
            QuorumError: fewer usable replies than the quorum; it names who failed and why.
        """
        started = time.monotonic()
        pending = list(messages)
        if not pending:
            return []
        self._stands = {}
        sent = dict(zip(self.push_messages(pending), pending, strict=True))
        exchange = _Round(sent, fault_of)
        limit_s = self._patience.timeout_s if timeout is None else min(timeout, self._patience.timeout_s)
        quorum = self._quorum(len(sent))
        quorum_at: float | None = None
        while exchange.open_ids:
            asked_at = time.monotonic()
            found = self.pull_messages(exchange.open_ids)
            for reply in found:
                self._take(reply, exchange)
            if not found:
                # A grid that waits for a reply itself has used the pause up already.
                time.sleep(max(self._patience.poll_s - (time.monotonic() - asked_at), 0.0))
            now = time.monotonic()
            if quorum_at is None and exchange.usable >= quorum:
                quorum_at = now
            if exchange.open_ids and self._is_over(
                now - started, None if quorum_at is None else now - quorum_at, limit_s
            ):
                break
        for message_id in list(exchange.open_ids):
            waited = time.monotonic() - started
            self._take(_no_reply(sent[message_id], message_id, f"gave no answer within {waited:.1f} s"), exchange)
        return self._close(exchange, quorum, started)

    def _quorum(self, asked: int) -> int:
        return asked if self._patience.quorum is None else min(self._patience.quorum, asked)

    def _is_over(self, waited_s: float, since_quorum_s: float | None, limit_s: float) -> bool:
        if waited_s >= limit_s:
            return True
        grace = self._patience.grace_s
        return grace is not None and since_quorum_s is not None and since_quorum_s >= grace

    def _take(self, reply: Message, exchange: _Round) -> None:
        message_id = reply.metadata.reply_to_message_id
        if message_id not in exchange.sent or message_id not in exchange.open_ids:
            return
        sent = exchange.sent[message_id]
        node = sent.metadata.dst_node_id
        flower.set_sender(reply, node)
        # Only a grid of this process is asked for whom else a reply stands; none of a hospital's words says so.
        is_ours = isinstance(self._inner, BatchedGrid) and reply.metadata.message_id
        covered, came = self._inner.covered(reply) if is_ours else ({message_id: node}, size_bytes(reply))
        names = tuple(map(self.name_of, covered.values()))
        fault = self._fault(reply, sent, exchange.fault_of)
        exchange.bytes_up += 0 if fault else came
        for each in covered if fault else (message_id,):
            exchange.replies[each] = _no_reply(exchange.sent[each], each, f"sent {fault}") if fault else reply
        if len(covered) > 1 and not fault:
            self._stands[reply.metadata.message_id] = names
        exchange.settle(covered, is_usable=not fault and bool(reply.has_content()))
        for name in names:
            self._watch(name)

    def _fault(self, reply: Message, sent: Message, fault_of: Fault | None) -> str | None:
        """What makes a reply unusable, or None."""
        return _fault(reply, sent, fault_of)

    def _close(self, exchange: _Round, quorum: int, started: float) -> list[Message]:
        replies = sorted(exchange.replies.values(), key=self.site_of)
        failed = tuple(Failure(self.site_of(reply), reason_of(reply)) for reply in replies if reply.has_error())
        answered = tuple(sorted(name for reply in replies if reply.has_content() for name in self.hospitals_of(reply)))
        self._since.append(
            Exchange(
                answered=answered,
                failed=failed,
                bytes_down=_bytes_down(exchange.sent.values()),
                bytes_up=exchange.bytes_up,
                took_s=time.monotonic() - started,
                purpose=next(iter(exchange.sent.values())).metadata.message_type,
            )
        )
        if len(answered) < quorum:
            raise QuorumError(
                f"at least {quorum} of {len(exchange.sent)} hospitals must answer, found {len(answered)}. "
                f"{'; '.join(str(failure) for failure in failed)}. {self.remedy}",
                is_spent=bool(failed) and all(is_spent(reply) for reply in replies if reply.has_error()),
            )
        return replies


def _bytes_down(sent: Iterable[Message]) -> int:
    """The bytes of the arrays sent; messages may carry the same records, which are counted for each and read once."""
    by_records: dict[int, int] = {}
    total = 0
    for message in sent:
        records = id(message.content)
        if records not in by_records:
            by_records[records] = size_bytes(message)
        total += by_records[records]
    return total


def _no_reply(sent: Message, message_id: str, reason: str) -> Message:
    reply = Message(Error(flower.NO_REPLY, reason), reply_to=sent)
    flower.set_reply_to(reply, message_id)
    flower.set_sender(reply, sent.metadata.dst_node_id)
    return reply


def _fault(reply: Message, sent: Message, fault_of: Fault | None) -> str | None:
    """What makes a reply unusable, or None."""
    if reply.has_error():
        return None
    records = reply.content
    if METRICS not in records or ARRAYS not in records:
        return "a reply without arrays and metrics"
    for name, value in records[METRICS].items():
        if not np.all(np.isfinite(value)):
            return f"a {name} that is not finite"
    count = records[METRICS].get(COUNT)
    if not isinstance(count, int | float) or not 0 <= count <= MOST_PATIENTS:
        return f"a {COUNT} outside 0 to {MOST_PATIENTS:g}"
    try:
        found = {name: array.numpy() for name, array in records[ARRAYS].items()}
    except (ValueError, OSError, EOFError):
        return "arrays that can't be read"
    if not all(np.issubdtype(array.dtype, np.number) and np.isfinite(array).all() for array in found.values()):
        return "an array that is not finite"
    if sent.metadata.message_type == "train" and count == 0:
        return "a model trained on nobody"
    if fault_of is not None:
        return fault_of(found)
    if sent.metadata.message_type != "train":
        return None
    asked = {name: tuple(array.shape) for name, array in sent.content[ARRAYS].items()}
    fits = {name: array.shape for name, array in found.items()} == asked
    return None if fits else "arrays of other names or shapes than the model's"
