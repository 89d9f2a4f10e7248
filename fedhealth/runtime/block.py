"""Blocks: hospitals of a simulation that are asked in one go, and what they answer.

Which hospitals make a block follows from the roster alone, so what is computed does not depend on how many
processes there are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.runtime.codec import HEADER_BYTES, SUM, bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedhealth.core.update import SealedUpdate
    from fedhealth.runtime.codec import Request

#: Hospitals in a block at most: as many as go into a stack of the smallest models.
MOST = 64


class Asked(NamedTuple):
    """One hospital that is asked: what its node knows from the start, and the request."""

    node: Mapping[str, Any]
    request: Request


#: Answers, in the order asked, what leaves each hospital; or the reason of one that refused or failed, as it travels.
Crew: TypeAlias = "Callable[[Sequence[Asked]], list[SealedUpdate | str]]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one hospital said, or several together.

    Attributes:
        places: of those it stands for, among those asked.
        weight: their patients together.
        arrays: by name; of several the weighted mean, or of a vector to be summed the sum.
        metrics: by name; of several the weighted mean.
        size_bytes: of the arrays as they left the hospitals.
        is_masked: whether there are arrays alone.
        error: why there is no answer; empty where there is one.
    """

    places: tuple[int, ...]
    weight: float = 0.0
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    size_bytes: int = 0
    is_masked: bool = False
    error: str = ""


def size_of(roster: int) -> int:
    """How many of so many hospitals make a block: all of few, for more of them at once is faster; else a half at most."""
    return roster if roster < MOST else min(MOST, -(-roster // 2))


def answered(crew: Crew, asked: Sequence[Asked], *, is_summed: bool) -> list[Answer]:
    """What a block answers: each hospital for itself, or where `is_summed` all with patients together."""
    found = crew(asked)
    whole = {place: sealed for place, sealed in enumerate(found) if not isinstance(sealed, str)}
    answers = [Answer((place,), error=reason) for place, reason in enumerate(found) if isinstance(reason, str)]
    together = [place for place, sealed in whole.items() if is_summed and sealed.weight > 0 and not sealed.is_masked]
    if len(together) > 1:
        answers.append(_summed(together, [whole.pop(place) for place in together]))
    return answers + [
        Answer((place,), each.weight, each.arrays, each.metrics, bytes_of(each.arrays), each.is_masked)
        for place, each in whole.items()
    ]


def _summed(places: list[int], sealed: list[SealedUpdate]) -> Answer:
    """The hospitals' answers as one."""
    weights = np.array([each.weight for each in sealed], dtype=np.float64)
    total, shapes = float(weights.sum()), {name: array.shape for name, array in sealed[0].arrays.items()}
    flat = [each.arrays[name].ravel() for each in sealed for name in shapes]
    rows = np.concatenate(flat, dtype=np.float64).reshape(len(sealed), -1)
    is_vector = list(shapes) == [SUM]
    sums = (np.ones(len(rows)) if is_vector else weights / total) @ rows
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(sums, ends[:-1])
    arrays = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    metrics = {} if is_vector else {
        name: float(weights @ [each.metrics[name] for each in sealed]) / total for name in sealed[0].metrics
    }  # fmt: skip
    return Answer(tuple(places), total, arrays, metrics, sum(HEADER_BYTES + array.nbytes for array in flat))


def to_bytes(answers: Sequence[Answer]) -> bytes:
    """Answers as they cross from one process of a simulation to another."""
    header = [
        [a.places, a.weight, dict(a.metrics), a.size_bytes, a.is_masked, a.error, list(a.arrays)] for a in answers
    ]
    arrays = {
        f"{i}|{name}": np.ascontiguousarray(array) for i, a in enumerate(answers) for name, array in a.arrays.items()
    }
    said = json.dumps(header).encode()
    return len(said).to_bytes(8, "little") + said + bytes(save_tensors(arrays))


def from_bytes(content: bytes) -> list[Answer]:
    """The inverse of `to_bytes`."""
    end = 8 + int.from_bytes(content[:8], "little")
    arrays = load_tensors(content[end:])
    return [
        Answer(tuple(places), weight, {name: arrays[f"{i}|{name}"] for name in names}, metrics, size, masked, error)
        for i, (places, weight, metrics, size, masked, error, names) in enumerate(json.loads(content[8:end]))
    ]
