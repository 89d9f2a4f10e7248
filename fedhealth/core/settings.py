"""Settings: frozen dataclasses read from YAML, refused in one line when they are wrong.

`@settings` makes the dataclass, `read` fills it. Types are checked by pydantic, which
Flower brings along; its report is cut to the first thing wrong, said as rule, found
value and remedy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from fedhealth.core.errors import SettingError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that refuses keys it does not know."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


def read(cls: type[T], found: Mapping[str, Any], *, where: str) -> T:
    """An instance of the settings class `cls`, from plain YAML or JSON values.

    Args:
        cls: a class made by `@settings`.
        found: the values by key.
        where: what a user would open to mend them, such as a file's path.

    Raises:
        SettingError: naming `where`, the key, the rule, the found value and the remedy.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(found))
    except ValidationError as error:
        raise SettingError(_first_fault(cls, error.errors()[0], where)) from None
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _first_fault(cls: type, fault: Mapping[str, Any], where: str) -> str:
    """One pydantic fault as: where, key, rule, found value, remedy."""
    path = [str(step) for step in fault["loc"]]
    key = ".".join(path) or cls.__name__
    kind, value = fault["type"], fault.get("input")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in fields(_class_at(cls, path[:-1]))]
        return f"{where}: `{key}` is not a key here, found {key}={_brief(value)}. {did_you_mean(path[-1], known)}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: `{key}` must be set, found nothing. Add it; see {_class_at(cls, path[:-1]).__name__}."
    if kind == "value_error":
        cause = fault.get("ctx", {}).get("error")
        inner = str(cause) if cause else fault["msg"]
        prefix = ".".join(path)
        return f"{where}: {prefix + ': ' if prefix else ''}{inner}"
    rule = fault["msg"].removeprefix("Input ").removeprefix("Value ")
    return f"{where}: `{key}` {rule}, found {_brief(value)}. Correct `{key}`."


def _class_at(cls: type, path: list[str]) -> type:
    """The settings class that holds the key at `path`."""
    for step in path:
        hint = get_type_hints(cls).get(step) if is_dataclass(cls) else None
        inside = [hint, *get_args(hint)]
        nested = next((h for h in inside if isinstance(h, type) and is_dataclass(h)), None)
        if nested is not None:
            cls = nested
    return cls


def _brief(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
