"""A lattice: how finely numbers are held on which several hospitals each add a share of one noise."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sharing:
    """Among whom one noise is shared.

    Attributes:
        sites: how many hospitals may be in a sum at most.
        min_cohort: and how many at least.
        colluders: how many of those in it may leave their share out, or tell it.
    """

    sites: int
    min_cohort: int
    colluders: int

    @property
    def cohorts(self) -> tuple[int, ...]:
        """The sizes of a sum whose noise is exactly what was promised, from the largest on.

        All; all but a quarter of those that may be lost; and the fewest. A sum between two of them carries the
        noise of the smaller. Each size more would be one more draw for every number.
        """
        most = max(self.sites, self.min_cohort)
        lost = most - self.min_cohort
        return tuple(dict.fromkeys((most, most - -(-lost // 4), self.min_cohort)))

    def honest(self, in_sum: int) -> int:
        """How many shares of the noise nobody else knows in the sum of so many hospitals, at least."""
        return in_sum - self.colluders

    def share(self, in_sum: int) -> float:
        """What stays of one share in a sum of so many hospitals: its standard deviation over that of the whole."""
        enough = max((size for size in self.cohorts if size <= in_sum), default=self.min_cohort)
        return 1 / math.sqrt(self.honest(enough))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a hospital's share: an integer drawn for every number.

    Attributes:
        stretch: its standard deviation is 1,024 √(1 + stretch²) steps (`privacy.noise.stretched`).
        spare_from: where so many hospitals are in the sum, it holds enough noise without this part of them,
            and they take it off again; None for what always stays.
    """

    stretch: int
    spare_from: int | None = None


@dataclass(frozen=True, slots=True)
class Lattice:
    """What a hospital and the coordinator must agree on of shared noise.

    Attributes:
        levels: steps of the lattice a unit.
        margin: the largest magnitude of one hospital's noise, in steps.
        parts: of which that noise is the sum.
    """

    levels: float
    margin: int
    parts: tuple[Part, ...]

    @property
    def spare_from(self) -> tuple[int, ...]:
        """Of each part that may be taken off, from how many hospitals on."""
        return tuple(part.spare_from for part in self.parts if part.spare_from is not None)
