"""Who shares masks and secrets with whom: everyone with everyone, or, in large cohorts, a ring of neighbours.

Up to 100 sites the graph is complete. Above, sites stand in a circle in an order drawn by
hash, and each works with the `degree` nearest (Bell et al. 2020, doi 10.1145/3372297.3417885,
with the conditions below). Nobody chooses degree and threshold; `plan` does:

* Nothing leaks, whatever the coordinator and T sites do. A secret has threshold
  t = degree/2 + T + 1, so T sites can't open it. Every survivor must keep t neighbours,
  which every site checks before it confirms, so an honest survivor keeps more than
  degree/2 honest ones. Were there a gap of degree/2 places after one of them on the
  circle of honest survivors, its neighbours would all be on its other side, and those
  are degree/2. So each shares a mask with the next, and no honest part of the sum can be
  taken apart from the rest. This holds for every order of the circle and every choice of
  colluders, so nobody gains by trying many.
* A round fails by bad luck with a chance below 2^-20. A site's neighbours are a random set of
  the others, so how many of them are lost is hypergeometric; the tail is summed in whole
  numbers, and multiplied by the number of sites.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import TYPE_CHECKING

from fedhealth.secagg.protocol.wire import number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

COMPLETE_UP_TO = 100
#: A round of this many is lost to an unlucky circle.
ONE_IN = 2**20


@dataclass(frozen=True, slots=True)
class Graph:
    """Who works with whom in one cohort.

    Attributes:
        neighbours: by place, without itself; symmetric.
        threshold: the shares that open a secret.
        is_complete: everyone works with everyone.
    """

    neighbours: dict[int, frozenset[int]]
    threshold: int
    is_complete: bool

    def holders(self, site: int) -> frozenset[int]:
        """Who holds a share of the site's secrets: its neighbours and itself."""
        return self.neighbours[site] | {site}

    def holds(self, alive: AbstractSet[int]) -> bool:
        """Whether, of these sites alone, every one still has enough to work with."""
        if self.is_complete:
            return len(alive) >= self.threshold
        return all(len(self.neighbours[site] & alive) >= self.threshold for site in alive)


def graph_of(sites: tuple[int, ...], colluders: int, losses_percent: int, cohort: bytes) -> Graph:
    """The graph of a cohort: the same for everyone who has the same cohort digest.

    Args:
        sites: places in the roster.
        colluders: T of the terms.
        losses_percent: of the terms.
        cohort: the cohort's digest.
    """
    n = len(sites)
    degree, threshold = plan(n, colluders, losses_percent)
    if degree == n - 1:
        everyone = frozenset(sites)
        return Graph({site: everyone - {site} for site in sites}, threshold, is_complete=True)
    circle = sorted(sites, key=lambda site: hashlib.sha256(b"circle" + cohort + number(site, 2)).digest())
    return ring(circle, degree, threshold)


def ring(circle: Sequence[int], degree: int, threshold: int) -> Graph:
    """The graph in which each place on the circle works with the `degree` nearest, an even number."""
    steps = [step for step in range(-degree // 2, degree // 2 + 1) if step]
    n = len(circle)
    neighbours = {site: frozenset(circle[(at + step) % n] for step in steps) for at, site in enumerate(circle)}
    return Graph(neighbours, threshold, is_complete=False)


@cache
def plan(n: int, colluders: int, losses_percent: int) -> tuple[int, int]:
    """Degree and threshold for a cohort of `n`: the smallest even degree that will do, or n - 1."""
    complete = n - 1, (n + colluders) // 2 + 1
    if n <= COMPLETE_UP_TO:
        return complete
    lost = n * losses_percent // 100
    for degree in range(2 * colluders + 2, n - 1, 2):
        threshold = degree // 2 + colluders + 1
        if n * ONE_IN * _unlucky(n - 1, lost, degree, degree - threshold) <= comb(n - 1, degree):
            return degree, threshold
    return complete


def _unlucky(others: int, lost: int, degree: int, spare: int) -> int:
    """In how many sets of `degree` of the `others`, `lost` of them gone, more than `spare` are gone."""
    left = others - lost
    first = max(spare + 1, degree - left)
    sets, total = comb(lost, first) * comb(left, degree - first), 0
    for gone in range(first, min(lost, degree) + 1):
        total += sets
        # The next product of the two binomials from this one: dozens of times faster, and as exact.
        sets = sets * (lost - gone) * (degree - gone) // ((gone + 1) * (left - degree + gone + 1))
    return total
