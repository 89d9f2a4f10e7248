"""The shelf: what stays loaded where there is not room for all."""

from __future__ import annotations

from fedhealth.site.shelf import Shelf


def rounds(shelf, keys, most_bytes):
    """The keys made in a round of asking for each, every value of 10 bytes."""
    made = []
    for key in keys:
        shelf.get(key, lambda key=key: made.append(key) or key, lambda _: 10, most_bytes=most_bytes)
    return made


def test_what_fits_is_made_once():
    shelf = Shelf()
    assert rounds(shelf, "abc", 30) == ["a", "b", "c"]
    assert rounds(shelf, "abc", 30) == []


def test_asked_in_turns_as_many_stay_as_there_is_room_for():
    shelf = Shelf()
    rounds(shelf, "abcdef", 40)
    # Were the one used longest ago to go, all six would be made again.
    made = [len(rounds(shelf, "abcdef", 40)) for _ in range(10)]
    assert all(2 <= each <= 3 for each in made)


def test_one_that_fits_nowhere_is_given_all_the_same_and_kept_until_the_next():
    shelf = Shelf()
    assert rounds(shelf, "aa", 5) == ["a"]
    assert rounds(shelf, "ba", 5) == ["b", "a"]


def test_a_cleared_shelf_makes_anew():
    shelf = Shelf()
    rounds(shelf, "a", 30)
    shelf.clear()
    assert rounds(shelf, "a", 30) == ["a"]
