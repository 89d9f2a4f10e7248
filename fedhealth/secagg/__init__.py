"""Secure aggregation: what the coordinator sees of a hospital's update.

A protocol part is a `@settings` class with one verb, `seal(private) -> SealedUpdate`.
`plain` shows each hospital's update to the coordinator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedhealth.core.update import PrivateUpdate, SealedUpdate


class Sealing(Protocol):
    """What every file of this room offers."""

    @property
    def is_masked(self) -> bool:
        """Whether the coordinator sees a sum only."""
        ...

    def seal(self, private: PrivateUpdate) -> SealedUpdate:
        """The update as the coordinator may see it."""
        ...

    def statement(self) -> str:
        """What the coordinator sees, in one sentence a report can print."""
        ...
