"""YAML as plain values, read and written in C: libyaml is five to ten times as fast as Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How deep values may be in one another. A reader in C ends the process where a text nests past its stack.
DEEPEST = 100


def values_in(text: str) -> Any:  # noqa: ANN401 - whatever the text says
    """The values in a YAML text.

    Raises:
        yaml.YAMLError: it is none.
        ValueError: a value is what it can't be, such as a date that does not exist.
        RecursionError: values are more than `DEEPEST` deep in one another.
    """
    import yaml

    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    deep = 0
    for event in yaml.parse(text, Loader=safe):
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if deep > DEEPEST:
            raise RecursionError(f"values must be at most {DEEPEST} deep in one another, found more. Flatten them.")
    loader = safe(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def text_of(values: Mapping[str, Any]) -> str:
    """The values as YAML, in their order."""
    import yaml

    safe = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(dict(values), Dumper=safe, sort_keys=False))
