"""Disclosure control: what must be withheld beside a small cell, so that totals don't give it back."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def withheld(sizes: Mapping[str, tuple[int, ...]], own: Collection[str], *, floor: int) -> set[str]:
    """The rows of a table with a total that may not be shown, those of `own` among them.

    What is withheld is the total less what is shown. So others are withheld with it until
    beside each row of `own` there is in every count another that reaches the floor, and the
    rows withheld hold together so many that the row could be of any number below the floor
    (complementary suppression: Cox 1980, doi:10.1080/01621459.1980.10477481).

    The others come by name, those first that reach the floor. Were they the smallest, whoever
    knows so would know them smaller than every row that is shown, and by the total what they
    hide: often exactly. One that was not enough stays: shown, it would tell what it was too
    small beside.

    It stops a reader of the table who knows all this. It does NOT stop a hospital that takes
    its own row off.

    Args:
        sizes: each row's counts, such as patients with and without the outcome.
        own: the rows that are withheld for their own sake.
        floor: the least count that may be shown.
    """
    small = sizes.keys() & set(own)
    hidden = set(small)
    for name in sorted(sizes.keys() - small, key=lambda name: (min(sizes[name]) < floor, name)):
        if _hides_each(small, hidden, sizes, floor):
            break
        hidden.add(name)
    return hidden


def is_lone(counts: Collection[int], *, hospitals: int, floor: int) -> bool:
    """Whether a total is little more than one hospital's: too few hospitals in it, or few patients beside the largest.

    Args:
        counts: each hospital's patients in the total.
        hospitals: how many hospitals a total must be of.
        floor: how many patients the others than the largest must have.
    """
    found = [count for count in counts if count]
    return len(found) < hospitals or sum(found) - max(found, default=0) < floor


def _hides_each(small: set[str], hidden: set[str], sizes: Mapping[str, tuple[int, ...]], floor: int) -> bool:
    """Whether beside each of `small`, all of them among `hidden`, the others that are hidden hide it in every count."""
    names = sorted(hidden)
    for place in range(len(sizes[names[0]]) if small else 0):
        # Of ten thousand hospitals thousands are small: what is beside each follows from the sum and the two largest.
        counts = [sizes[name][place] for name in names]
        whole, (first, second) = sum(counts), nlargest(2, [*counts, 0])
        most_beside = second if any(sizes[name][place] == first for name in small) else first
        # The least total that both floor - 1 in a row and the floor in another add up to.
        if most_beside < floor or whole < 2 * floor - 1:
            return False
    return True
