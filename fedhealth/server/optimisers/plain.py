"""No server optimiser: the strategy's model is the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from fedhealth.core.pull import Arrays


@settings
class Plain:
    """The strategy's own model."""

    def step(self, old: Arrays, new: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """The same model."""
        del old
        return new, memory
