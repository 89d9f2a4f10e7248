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


#: What a setting with that annotation may be, and its name.
PLAIN: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "words"),
}


def build(spec: Mapping[str, Any], *, where: str, room: str | None = None, does: str = "") -> Any:  # noqa: ANN401 - any class
    """The object that `spec` names and sets.

    Args:
        spec: `_target_` and the part's settings.
        where: the config group, for messages.
        room: the package the part must come from; None allows any, for what a researcher
            runs on their own machine.
        does: the method that such a part is there for.

    Raises:
        Refused: the part comes from outside `room`.
        SettingError: no such part, one that is for something else, or a setting it does not take.
    """
    made = _made(spec, where, room)
    if does and not callable(getattr(made, does, None)):
        raise SettingError(
            f"{where}.{TARGET} must name a part with a method `{does}`, found {spec[TARGET]!r}. "
            f"See configs/{where} for some."
        )
    return made


def _made(spec: Mapping[str, Any], where: str, room: str | None) -> Any:  # noqa: ANN401 - any class
    settings = {key: _inner(value, f"{where}.{key}", room) for key, value in spec.items() if key != TARGET}
    part = _find(str(spec.get(TARGET, "")), where, room)
    if is_dataclass(part) and isinstance(part, type):
        return read(part, settings, where=where)
    known = _parameters(part)
    takes_any = not known or any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for key, value in settings.items():
        if key in known:
            _check_type(f"{where}.{key}", value, known[key].annotation)
        elif not takes_any:
            raise SettingError(f"{where}: `{key}` is not a setting of {spec[TARGET]}, found {key}={value!r}. "
                               f"{did_you_mean(key, known)}")  # fmt: skip
    try:
        return part(**settings)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"{where}: {spec[TARGET]} must accept its settings, found {settings}. It says: {error}."
        ) from error


def _parameters(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a part takes, by name; empty where it takes nothing or does not say."""
    try:
        return inspect.signature(part, eval_str=True).parameters
    except NameError:  # annotations that name what was imported for a type checker only
        return inspect.signature(part).parameters
    except (TypeError, ValueError):
        return {}


def _check_type(key: str, value: object, annotation: object) -> None:
    """Refuse a value of another type than a plain annotation says, which nobody else would check."""
    for plain, (types, words) in PLAIN.items():
        is_wrong = not isinstance(value, types) or (isinstance(value, bool) and plain is not bool)
        if annotation is plain and value is not None and is_wrong:
            raise SettingError(f"`{key}` must be {words}, found {value!r}. Correct it.")


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
