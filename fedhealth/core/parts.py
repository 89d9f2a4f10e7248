"""Parts: objects named by `_target_` in a config, built without a framework.

The study travels to hospitals, so a `_target_` in it is somebody else's word for what to
run. `build` therefore takes the rooms a part may come from, and a hospital never passes
more than the installed package's own.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import Refused, SettingError, did_you_mean
from fedhealth.core.settings import read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TARGET = "_target_"


def build(spec: Mapping[str, Any], *, where: str, room: str | None = None) -> Any:  # noqa: ANN401 - any class
    """The object that `spec` names and sets.

    Args:
        spec: `_target_` and the part's settings.
        where: the config group, for messages.
        room: the package the part must come from; None allows any, for what a researcher
            runs on their own machine.

    Raises:
        Refused: the part comes from outside `room`.
        SettingError: no such part, or a setting it does not take.
    """
    settings = {key: _inner(value, f"{where}.{key}", room) for key, value in spec.items() if key != TARGET}
    part = _find(str(spec.get(TARGET, "")), where, room)
    if is_dataclass(part) and isinstance(part, type):
        return read(part, settings, where=where)
    try:
        known = inspect.signature(part).parameters
    except (TypeError, ValueError):
        known = None
    if known is not None and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in settings.keys() - known.keys():
            raise SettingError(f"{where}: `{key}` is not a setting of {spec[TARGET]}, found {key}={settings[key]!r}. "
                               f"{did_you_mean(key, known)}")  # fmt: skip
    try:
        return part(**settings)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"{where}: {spec[TARGET]} must accept its settings, found {settings}. It says: {error}."
        ) from error


def _inner(value: Any, where: str, room: str | None) -> Any:  # noqa: ANN401 - a config value
    return build(value, where=where, room=room) if isinstance(value, dict) and TARGET in value else value


def _find(target: str, where: str, room: str | None) -> Callable[..., Any]:
    module_name, _, name = target.rpartition(".")
    if room is not None and not (module_name == room or module_name.startswith(room + ".")):
        raise Refused(
            "part_not_allowed",
            rule=f"{where} must name a part of {room}",
            found=repr(target),
            remedy="Install the part in the package; a hospital runs nothing else.",
        )
    try:
        part = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"{where}.{TARGET} must name an importable part, found {target!r}. {error}.") from error
    if not callable(part):
        raise SettingError(f"{where}.{TARGET} must name a class, found {target!r}. Name a class in that module.")
    return part  # type: ignore[no-any-return]
