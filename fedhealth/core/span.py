"""A span: what some neighbouring numbers of a summed vector can be, which a masked sum must know beforehand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers of one kind that stand side by side.

    Attributes:
        name: what they are; of its own within a vector.
        size: how many.
        each: the largest magnitude that one patient can add to any of them.
        power: of the number of patients that the whole grows with: 1 for a plain sum, 2 for pairs.
        is_whole: counts, whole and from 0; else real numbers of either sign.
    """

    name: str
    size: int
    each: float = 1.0
    power: int = 1
    is_whole: bool = False

    def most(self, patients: int) -> float:
        """The largest magnitude of one hospital's number, where it has at most so many patients."""
        return float(self.each * patients**self.power)
