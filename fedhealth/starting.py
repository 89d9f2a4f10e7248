"""The start of a simulation: one process composes its config while another loads torch and Flower.

Both take longer than eight hospitals' training. Where torch is loaded already, or a process can't be forked, a config
is composed as anywhere else.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import SettingError
from fedhealth.core.parts import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a simulation loads. Torch, the slowest, comes last but one: by then a wrong word is known.
LOADED = ("numpy", "rich.progress", "pydantic", "flwr.app", "flwr.server", "torch", "fedhealth.simulate")

#: What torch knows of tensors without values ("meta"), a quarter of its import. Nothing here makes any.
VALUELESS = "torch._meta_registrations"


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The config of these overrides as plain values; all that a simulation needs is loaded meanwhile.

    Raises:
        SettingError: as `composed` and `resolved`.
    """
    if "torch" in sys.modules or threading.active_count() > 1 or not hasattr(os, "fork"):
        return resolved(composed(overrides))
    reading, writing = os.pipe()
    other = os.fork()
    if not other:
        os.close(reading)
        _compose(overrides, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        load(until=answer.fileno())
        told = answer.read()
    os.waitpid(other, 0)
    # Without an answer, what befell the other process befalls this one too, and is told as anywhere else.
    config, refusal = json.loads(told) if told else (resolved(composed(overrides)), "")
    if refusal:
        raise SettingError(refusal)
    load()
    if _is_somebody_elses(config):
        importlib.import_module(VALUELESS)
    return dict(config)


def _compose(overrides: Sequence[str], writing: int) -> NoReturn:
    """In the other process: write the config, or what is wrong with it, and end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            told = (resolved(composed(overrides)), "")
        except SettingError as error:
            told = ({}, str(error))
        written = json.dumps(told)
        # Of a config that JSON can't carry, such as one whose keys are numbers, nothing is said.
        if json.loads(written) == list(told):
            with os.fdopen(writing, "w", encoding="utf-8") as answer:
                answer.write(written)
    finally:
        os._exit(0)


def load(names: Sequence[str] = LOADED, *, until: int | None = None) -> None:
    """Import what a simulation needs, as a simulation does, or as much as it takes until there is something to read."""
    # Nothing of what is loaded is garbage; each search of it takes a tenth of a second.
    gc.disable()
    try:
        for name in names:
            if until is not None and select.select([until], [], [], 0)[0]:
                return
            _load(name)
    finally:
        gc.freeze()
        gc.enable()


def _load(name: str) -> None:
    """Import a module; torch without what it knows of tensors without values."""
    if name != "torch" or name in sys.modules:
        importlib.import_module(name)
        return
    sys.modules[VALUELESS] = ModuleType(VALUELESS)
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[VALUELESS]


def _is_somebody_elses(value: Any) -> bool:  # noqa: ANN401 - a config value
    """Whether a part of the config is neither FedHealth's nor Flower's, and may want all of torch."""
    if isinstance(value, dict):
        made = str(value.get(TARGET, "fedhealth")).partition(".")[0]
        return made not in ("fedhealth", "flwr") or any(map(_is_somebody_elses, value.values()))
    return isinstance(value, list) and any(map(_is_somebody_elses, value))
