"""What letting something out has cost a patient's privacy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spend:
    """One privacy event: what was done. Accountants, elsewhere, say what it costs.

    Attributes:
        mechanism: the privacy part that let the update through.
        is_private: False says no guarantee at all: an event of infinite cost, recorded
            and not left out.
        what: what left, such as "train" or "query.moments".
    """

    mechanism: str
    is_private: bool
    what: str

    def __str__(self) -> str:
        return f"{self.mechanism} for {self.what}" + ("" if self.is_private else ": no bound, ε = ∞")
