"""Privacy: what is done to an update before it may be sealed.

A mechanism is a `@settings` class with one verb, `privatise(update, what) ->
PrivateUpdate`. `plain` does nothing, and says so by an event of infinite cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedhealth.core.update import PrivateUpdate, Update


class Mechanism(Protocol):
    """What every file of this room offers."""

    def privatise(self, update: Update, *, what: str) -> PrivateUpdate:
        """The update as it may be sealed, with the event it cost."""
        ...

    def statement(self) -> str:
        """What holds for a patient, in one sentence a report can print."""
        ...
