"""Privacy: what is done to an update before it may be sealed.

A mechanism is a `@settings` class with one verb, `privatise(update, what) ->
PrivateUpdate`. `plain` does nothing, and says so by an event of infinite cost; `dp_sgd` bounds
what a patient loses, at each hospital by itself, and `distributed` in the masked sum over hospitals, `release` in the one
sum behind synthetic patients; `central` leaves the noise to the coordinator, and bounds what the
models tell of a hospital.

What mechanisms are made of and judged by:

| file | what it holds |
|---|---|
| `patient_level` | what `dp_sgd` and `distributed` share: the budget, and noise on counts and scores |
| `noise`, `alias_table` | noise from a cryptographic source, added on a lattice |
| `sampling` | which patients take part in a step, by secret coins |
| `accountant`, `gaussian` | what events (`core.privacy_event`) cost together, and the noise for a target |
| `guarantee` | the only way to print an epsilon: with everything that it depends on |
| `ledger`, `ledger_head` | what a hospital's patients have spent over all studies, and its refusal past the cap |
| `audit` | attacks and measurements that a wrong mechanism fails |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedhealth.core.update import PrivateUpdate, Update


class Mechanism(Protocol):
    """What every file of this room offers."""

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The update as it may be sealed, with the event it cost; `stream` names its noise where a seed is to repeat it."""
        ...

    def statement(self) -> str:
        """What holds for a patient, in one sentence a report can print."""
        ...
