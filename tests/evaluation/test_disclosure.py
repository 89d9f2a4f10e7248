"""What is withheld beside a small cell, by properties and by hand."""

from collections import defaultdict
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.evaluation.disclosure import is_lone, withheld


@pytest.mark.parametrize(
    ("own", "hidden"),
    [
        ([], set()),
        (["d"], {"c", "d"}),  # a and b do not reach the floor
        (["a"], {"a", "c"}),  # not d, which also would do
        (["b", "d"], {"b", "c", "d"}),  # beside d are 5, then 5 and 20
        (["c", "d"], {"c", "d"}),  # beside c are 30, beside d 20
        (["a", "b", "c", "d"], {"a", "b", "c", "d"}),
    ],
)
def test_others_that_reach_the_floor_are_withheld_by_name_until_one_is_beside_each(own, hidden):
    sizes = {"a": (4, 50), "b": (5, 60), "c": (20, 70), "d": (30, 80)}
    assert withheld(sizes, own, floor=10) == hidden


def test_where_nine_could_not_be_what_is_withheld_another_row_is_withheld_too():
    # Of 16 together, 10 or more beside it, the first could be 6 at most; of 19 it could be any below 10.
    assert withheld({"a": (4,), "b": (12,), "c": (40,), "d": (50,)}, ["a"], floor=10) == {"a", "b", "c"}
    assert withheld({"a": (4,), "b": (15,), "c": (40,), "d": (50,)}, ["a"], floor=10) == {"a", "b"}


@pytest.mark.parametrize("private", ["", "a", "d"])
def test_a_reader_who_tries_every_table_finds_no_count_that_is_withheld(private):
    floor, most, rows = 2, 8, "abcd"
    tables = defaultdict(list)
    for counts in product(range(most + 1), repeat=4):
        sizes = {name: (count,) for name, count in zip(rows, counts, strict=True)}
        own = [name for name in rows if name == private or sizes[name] < (floor,)]
        hidden = withheld(sizes, own, floor=floor)
        seen = tuple(None if name in hidden else count for name, count in zip(rows, counts, strict=True))
        if any(count is not None for count in seen):
            tables[sum(counts), seen].append(counts)
    for (total, seen), each in tables.items():
        # Where more than `most` is withheld, larger counts than were tried may lie behind it.
        if total - sum(count or 0 for count in seen) <= most:
            for place in (place for place, count in enumerate(seen) if count is None):
                assert len({counts[place] for counts in each}) >= floor, (total, seen)


tables = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=10
)


@given(tables, st.integers(1, 20), st.data())
def test_what_is_withheld_beside_a_row_is_never_nobody_nor_a_few_patients(sizes, floor, data):
    own = data.draw(st.sets(st.sampled_from(sorted(sizes)))) if sizes else set()
    hidden = withheld(sizes, own, floor=floor)
    assert own <= hidden <= sizes.keys()
    assert bool(hidden) == bool(own)
    if hidden and hidden != sizes.keys():
        for row in own:
            assert min(max(sizes[name][k] for name in hidden if name != row) for k in (0, 1)) >= floor
            assert min(sum(sizes[name][k] for name in hidden) for k in (0, 1)) >= 2 * floor - 1


@given(tables, st.integers(1, 20))
def test_the_order_of_the_rows_changes_nothing(sizes, floor):
    small = [name for name, counts in sizes.items() if min(counts) < floor]
    turned = dict(reversed(sizes.items()))
    assert withheld(sizes, small, floor=floor) == withheld(turned, reversed(small), floor=floor)


@pytest.mark.parametrize(
    ("counts", "lone"),
    [
        ([100, 80, 60], False),
        ([100, 80, 0], True),  # two hospitals, each of which finds the other's
        ([400, 5, 4], True),  # nearly all of it is one hospital's
        ([400, 5, 5], False),
        ([], True),
    ],
)
def test_a_total_is_of_several_hospitals_with_patients_of_their_own(counts, lone):
    assert is_lone(counts, hospitals=3, floor=10) == lone
