"""Terms: one way to write them, and everything in them is signed."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_round import roster_of

from fedhealth.core.errors import Refused, SettingError
from fedhealth.secagg.protocol.layout import Layout, Reals
from fedhealth.secagg.protocol.terms import Terms, agree, check_floor, unpack_terms

ROSTER = roster_of([f"site-{i}" for i in range(6)])
LAYOUT = Layout((Reals("model", 4, 1.0),), 100, 10)
TERMS = Terms("study", 3, ROSTER, 3, 1, LAYOUT, bytes(32))

#: One other value for each field, and the code with which a site refuses it.
OTHERS = {
    "study": ("another", "another_study"),
    "round": (4, "another_round"),
    "roster": ({**ROSTER, "site-5": roster_of(["other"])["other"]}, "roster_changed"),
    "min_cohort": (4, "another_threshold"),
    "colluders": (0, "another_threshold"),
    "layout": (dataclasses.replace(LAYOUT, weight_max=101), "another_layout"),
    "task": (bytes([1]) * 32, "another_task"),
    "losses_percent": (20, "another_threshold"),
}


def test_terms_survive_their_bytes():
    assert unpack_terms(TERMS.pack()) == TERMS
    assert unpack_terms(TERMS.pack()).digest() == TERMS.digest()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Terms)])
def test_no_field_can_change_unsigned(field):
    value, code = OTHERS[field]
    offered = dataclasses.replace(TERMS, **{field: value})
    assert offered.digest() != TERMS.digest()
    with pytest.raises(Refused) as refused:
        agree(TERMS, offered)
    assert refused.value.code == code


def test_terms_that_a_site_made_itself_are_agreed_to():
    offered = unpack_terms(TERMS.pack())
    agree(TERMS, offered)
    assert offered == TERMS


def test_the_order_in_which_a_roster_was_written_changes_nothing():
    turned = dataclasses.replace(TERMS, roster=dict(reversed(ROSTER.items())))
    assert turned.digest() == TERMS.digest()


@pytest.mark.parametrize(("sites", "colluders"), [(n, c) for n in (3, 4, 5, 8, 50, 100) for c in (0, 1, 2, 5)])
def test_a_threshold_is_the_least_with_which_two_quorums_share_an_honest_site(sites, colluders):
    t = dataclasses.replace(TERMS, colluders=colluders).threshold(sites)
    shared_at_least = 2 * t - sites  # two sets of t among n, by counting
    assert shared_at_least > colluders
    assert 2 * (t - 1) - sites <= colluders


@pytest.mark.parametrize(
    ("min_cohort", "colluders", "floor", "code"),
    [
        (2, 0, 0, "min_cohort_unsafe"),
        (3, 2, 0, "min_cohort_unsafe"),
        (4, 3, 0, "min_cohort_unsafe"),
        (4, 1, 5, "min_cohort_below_floor"),
    ],
)
def test_a_cohort_in_which_a_site_could_be_told_apart_is_refused(min_cohort, colluders, floor, code):
    with pytest.raises(Refused) as refused:
        check_floor(dataclasses.replace(TERMS, min_cohort=min_cohort, colluders=colluders), floor)
    assert refused.value.code == code


@pytest.mark.parametrize(("min_cohort", "colluders", "floor"), [(3, 0, 3), (3, 1, 0), (5, 3, 5)])
def test_a_cohort_at_its_floor_is_enough(min_cohort, colluders, floor):
    check_floor(dataclasses.replace(TERMS, min_cohort=min_cohort, colluders=colluders), floor)


@pytest.mark.parametrize(
    "wrong",
    [
        {"round": 0},
        {"task": bytes(31)},
        {"roster": {**ROSTER, "twin": ROSTER["site-0"]}},
        {"roster": {**ROSTER, "short": bytes(31)}},
        {"roster": {**ROSTER, "small": b"\1" + bytes(31)}},
        {"roster": {**ROSTER, "twice written": b"\xff" * 32}},
        {"roster": {**ROSTER, "no point": b"\2" + bytes(31)}},
        {"colluders": -1},
        {"losses_percent": 46},
        {"min_cohort": 7},
        {"min_cohort": 0},
    ],
    ids=str,
)
def test_terms_that_mean_nothing_are_not_made(wrong):
    with pytest.raises(SettingError):
        dataclasses.replace(TERMS, **wrong)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_terms_cut_short_are_refused(cut):
    with pytest.raises(Refused) as refused:
        unpack_terms(TERMS.pack()[:-cut])
    assert refused.value.code == "malformed"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(TERMS.pack()) - 1), st.integers(1, 255))
def test_terms_with_a_byte_changed_are_refused_or_are_others(place, change):
    data = bytearray(TERMS.pack())
    data[place] ^= change
    try:
        found = unpack_terms(bytes(data))
    except Refused as refused:
        outcome = refused.code
    else:
        outcome = "others" if found != TERMS and found.pack() == bytes(data) else "taken for the same"
    assert outcome in ("malformed", "others")


def test_bytes_after_the_end_are_refused():
    with pytest.raises(Refused) as refused:
        unpack_terms(TERMS.pack() + b"\0")
    assert refused.value.code == "malformed"
