"""The codec, held to whole numbers, to fractions and to the law of large numbers."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.core.errors import IntegrityError, Refused, SettingError
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.secagg.protocol.layout import MOST_LEVELS, Counts, Layout, Reals, layout_from
from fedhealth.secagg.protocol.wire import Reader

KEY = bytes(range(32))
PLAIN = Layout((Reals("model", 3, 2.0), Counts("cells", 2, 500), Reals("loss", 1, 10.0)), 500, 4)


def values(model=(0.5, -1.0, 2.0), cells=(7, 0), loss=(0.25,)):
    return {
        "model": np.array(model, dtype=np.float32),
        "cells": np.array(cells, dtype=np.int64),
        "loss": np.array(loss, dtype=np.float64),
    }


def add(vectors):
    total = vectors[0].copy()
    for vector in vectors[1:]:
        np.add(total, vector, out=total)
    return total


def test_word_0_is_the_weight_and_counts_are_summed_exactly():
    total = decode(PLAIN, add([encode(PLAIN, 3, values(), KEY), encode(PLAIN, 500, values(cells=(493, 500)), KEY)]), 2)
    assert total.weight == 503
    assert total.sums["cells"].tolist() == [500, 500]


def test_a_weighted_mean_is_that_of_the_pooled_patients():
    sites = [(3, (0.5, -1.0, 2.0)), (500, (1.0, 1.0, -2.0))]
    words = add([encode(PLAIN, weight, values(model), bytes([weight % 256]) * 32) for weight, model in sites])
    total = decode(PLAIN, words, 2)
    pooled = np.concatenate([np.tile(model, (weight, 1)) for weight, model in sites]).mean(axis=0)
    allowed = 2 / (PLAIN.scale(PLAIN.slots[0]) * total.weight)
    assert np.abs(total.sums["model"] / total.weight - pooled).max() <= allowed < 1e-8


def test_rounding_is_right_on_average_and_off_by_less_than_a_level():
    layout = Layout((Reals("x", 200_000, 1.0, weighted=False),), 1, 2**20)
    value = 0.3
    scaled = value * layout.scale(layout.slots[0])
    words = encode(layout, 1, {"x": np.full(200_000, value)}, KEY)[1:].view(np.int32)
    assert set(words.tolist()) == {math.floor(scaled), math.ceil(scaled)}
    fraction = scaled - math.floor(scaled)
    # Five standard errors of a binomial share.
    assert abs((words > scaled).mean() - fraction) < 5 * math.sqrt(fraction * (1 - fraction) / 200_000)


def test_the_random_fractions_follow_the_key_alone():
    one = [encode(PLAIN, 3, values(), KEY) for _ in range(2)]
    assert one[0].tobytes() == one[1].tobytes()
    assert not np.array_equal(one[0], encode(PLAIN, 3, values(), bytes(32)))


def test_every_word_is_the_floor_worked_in_fractions():
    from Crypto.Cipher import AES

    size = 40_001  # three blocks, the last a short one
    layout = Layout((Reals("a", size, 3.0), Reals("b", 40, 0.1, weighted=False)), 64, 10)
    rng = np.random.default_rng(1)
    given_ = {"a": rng.uniform(-3, 3, size), "b": rng.uniform(-0.1, 0.1, 40)}
    words = encode(layout, 48, given_, KEY)[1:].view(np.int32)
    stream = AES.new(KEY, AES.MODE_CTR, nonce=b"", initial_value=0).encrypt(bytes(4 * (size + 40)))
    for i in (*range(40), 16_383, 16_384, *range(40_000, size + 40)):
        name, j = ("a", i) if i < size else ("b", i - size)
        weight, most = (48, 64) if name == "a" else (1, 1)
        bound = Fraction(3) if name == "a" else Fraction(float(np.float32(0.1)))
        exact = Fraction(weight) * Fraction(float(given_[name][j])) * layout.levels / (bound * most)
        fraction = Fraction(int.from_bytes(stream[4 * i : 4 * i + 4], "little"), 2**32)
        assert words[i] == math.floor(exact + fraction)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sites", [3, 50, 1000])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("margin", [0, 1000])
def test_the_extremes_of_every_site_never_wrap(bits, sites, sign, margin):
    layout = Layout((Reals("x", 64, 0.1), Counts("n", 1, 100)), 100, sites, bits, margin)
    bound = np.full(64, sign * np.float64(np.float32(0.1)))
    total = [0] * 66
    for key in range(7):  # extremes with several fractions; then the worst of them from every site
        words = encode(layout, 100, {"x": bound, "n": np.array([100])}, bytes([key]) * 32).view(f"<i{bits // 8}")
        worst = [sign * max(sign * int(word) for word in words[1:65])] * 64
        total = [100 * sites, *[sites * (word + sign * margin) for word in worst], 100 * sites]
        assert all(-(2 ** (bits - 1)) <= word < 2 ** (bits - 1) for word in total)
    summed = np.array([word % 2**bits for word in total], dtype=f"<u{bits // 8}")
    decoded = decode(layout, summed, sites).sums["x"]
    assert np.allclose(decoded, sign * sites * 100 * 0.1, rtol=1e-3)


def test_64_bit_levels_are_capped_where_float64_would_pass_the_bound_and_flip_the_sign():
    layout = Layout((Reals("x", 1, 1.0, weighted=False),), 1, 50, 64)
    assert layout.levels == MOST_LEVELS == 2**50
    # Without the cap the largest level is not a float64: the next one up, from 50 sites, is negative.
    uncapped = (2**63 - 1) // 50
    assert int(float(uncapped)) > uncapped
    assert np.array([int(float(uncapped)) * 50], dtype=np.uint64).view(np.int64)[0] < 0
    word = int(encode(layout, 1, {"x": np.ones(1)}, KEY)[1])
    assert 2**50 <= word <= 2**50 + 2
    assert decode(layout, np.array([50, 50 * word], dtype=np.uint64), 50).sums["x"][0] == pytest.approx(50)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([32, 64]),
    st.lists(st.tuples(st.integers(1, 500), st.floats(-2, 2, width=32)), min_size=1, max_size=12),
    st.integers(0, 2**31),
)
def test_any_sum_is_decoded_within_its_stated_error(bits, sites, seed):
    layout = Layout((Reals("x", 1, 2.0), Counts("n", 1, 500)), 500, 12, bits)
    words = add(
        [
            encode(layout, w, {"x": np.array([v]), "n": np.array([w])}, (seed + i).to_bytes(32, "big"))
            for i, (w, v) in enumerate(sites)
        ]
    )
    total = decode(layout, words, len(sites))
    exact = sum(Fraction(w) * Fraction(v) for w, v in sites)
    assert total.weight == total.sums["n"][0] == sum(w for w, _ in sites)
    assert abs(Fraction(float(total.sums["x"][0])) - exact) <= Fraction(
        len(sites) * 1.01 / layout.scale(layout.slots[0])
    )


@pytest.mark.parametrize("weight", [0, -1, 501, 3.0, True, 2**80], ids=str)
def test_a_weight_that_is_zero_negative_over_the_cap_or_no_whole_number_is_refused(weight):
    with pytest.raises(Refused) as refused:
        encode(PLAIN, weight, values(), KEY)
    assert refused.value.code == "weight_out_of_range"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20_000])
def test_a_number_that_is_not_finite_is_refused(bad, place):
    layout = Layout((Reals("x", 20_001, 1.0),), 5, 4)
    x = np.zeros(20_001)
    x[place] = bad
    with pytest.raises(Refused) as refused:
        encode(layout, 1, {"x": x}, KEY)
    assert refused.value.code == "not_finite"


@pytest.mark.parametrize(
    "change",
    [{"model": (0.0, 0.0, 2.01)}, {"model": (0.0, -2.01, 0.0)}, {"cells": (501, 0)}, {"cells": (0, -1)}],
    ids=["real above", "real below", "count above", "count below"],
)
def test_a_value_outside_its_bound_is_refused_and_not_clipped(change):
    with pytest.raises(Refused) as refused:
        encode(PLAIN, 3, values(**change), KEY)
    assert refused.value.code == "value_out_of_range"


def test_values_clipped_in_float32_pass_though_float32_rounds_the_bound_up():
    layout = Layout((Reals("x", 1, 0.1, weighted=False),), 1, 3)
    assert float(np.float32(0.1)) > 0.1
    assert encode(layout, 1, {"x": np.clip(np.ones(1, np.float32), -0.1, 0.1)}, KEY)[1] <= layout.reach
    with pytest.raises(Refused) as refused:
        encode(layout, 1, {"x": np.array([0.1000001])}, KEY)
    assert refused.value.code == "value_out_of_range"


@pytest.mark.parametrize(
    "change",
    [
        {"model": np.zeros(4, np.float32)},
        {"model": np.zeros((3, 1), np.float32)},
        {"model": np.zeros(3, np.int64)},
        {"model": np.zeros(3, np.float16)},
        {"cells": np.zeros(2)},
        {"cells": np.zeros(2, bool)},
        {"more": np.zeros(1)},
    ],
    ids=["dimension", "shape", "whole for real", "half", "real for whole", "truths", "name"],
)
def test_values_of_another_dimension_type_or_name_are_refused(change):
    with pytest.raises(Refused) as refused:
        encode(PLAIN, 3, {**values(), **change}, KEY)
    assert refused.value.code == "wrong_shape"


@pytest.mark.parametrize(
    ("place", "word"),
    [(0, 1), (0, 1001), (4, 1001), (5, 2**32 - 1)],
    ids=["fewer patients than sites", "more than two sites can have", "a cell above", "a cell below 0"],
)
def test_a_sum_that_sites_cant_reach_is_not_decoded(place, word):
    words = add([encode(PLAIN, 3, values(), KEY)] * 2)
    assert decode(PLAIN, words, 2).weight == 6
    words[place] = word
    with pytest.raises(IntegrityError):
        decode(PLAIN, words, 2)


@pytest.mark.parametrize(("place", "most"), [(1, 6 / 500), (6, 2)], ids=["a weighted mean", "another sum"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_real_sum_is_decoded_up_to_what_its_patients_or_sites_can_reach(place, most, sign):
    # By hand: 6 of at most 500 patients reach 6/500 of a site's levels, two sites twice its levels.
    layout = dataclasses.replace(PLAIN, slots=(PLAIN.slots[0], PLAIN.slots[1], Reals("loss", 1, 10.0, weighted=False)))
    words = add([encode(layout, 3, values(), KEY)] * 2)
    reached = math.floor(most * layout.levels)
    words[place] = sign * reached % 2**32
    decode(layout, words, 2)
    words[place] = sign * (reached + 5) % 2**32  # each site rounds by less than two levels
    with pytest.raises(IntegrityError):
        decode(layout, words, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 16},
        {"weight_max": 0},
        {"cohort_max": 0},
        {"noise_margin": -1},
        {"noise_margin": 2**31},
        {"weight_max": 2**31},
        {"slots": (Counts("n", 1, 2**30),)},
        {"slots": (Counts("n", 1, 0),)},
        {"slots": (Counts("n", 0, 1),)},
        {"slots": (Reals("x", 1, 0.0),)},
        {"slots": (Reals("x", 1, 1e-310),)},  # its scale would be infinite, and every word the least of all
        {"slots": (Reals("x", 1, math.inf),)},
        {"slots": (Reals("x", 1, math.nan),)},
        {"slots": (Reals("x", 1, 1.0), Counts("x", 1, 1))},
    ],
    ids=str,
)
def test_a_layout_in_which_a_sum_could_wrap_or_mean_nothing_is_not_made(wrong):
    with pytest.raises(SettingError):
        Layout(**{"slots": (Reals("x", 1, 1.0),), "weight_max": 10, "cohort_max": 4, **wrong})


NAMES = st.text("abé/ ", max_size=4)
SLOTS = st.one_of(
    st.builds(Counts, NAMES, st.integers(1, 9), st.integers(1, 1000)),
    st.builds(Reals, NAMES, st.integers(1, 9), st.floats(0.001, 1e6), st.booleans()),
)
LAYOUTS = st.builds(
    Layout,
    st.lists(SLOTS, max_size=4, unique_by=lambda slot: slot.name).map(tuple),
    st.integers(1, 1000),
    st.integers(1, 100),
    st.sampled_from([32, 64]),
    st.integers(0, 1000),
)


@given(LAYOUTS)
def test_a_layout_survives_its_bytes(layout):
    reader = Reader(layout.pack())
    assert layout_from(reader) == layout
    reader.end()


@given(LAYOUTS, LAYOUTS)
def test_other_layouts_have_other_bytes(one, other):
    assert (one == other) == (one.pack() == other.pack())


@given(st.binary(max_size=80))
def test_bytes_that_are_no_layout_are_refused(data):
    try:
        layout = layout_from(Reader(data))
    except Refused as refused:
        code = refused.code
    else:
        code = "malformed" if data.startswith(layout.pack()) else "read otherwise than written"
    assert code == "malformed"
