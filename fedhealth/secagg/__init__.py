"""Secure aggregation: what the coordinator sees of a hospital's update.

A part is a `@settings` class with one verb, `seal`, which alone makes a `SealedUpdate`:
`plain` of an update itself, `masked` of the messages of a protocol (`protocol/`) whose one
outcome is a sum. `content/` says how an update lies in the summed vector.
"""

from __future__ import annotations

from typing import Protocol


class Sealing(Protocol):
    """What every file of this room offers."""

    @property
    def is_masked(self) -> bool:
        """Whether the coordinator sees a sum only."""
        ...

    def statement(self) -> str:
        """What the coordinator sees, in one sentence a report can print."""
        ...
