"""The shelf: what a process keeps loaded, up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

V = TypeVar("V")


@dataclass(slots=True)
class Shelf(Generic[V]):
    """Values by key; where they take too many bytes, those used last go first.

    A simulation asks its hospitals in the same order again and again. Were the one used longest ago to go, as usual,
    each would be gone just before its turn; this way as many stay as there is room for.
    """

    _kept: OrderedDict[Hashable, tuple[V, int]] = field(default_factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)

    def get(self, key: Hashable, make: Callable[[], V], size_of: Callable[[V], int], *, most_bytes: int) -> V:
        """The value of a key, made anew where it is not kept. The one made last is kept whatever its size."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found[0]
        value = make()
        size = size_of(value)
        while self._kept and self._bytes + size > most_bytes:
            _, (_, gone) = self._kept.popitem(last=True)
            self._bytes -= gone
        self._kept[key] = value, size
        self._bytes += size
        return value

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._bytes = 0
