"""What is withheld beside a small cell, by properties and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.evaluation.disclosure import is_lone, withheld


@pytest.mark.parametrize(
    ("own", "hidden"),
    [
        ([], set()),
        (["d"], {"c", "d"}),  # beside d are 4, then 4 + 5, then 4 + 5 + 20 events, of which 20 are enough
        (["a"], {"a", "c"}),  # beside a are 5, then 5 + 20
        (["b", "d"], {"b", "c", "d"}),  # beside d are 5, then 5 + 4, then 5 + 4 + 20
        (["c", "d"], {"c", "d"}),  # beside c are 30, beside d 20
        (["a", "b", "c", "d"], {"a", "b", "c", "d"}),
    ],
)
def test_the_smallest_others_that_are_needed_are_withheld_until_the_rest_is_not_few(own, hidden):
    sizes = {"a": (4, 50), "b": (5, 60), "c": (20, 70), "d": (30, 80)}
    assert withheld(sizes, own, floor=10) == hidden


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
            assert min(sum(sizes[name][k] for name in hidden if name != row) for k in (0, 1)) >= floor


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
