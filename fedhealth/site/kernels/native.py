"""The native kernel: `native.c`, called with hospitals' arrays."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fedhealth.models.row_of_steps import OverTime
from fedhealth.site.kernels.compiling import address, compiled
from fedhealth.site.kernels.stack import in_order
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from fedhealth.core.training import LocalTraining
    from fedhealth.site.kernels.fit import FitJob

#: As in the source.
MOST_LAYERS = 16
#: A quarter of a megabyte. Larger networks leave the core's cache, and a library's blocked products are faster.
MOST_WEIGHTS = 2**16
#: By the type of the numbers, what it and its functions are called in C.
_TYPES = {
    np.dtype(np.float32): ("float", "expf", "log1pf", "fabsf", "sqrtf"),
    np.dtype(np.float64): ("double", "exp", "log1p", "fabs", "sqrt"),
}


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_int64),
        ("width", ctypes.c_int64 * (MOST_LAYERS + 1)),
        ("biased", ctypes.c_int64 * MOST_LAYERS),
    )


class _Training(ctypes.Structure):
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("adam", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("rate", "momentum", "decay", "beta1", "beta2", "clip", "strength")),
    )


_JOB = np.dtype(
    [(name, np.uintp) for name in ("x", "y", "order", "weights", "anchor", "shift")]
    + [(name, np.int64) for name in ("patients", "columns", "steps")]
    + [("loss", np.float64)]
)


def why_not(job: FitJob) -> str:
    """Why a job does not go by the native kernel; empty where it does."""
    if job.only is not None or (job.pull.shift and set(job.pull.shift) != set(_shapes(job.network))):
        return "only some of the weights move, or are shifted"
    if not len(job.y) or job.x.dtype not in _TYPES:
        return "its patients or outcomes are not what a mini-batch is made of"
    return why_no_network(job.network) or why_no_patients(job)


def why_no_patients(job: FitJob) -> str:
    """Why the kernels in C, which take an array's size for granted, can't read a job's patients; empty where they can."""
    fits = job.y.ndim == 1 and job.x.shape == (len(job.y), _inputs(job.network))
    return "" if fits else "its patients do not fit the network"


@lru_cache(maxsize=1)
def _inputs(network: nn.Module) -> int:
    """How many numbers a patient's row has."""
    first: Any = in_order(network)[0][1]
    return int(first.static + first.steps * first.across if isinstance(first, OverTime) else first.in_features)


@lru_cache(maxsize=1)
def why_no_network(network: nn.Module) -> str:
    """Why a network is none that the kernels in C know; empty where it is one."""
    layers = [layer for _, layer in in_order(network)]
    if len({id(layer) for layer in layers}) < len(layers):
        return "a layer is used twice"
    kinds = [type(layer) for layer in layers]
    linear, between = kinds[::2], kinds[1::2]
    if linear != [nn.Linear] * len(linear) or between != [nn.ReLU] * (len(linear) - 1):
        return "the network is not of linear layers with max(x, 0) between them"
    inputs, outputs = [layer.in_features for layer in layers[::2]], [layer.out_features for layer in layers[::2]]
    if outputs != [*inputs[1:], 1]:
        return "its layers do not fit one another, or it gives more than one number"
    if len(linear) > MOST_LAYERS:
        return f"the network has more than {MOST_LAYERS} linear layers"
    weights = sum(shape.numel() for shape in _shapes(network).values())
    return f"the network has more than {MOST_WEIGHTS:,} weights" if weights > MOST_WEIGHTS else ""


def fit_native(jobs: Sequence[FitJob]) -> list[Fitted]:
    """What training gave each job, in the order of the jobs, none of which has a `why_not`.

    Each is its job's own bit for bit, whoever is beside it.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        groups[id(job.network), job.training, job.pull.strength, bool(job.pull.shift), job.x.dtype].append(place)
    found: dict[int, Fitted] = {}
    for places in groups.values():
        found |= zip(places, _fit_alike([jobs[place] for place in places]), strict=True)
    return [found[place] for place in range(len(jobs))]


def _fit_alike(jobs: Sequence[FitJob]) -> list[Fitted]:
    first = jobs[0]
    kind, shapes = first.x.dtype, _shapes(first.network)
    rows = _rows([job.weights for job in jobs], shapes, kind)
    anchors = _rows([job.pull.anchor for job in jobs], shapes, kind) if first.pull.strength else None
    shifts = _rows([job.pull.shift for job in jobs], shapes, kind) if first.pull.shift else None
    # Held until the call is over: the kernel knows their addresses alone.
    steps = [job.steps for job in jobs]
    held, orders = [np.ascontiguousarray(job.x) for job in jobs], list(map(_order, jobs, steps))
    y, order = np.concatenate([job.y for job in jobs], dtype=kind), np.concatenate(orders)
    asked = np.zeros(len(jobs), dtype=_JOB)
    asked["x"] = [address(array) for array in held]
    asked["patients"] = sizes = [len(job.y) for job in jobs]
    asked["y"] = _addresses(y, sizes)
    asked["order"] = _addresses(order, [len(own) for own in orders])
    for name, block in (("weights", rows), ("anchor", anchors), ("shift", shifts)):
        if block is not None:
            asked[name] = _addresses(block, [1] * len(jobs))
    asked["columns"], asked["steps"] = first.x.shape[1], steps
    network = as_network(first.network)
    # A mini-batch holds no more patients than there are, and the working space is for one.
    training = _training(first.training, first.pull.strength, int(asked["patients"].max()))
    if _library(kind).fit(ctypes.byref(network), ctypes.byref(training), ctypes.c_void_p(address(asked)), len(jobs)):
        raise MemoryError("no room for the working space of a network")
    views = _views(rows, shapes)
    found = zip(jobs, asked["loss"].tolist(), steps, strict=True)
    return [
        Fitted({name: views[name][j] for name in job.weights}, loss, taken)
        for j, (job, loss, taken) in enumerate(found)
    ]


@lru_cache(maxsize=1)
def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    """By name the shapes of the weights, in the order in which the kernel has them."""
    return {name: weight.shape for name, weight in network.named_parameters()}


def _rows(
    each: Sequence[Mapping[str, NDArray[np.generic]]], shapes: Mapping[str, torch.Size], kind: np.dtype[Any]
) -> NDArray[np.floating[Any]]:
    """[jobs, weights] the arrays of each, one after the other."""
    rows = np.empty((len(each), sum(shape.numel() for shape in shapes.values())), dtype=kind)
    for name, view in _views(rows, shapes).items():
        if all(arrays[name] is each[0][name] for arrays in each):
            view[:] = each[0][name]
        else:
            np.stack([arrays[name] for arrays in each], out=view, casting="same_kind")
    return rows


def _views(rows: NDArray[np.floating[Any]], shapes: Mapping[str, torch.Size]) -> dict[str, NDArray[np.floating[Any]]]:
    ends = np.cumsum([shape.numel() for shape in shapes.values()]).tolist()
    starts = [0, *ends]
    return {
        name: rows[:, a:b].reshape(len(rows), *shape)
        for (name, shape), a, b in zip(shapes.items(), starts, ends, strict=False)
    }


def _order(job: FitJob, steps: int) -> NDArray[np.int64]:
    """Each pass's patients, in the order in which `engines.plain.batches` deals them."""
    n = len(job.y)
    passes = -(-steps // -(-n // job.training.batch_size))
    return np.concatenate([job.rng.permutation(n) for _ in range(passes)]) if passes > 1 else job.rng.permutation(n)


def _addresses(array: NDArray[Any], lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where each part of an array begins, the parts being of these lengths one after the other."""
    sizes = np.asarray(lengths, dtype=np.int64)
    return np.asarray(address(array) + (np.cumsum(sizes) - sizes) * array.strides[0])


def as_network(network: nn.Module) -> _Network:
    """A network that the kernels in C know, by its widths."""
    layers = [layer for _, layer in in_order(network) if isinstance(layer, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    biased = [int(layer.bias is not None) for layer in layers]
    return _Network(len(layers), (ctypes.c_int64 * (MOST_LAYERS + 1))(*widths), (ctypes.c_int64 * MOST_LAYERS)(*biased))


def _training(training: LocalTraining, strength: float, most: int) -> _Training:
    return _Training(
        min(training.batch_size, most), training.optimiser == "adamw", training.learning_rate, training.momentum,
        training.weight_decay, training.beta1, training.beta2, training.clip_norm or 0.0, strength,
    )  # fmt: skip


@cache
def _library(kind: np.dtype[Any]) -> ctypes.CDLL:
    """The kernel for numbers of this type, compiled once a process.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    return compiled("native.c", defined(kind))


def defined(kind: np.dtype[Any]) -> list[str]:
    """What the source is told of its numbers."""
    names = ("REAL", "EXP", "LOG1P", "FABS", "SQRT")
    return [f"-D{name}={found}" for name, found in zip(names, _TYPES[kind], strict=True)]
