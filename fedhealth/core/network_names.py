"""The names of a network's weights, by what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class NetworkNames:
    """The names of a network's weights.

    Attributes:
        all: in the network's order, running statistics included.
        trained: those that have a gradient.
        normalisation: of normalising layers, running statistics included.
        head: of the last layer that has parameters.
        is_linear: whether there is one layer and nothing else.
    """

    all: tuple[str, ...]
    trained: tuple[str, ...]
    normalisation: frozenset[str]
    head: frozenset[str]
    is_linear: bool

    def matching(self, patterns: Iterable[str]) -> frozenset[str]:
        """The names that any of the shell patterns matches, such as `0.*`.

        Raises:
            SettingError: a pattern matches none.
        """
        found: set[str] = set()
        for pattern in patterns:
            matched = {name for name in self.all if fnmatchcase(name, pattern)}
            if not matched:
                raise SettingError(
                    f"a pattern must match a weight of the model, found {pattern!r}. Known: {', '.join(self.all)}."
                )
            found |= matched
        return frozenset(found)

    def trainable(self, patterns: Iterable[str]) -> frozenset[str]:
        """The names that any of the patterns matches, some of which are trained.

        Raises:
            SettingError: a pattern matches none, or no match is trained.
        """
        found = self.matching(patterns)
        if not found & set(self.trained):
            raise SettingError(
                f"a pattern must match a weight that is trained, found {', '.join(sorted(found))}. "
                f"Trained: {', '.join(self.trained)}."
            )
        return found
