"""Settings: frozen dataclasses read from YAML, refused in one line when they are wrong.

`@settings` makes the dataclass, `read` fills it. A field's metadata may hold an "example" of
what to write, for whoever left it out. Types are checked by pydantic, which
Flower brings along; its report is cut to the first thing wrong, said as rule, found
value and remedy.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from fedhealth.core.errors import SettingError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import TypeAdapter

T = TypeVar("T")


#: What no word of a setting holds: control characters but for tabs and line ends, and halves of characters.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

#: What a required value may look like, by type, where the field's metadata have no "example".
EXAMPLES = {str: "<words>", int: "<whole number>", float: "<number>", bool: "<true or false>", dict: "{<key>: …}"}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
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
    from pydantic import ValidationError

    check_words(found, where=where)
    try:
        return _adapter(cls).validate_python(dict(found))  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        raise SettingError(_first_fault(cls, error.errors()[0], where)) from None
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Pydantic's reader of a class: made once, since making it takes milliseconds and using it microseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def check_words(found: Mapping[str, Any], *, where: str) -> None:
    """Refuse a control character in any key or value: a log, a page or a terminal would take it for an order.

    Raises:
        SettingError: naming the key it stands in or under.
    """
    seen: set[int] = set()
    waiting: list[tuple[tuple[object, ...], Any]] = [((), found)]
    while waiting:
        steps, value = waiting.pop()
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if any(isinstance(word, str) and CONTROL.search(word) for word in (key, part)):
                place = ".".join(map(str, (*steps, key)))
                raise SettingError(
                    f"{where}: words must be free of control characters, found one in {place!r}. Retype them."
                )
            if isinstance(part, dict | list | tuple) and id(part) not in seen:
                seen.add(id(part))  # YAML can make a list that holds itself
                waiting.append(((*steps, key), part))


def _first_fault(cls: type, fault: Mapping[str, Any], where: str) -> str:
    """One pydantic fault as: where, key, rule, found value, remedy."""
    path = [str(step) for step in fault["loc"]]
    key = ".".join(path) or cls.__name__
    kind, value = fault["type"], fault.get("input")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in fields(_class_at(cls, path[:-1]))]
        return f"{where}: `{key}` is not a key here, found {key}={_brief(value)}. {did_you_mean(path[-1], known)}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: `{key}` must be set, found nothing. Write {_example(cls, path)}."
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


def _example(cls: type, path: list[str]) -> str:
    """How the key at `path` may be written in YAML, with the required keys beside it where it is in a block."""
    inside = _class_at(cls, path[:-1])
    if len(path) > 1 and not path[-2].isdecimal():
        return f"{path[-2]}: {_block(inside)}"
    return next(f"{found.name}: {_value(inside, found)}" for found in fields(inside) if found.name == path[-1])


def _block(cls: type) -> str:
    needed = [found for found in fields(cls) if found.default is MISSING and found.default_factory is MISSING]
    return "{" + ", ".join(f"{found.name}: {_value(cls, found)}" for found in needed) + "}"


def _value(cls: type, found: Field[Any]) -> str:
    return str(found.metadata["example"]) if "example" in found.metadata else _of_type(get_type_hints(cls)[found.name])


def _of_type(hint: Any) -> str:  # noqa: ANN401 - a type hint
    if isinstance(hint, type) and is_dataclass(hint):
        return _block(hint)
    if get_origin(hint) is tuple:
        return f"[{_of_type(get_args(hint)[0])}]"
    return EXAMPLES.get(get_origin(hint) or hint, "…")


def _brief(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
