"""Messages and what they carry.

Towards a hospital a message carries records "arrays" (the model) and "config" (numbers
and words). From a hospital it carries "arrays" and, where it is in the clear, "metrics", made
from a `SealedUpdate` and from nothing else. Either way "audit" may go along: how far the
sender's log has come (`governance.countersign`), which is no part of question or answer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedhealth.core.errors import REFUSALS, SPENT, Refused
from fedhealth.runtime import flower

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.update import SealedUpdate

#: What numpy writes before an array's own bytes.
HEADER_BYTES = 128
ARRAYS, CONFIG, METRICS, COUNT = "arrays", "config", "metrics", "num-examples"
AUDIT = "audit"
#: The name of the one vector of a reply that is a sum and not a model.
SUM = "sum"


@dataclass(frozen=True, slots=True)
class Request:
    """What the coordinator asks of a hospital.

    Attributes:
        purpose: "train", "evaluate" or "query.<name>", Flower's message type.
        round_: the round it belongs to; 0 before the first.
        arrays: the model's weights, or other arrays by name.
        config: the numbers and words that came along.
    """

    purpose: str
    round_: int
    arrays: dict[str, NDArray[np.generic]]
    config: dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a message, told without its values.

    Attributes:
        parts: of each value its place and name, its type, its shape and its bytes.
        size_bytes: of all values and their names; an error's reason, where the message carries one.
        sha256: of all of it, in hex: whoever has the message can work it out and nobody the other way.
    """

    parts: list[tuple[str, str, list[int], int]]
    size_bytes: int
    sha256: str


def read_request(message: Message) -> Request:
    """The request in a message."""
    records = message.content
    config = {**records[CONFIG]} if CONFIG in records else {}
    arrays = {name: array.numpy() for name, array in records[ARRAYS].items()} if ARRAYS in records else {}
    return Request(message.metadata.message_type, int(config.get("server-round", 0)), arrays, config)


def write_request(
    purpose: str,
    node_id: int,
    arrays: Mapping[str, NDArray[np.generic]] | None = None,
    config: Mapping[str, str | int | float | bool] | None = None,
) -> Message:
    """A message that asks one node."""
    records = RecordDict({ARRAYS: array_record(arrays or {}), CONFIG: ConfigRecord(dict(config or {}))})
    return Message(records, node_id, purpose)


def write_reply(sealed: SealedUpdate, *, to: Message) -> Message:
    """The reply that carries a sealed update; of a masked one, nothing but its arrays."""
    if sealed.is_masked:
        return Message(RecordDict({ARRAYS: array_record(sealed.arrays)}), reply_to=to)
    metrics = MetricRecord({COUNT: float(sealed.weight), **{k: float(v) for k, v in sealed.metrics.items()}})
    return Message(RecordDict({ARRAYS: array_record(sealed.arrays), METRICS: metrics}), reply_to=to)


def write_average(
    arrays: Mapping[str, NDArray[np.generic]], metrics: Mapping[str, float], weight: float, *, to: Message
) -> Message:
    """The reply that stands for all hospitals: what a sum of theirs says, as a strategy reads it."""
    numbers = MetricRecord({COUNT: float(weight), **metrics})
    return Message(RecordDict({ARRAYS: row_record(arrays), METRICS: numbers}), reply_to=to)


def write_masked(arrays: Mapping[str, NDArray[np.generic]], *, to: Message) -> Message:
    """The reply that carries nothing but masked arrays."""
    return Message(RecordDict({ARRAYS: row_record(arrays)}), reply_to=to)


def write_error(reason: str, *, to: Message) -> Message:
    """The reply that says why there is none, as `refusal` and `failure` put it."""
    return Message(Error(flower.CLIENT_FAILED, reason), reply_to=to)


def refusal(refused: Refused) -> str:
    """That a hospital refused: its code, no text."""
    return f"refused:{refused.code}"


def failure(error: Exception, incident: str) -> str:
    """That a hospital failed: the kind of error and an incident to ask it about."""
    return f"failed:{type(error).__name__}:{incident}"


def reason_of(reply: Message) -> str:
    """Why a reply carries no content, in words."""
    found = reply.error.reason or "no reason given"
    kind, _, rest = found.partition(":")
    if kind == "refused":
        return f"refused: {REFUSALS.get(rest, rest)}"
    if kind == "failed":
        error, _, incident = rest.partition(":")
        return f"failed with {error}" + (f" (incident {incident} in the hospital's log)" if incident else "")
    return found


def is_spent(reply: Message) -> bool:
    """Whether an error reply says that a budget is spent."""
    kind, _, code = (reply.error.reason or "").partition(":")
    return kind == "refused" and code in SPENT


def say_along(message: Message, said: Mapping[str, str | int]) -> None:
    """Put into a message how far its sender's log has come."""
    message.content[AUDIT] = ConfigRecord(dict(said))


def said_along(message: Message, *, take: bool = False) -> dict[str, str | int | float | bool] | None:
    """What came along of its sender's log, None where nothing did; taken out of the message where that is asked."""
    if not message.has_content() or AUDIT not in message.content:
        return None
    said = {**message.content[AUDIT]}
    if take:
        del message.content[AUDIT]
    return said


def contents_of(message: Message) -> Contents:
    """What is in a message, the same for who sends and who receives it."""
    if not message.has_content():
        reason = str(message.error.reason or "").encode()
        return Contents([], len(reason), hashlib.sha256(reason).hexdigest())
    parts, size, whole = [], 0, hashlib.sha256()
    for record_name, record in sorted(message.content.items()):
        for name, value in sorted(record.items()):
            place = f"{record_name}/{name}"
            if isinstance(value, Array):
                kind, shape, content = str(value.dtype), [int(n) for n in value.shape], bytes(value.data)
            else:
                kind, shape = type(value).__name__, []
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
            parts.append((place, kind, shape, len(content)))
            size += len(place.encode()) + len(content)
            whole.update(json.dumps([place, kind, shape]).encode() + b"\n" + hashlib.sha256(content).digest())
    return Contents(parts, size, whole.hexdigest())


def arrays_of(reply: Message) -> dict[str, NDArray[np.generic]]:
    """The arrays in a reply."""
    return {name: array.numpy() for name, array in reply.content[ARRAYS].items()}


def metrics_of(reply: Message) -> dict[str, float]:
    """The numbers in a reply, "num-examples" among them."""
    return {name: float(value) for name, value in reply.content[METRICS].items()}


def array_record(arrays: Mapping[str, NDArray[np.generic]]) -> ArrayRecord:
    """The arrays as Flower's record."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def row_record(arrays: Mapping[str, NDArray[np.generic]]) -> ArrayRecord:
    """The arrays as Flower's record, which makes bytes of them where somebody asks for those and not before."""
    record = ArrayRecord()
    for name, array in arrays.items():
        # One by one: made of a dictionary, a record would read the bytes of each at once.
        record[name] = Row(np.asarray(array, order="C"))
    return record


class Row(Array):
    """An array within one process: whoever reads it gets a copy."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.dtype, self.shape, self.stype = str(array.dtype), array.shape, "numpy.ndarray"
        self._array = array

    @property
    def data(self) -> bytes:
        """As numpy writes it."""
        written = BytesIO()
        np.save(written, self._array, allow_pickle=False)
        return written.getvalue()

    def numpy(self) -> NDArray[np.generic]:
        """A copy of its own."""
        return self._array.copy()

    @property
    def size_bytes(self) -> int:
        """Of `data`."""
        return HEADER_BYTES + self._array.nbytes


def bytes_of(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """The bytes of some arrays, as they would cross a network."""
    return sum(HEADER_BYTES + array.nbytes for array in arrays.values())


def size_bytes(message: Message) -> int:
    """The bytes of all arrays in a message, as they would cross a network."""
    if not message.has_content():
        return 0
    return sum(
        array.size_bytes if isinstance(array, Row) else len(array.data)
        for record in message.content.array_records.values()
        for array in record.values()
    )
