"""A lattice: how finely numbers are held on which several hospitals each add a share of one noise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lattice:
    """What a hospital and the coordinator must agree on of shared noise.

    Attributes:
        levels: steps of the lattice a unit.
        margin: the largest magnitude of one hospital's noise, in steps.
    """

    levels: float
    margin: int
