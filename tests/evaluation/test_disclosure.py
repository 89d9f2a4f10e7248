"""What is withheld beside a small cell, by properties and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.evaluation.disclosure import withheld


@pytest.mark.parametrize(
    ("small", "hidden"),
    [
        ([], set()),
        (["d"], {"a", "d"}),  # a is the smallest of the others
        (["a"], {"a", "b", "c"}),  # 4 + 5 events are still fewer than 10
        (["c", "d"], {"c", "d"}),
        (["a", "b", "c", "d"], {"a", "b", "c", "d"}),
    ],
)
def test_the_smallest_others_are_withheld_until_the_gap_is_large(small, hidden):
    sizes = {"a": (4, 50), "b": (5, 60), "c": (20, 70), "d": (30, 80)}
    assert withheld(sizes, small, floor=10) == hidden


tables = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=10
)


@given(tables, st.integers(1, 20), st.data())
def test_the_total_less_what_is_shown_is_never_one_row_nor_a_few_patients(sizes, floor, data):
    small = data.draw(st.sets(st.sampled_from(sorted(sizes)))) if sizes else set()
    hidden = withheld(sizes, small, floor=floor)
    assert small <= hidden <= sizes.keys()
    assert bool(hidden) == bool(small)
    if hidden and hidden != sizes.keys():
        assert len(hidden) >= 2
        assert min(sum(sizes[name][k] for name in hidden) for k in (0, 1)) >= floor


@given(tables, st.integers(1, 20))
def test_the_order_of_the_rows_changes_nothing(sizes, floor):
    small = [name for name, counts in sizes.items() if min(counts) < floor]
    turned = dict(reversed(sizes.items()))
    assert withheld(sizes, small, floor=floor) == withheld(turned, reversed(small), floor=floor)
