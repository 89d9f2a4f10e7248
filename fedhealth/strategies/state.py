"""A strategy's memory between rounds, as arrays and plain values.

Flower's strategies keep theirs in attributes: `FedAdagrad` its moments in dictionaries of
arrays, say. `dump` takes every attribute that is made of numpy arrays (alone, in
a list or by key), numbers, words or None, and leaves the rest (functions, settings objects), which construction brings back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]


def dump(strategy: object) -> tuple[Arrays, dict[str, Any]]:
    """The strategy's arrays by "attribute/key", and its plain values by attribute."""
    arrays: Arrays = {}
    values: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif _is_arrays(value):
            arrays |= {f"{name}/{key}": array for key, array in value.items()}
            values[name] = {"arrays": list(value)}
        elif _is_list(value):
            arrays |= {f"{name}/{place}": array for place, array in enumerate(value)}
            values[name] = {"list": len(value)}
        elif value is None or isinstance(value, bool | int | float | str):
            values[name] = value
    return arrays, values


def load(strategy: object, arrays: Arrays, values: dict[str, Any]) -> None:
    """Put back what `dump` took."""
    for name, value in values.items():
        if isinstance(value, dict) and "list" in value:
            setattr(strategy, name, [arrays[f"{name}/{place}"].copy() for place in range(value["list"])])
        elif isinstance(value, dict):
            setattr(strategy, name, {key: arrays[f"{name}/{key}"].copy() for key in value["arrays"]})
        else:
            setattr(strategy, name, value)
    for name, array in arrays.items():
        if "/" not in name:
            setattr(strategy, name, array.copy())


def _is_arrays(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(array, np.ndarray) for array in value.values())


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(array, np.ndarray) for array in value)
