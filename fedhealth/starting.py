"""The start of a simulation: one process composes its config while another loads torch and Flower.

Both take longer than eight hospitals' training. Where torch is loaded already, or a process can't be forked, a config
is composed as anywhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import inspect
import os
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedhealth.compose import composed, resolved
from fedhealth.core.aside import Aside
from fedhealth.core.errors import SettingError
from fedhealth.core.parts import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: What brings native code, but for torch: none can be loaded while the system links another.
NATIVE = (
    *("asyncio", "decimal", "hashlib", "mmap", "queue", "unicodedata", "uuid", "numpy.random", "pydantic"),
    *("google.protobuf.descriptor", "grpc", "cryptography.hazmat.bindings._rust"),
)

#: What is Python's alone, and beside which torch is linked.
PYTHON = ("rich.progress", "flwr.app", "flwr.server")

#: What a simulation loads. Torch, the slowest, comes last but one: by then a wrong word is known.
LOADED = (*NATIVE, *PYTHON, "torch", "fedhealth.simulate")

#: What torch knows of tensors without values ("meta"), a quarter of its import. Nothing here makes any; whatever comes to
#: do so, or uses torch.export, imports this first.
VALUELESS = "torch._meta_registrations"


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The config of these overrides as plain values; all that a simulation needs is loaded meanwhile.

    Raises:
        SettingError: as `composed` and `resolved`.
    """
    if "torch" in sys.modules:
        return resolved(composed(overrides))
    # Torch's libraries are linked beside Flower's Python, and the config is composed beside torch's: two processors have
    # no room for a third.
    load((*NATIVE, *PYTHON))
    with Aside(partial(_told, overrides)) as other:
        load(until=other.is_ready)
        config, refusal = other.result()
    if refusal:
        raise SettingError(refusal)
    load_for(config)
    return config


def load_for(config: Mapping[str, Any]) -> None:
    """Import what a simulation of this config needs."""
    load()
    if _is_somebody_elses(config):
        importlib.import_module(VALUELESS)


def _told(overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The config, or what is wrong with it."""
    try:
        return resolved(composed(overrides)), ""
    except SettingError as error:
        return {}, str(error)


def load(names: Sequence[str] = LOADED, *, until: Callable[[], bool] | None = None) -> None:
    """Import what a simulation needs, as a simulation does, or as much as it takes until `until` holds."""
    if sys.modules.keys() >= set(names):
        return
    # Nothing of what is loaded is garbage; each search of it takes a tenth of a second.
    gc.disable()
    try:
        with contextlib.ExitStack() as stack:
            for name in names:
                if until is not None and until():
                    return
                if name == PYTHON[0]:
                    stack.enter_context(_torch_linked())
                _load(name)
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _torch_linked() -> Iterator[None]:
    """Have the system link torch's libraries, a third of torch's import, while Flower's Python is loaded."""
    thread = threading.Thread(target=_link, name="link torch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _link() -> None:
    """Link them as torch's own import does; where that fails, it does and says why."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or not sys.platform.startswith("linux"):
        return
    # By the system's own function: Python's keeps every other thread waiting. Of torch's libraries these know nothing of
    # Python, whose lock this thread does not hold meanwhile.
    ctypes.CDLL(None).dlopen(os.fsencode(Path(torch.origin).parent / "lib" / "libtorch.so"), os.RTLD_NOW)


def _load(name: str) -> None:
    """Import a module; torch without what it knows of tensors without values, nor of where its operators were written."""
    if name != "torch" or name in sys.modules:
        importlib.import_module(name)
        return
    sys.modules[VALUELESS] = ModuleType(VALUELESS)
    # Torch notes where some operators were written. To tell a file's module Python asks the disk for every loaded one's,
    # a tenth of torch's import; None is its word for one that it can't tell.
    found, inspect.getmodule = inspect.getmodule, lambda *_: None
    try:
        importlib.import_module(name)
    finally:
        inspect.getmodule = found
        del sys.modules[VALUELESS]


def _is_somebody_elses(value: Any) -> bool:  # noqa: ANN401 - a config value
    """Whether a part of the config is neither FedHealth's nor Flower's, and may want all of torch."""
    if isinstance(value, dict):
        made = str(value.get(TARGET, "fedhealth")).partition(".")[0]
        return made not in ("fedhealth", "flwr") or any(map(_is_somebody_elses, value.values()))
    return isinstance(value, list) and any(map(_is_somebody_elses, value))
