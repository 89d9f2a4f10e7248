"""Disclosure control: what must be withheld beside a small cell, so that totals don't give it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def withheld(sizes: Mapping[str, tuple[int, ...]], small: Iterable[str], *, floor: int) -> set[str]:
    """The rows of a table with a total that may not be shown, `small` among them.

    What is withheld is the total less what is shown. So at least two rows are withheld, and
    as many as it takes for each of their summed counts to reach the floor; the smallest of
    the others go first (complementary suppression: Cox 1980, doi:10.1080/01621459.1980.10477481).

    It stops a reader of the table. It does NOT stop a hospital that knows its own row from
    taking it off where only one other is withheld.

    Args:
        sizes: each row's counts, such as patients with and without the outcome.
        small: the rows that are withheld for their own sake.
        floor: the least count that may be shown.
    """
    hidden = sizes.keys() & set(small)
    while hidden and hidden != sizes.keys() and not _hide_each_other([sizes[name] for name in hidden], floor):
        hidden.add(min(sizes.keys() - hidden, key=lambda name: (min(sizes[name]), name)))
    return hidden


def _hide_each_other(hidden: list[tuple[int, ...]], floor: int) -> bool:
    return len(hidden) > 1 and all(sum(counts) >= floor for counts in zip(*hidden, strict=True))
