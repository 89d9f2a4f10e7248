"""Disclosure control: what must be withheld beside a small cell, so that totals don't give it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def withheld(sizes: Mapping[str, tuple[int, ...]], own: Collection[str], *, floor: int) -> set[str]:
    """The rows of a table with a total that may not be shown, those of `own` among them.

    What is withheld is the total less what is shown. So others are withheld with it, the
    smallest first and none that is not needed in the end, until for each row of `own` the
    rest of what is withheld reaches the floor in every count: then neither that row nor a
    few patients are what is left (complementary suppression: Cox 1980, doi:10.1080/01621459.1980.10477481).

    It stops a reader of the table, who must not be told which row went for its own sake.
    It does NOT stop a hospital that takes its own row off.

    Args:
        sizes: each row's counts, such as patients with and without the outcome.
        own: the rows that are withheld for their own sake.
        floor: the least count that may be shown.
    """
    small = sizes.keys() & set(own)
    hidden = set(small)
    while hidden and hidden != sizes.keys() and not _hides_each(small, hidden, sizes, floor):
        hidden.add(min(sizes.keys() - hidden, key=lambda name: (min(sizes[name]), name)))
    # What a larger row came to hide alone needs no smaller one beside it.
    for name in sorted(hidden - small, key=lambda name: (min(sizes[name]), name)):
        if _hides_each(small, hidden - {name}, sizes, floor):
            hidden.remove(name)
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
    totals = [sum(counts) for counts in zip(*(sizes[name] for name in hidden), strict=True)]
    return len(hidden) > 1 and all(
        total - count >= floor for name in small for total, count in zip(totals, sizes[name], strict=True)
    )
