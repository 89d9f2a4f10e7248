"""How an update lies in the summed vector: sums come out exact, means to the grain of a word, and all that does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.span import Span
from fedhealth.core.update import Update
from fedhealth.evaluation.moments import MomentLayout, first_pass, second_pass
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.evaluation.spans import spans_of
from fedhealth.evaluation.survival import SurvivalSums
from fedhealth.secagg.masked import Masked
from fedhealth.secagg.protocol.codec import decode, encode

KEY = bytes(32)


def through(content, updates):
    """What the coordinator reads of these hospitals' updates; the masks cancel, so they are left out."""
    layout = content.layout(len(updates))
    vectors = [encode(layout, *content.values(update), KEY) for update in updates]
    return content.read(decode(layout, np.sum(vectors, axis=0, dtype=vectors[0].dtype), len(updates)))


def predictions(n: int, seed: int):
    rng = np.random.default_rng([n, seed])
    return rng.random(n), (rng.random(n) < 0.3).astype(float)


def test_score_sums_of_all_hospitals_are_exact():
    layout = SummaryLayout(groups=("sex=female",))
    vectors = []
    for seed in range(5):
        p, y = predictions(300, seed)
        vectors.append(layout.summarise(p, y, {"sex=female": p > 0.4}))
    found = through(Masked().sums(layout.spans()), [Update(300, {"sum": vector}) for vector in vectors])
    # Whole multiples of 2^-20 below 2^33 add up exactly in float64, in any order.
    assert np.array_equal(found.arrays["sum"], np.sum(vectors, axis=0))
    assert found.weight == 1500


def test_sums_over_time_are_such_sums():
    rng = np.random.default_rng(3)
    days = rng.integers(1, 50, (4, 60)).astype(float)
    event = rng.random((4, 60)) < 0.6
    each = [SurvivalSums.of(rng.normal(size=60), rng.random(60), e, d, 30.0) for e, d in zip(event, days, strict=True)]
    found = through(Masked().sums(SurvivalSums.spans()), [Update(60, {"sum": sums.to_vector()}) for sums in each])
    total = SurvivalSums.from_vector(found.arrays["sum"])
    expected = sum(each[1:], each[0])
    assert (total.concordant, total.tied, total.comparable) == (expected.concordant, expected.tied, expected.comparable)
    # Of what grows with the cube of the patients, words hold halves and whole numbers.
    assert abs(total.lead_sq - expected.lead_sq) <= 4 * 2
    assert abs(total.observed - expected.observed) < 1e-6


def test_a_site_of_the_largest_size_fits_with_the_worst_predictions(smoke_study):
    n = Masked().weight_max
    layout = SummaryLayout.of(smoke_study, grouped=False)
    vector = layout.summarise(np.zeros(n), np.ones(n))
    found = through(Masked().sums(layout.spans()), [Update(n, {"sum": vector})] * 3)
    assert np.array_equal(found.arrays["sum"], 3 * vector)


def test_moments_fit_at_the_ends_of_every_range(smoke_study):
    n, spec = 500, smoke_study.features
    layout = MomentLayout(spec)
    columns = {
        f.name: np.full(n, f.levels[0], dtype=object)
        if f.kind == "categorical"
        else np.full(n, 1.0 if f.kind == "binary" else f.range[1])
        for f in spec.features
    }
    first = first_pass(layout, columns, np.ones(n, dtype=np.float32), min_cell=1)
    lowest = np.array([0.0 if f.kind == "binary" else -abs(f.range[1]) for f in layout.numeric])
    lowest = np.where([f.transform == "log" for f in layout.numeric], 0.0, lowest)
    second = second_pass(layout, columns, lowest, min_cell=1)
    for question, vector in (("query.moments", first), ("query.spread", second)):
        found = through(Masked().sums(spans_of(smoke_study, question)), [Update(n, {"sum": vector})] * 4)
        np.testing.assert_allclose(found.arrays["sum"], 4 * vector, rtol=1e-9, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-100, 100)), min_size=3, max_size=8))
def test_a_mean_is_weighted_by_patients_and_right_to_the_grain(hospitals):
    masked = Masked()
    content = masked.averages({"w": (2, 1), "none": (0,)}, ("loss",))
    updates = [
        Update(n, {"w": np.full((2, 1), value, dtype=np.float64), "none": np.zeros(0)}, {"loss": abs(value) / 100})
        for n, value in hospitals
    ]
    found = through(content, updates)
    weights, values = (np.array(column, dtype=float) for column in zip(*hospitals, strict=True))
    grain = masked.grain(len(hospitals), float(weights.sum()))
    assert found.weight == weights.sum()
    assert found.arrays["none"].shape == (0,)
    assert found.arrays["w"].shape == (2, 1)
    np.testing.assert_allclose(found.arrays["w"], np.average(values, weights=weights), rtol=1e-12, atol=grain)
    np.testing.assert_allclose(found.metrics["loss"], np.average(abs(values) / 100, weights=weights), atol=grain)


def test_a_weight_that_is_no_count_of_patients_is_a_number_of_the_sum():
    content = Masked().averages({"w": (1,)}, ("loss",), is_by_patients=False)
    updates = [
        Update(share, {"w": np.array([w])}, {"loss": 0.5}) for share, w in ((0.25, 4.0), (1.5, -2.0), (1e-30, 9.0))
    ]
    found = through(content, updates)
    # By hand: (0.25 * 4 - 1.5 * 2) / 1.75.
    assert found.weight == pytest.approx(1.75, abs=1e-9)
    assert found.arrays["w"][0] == pytest.approx(-2 / 1.75, abs=1e-6)


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (Update(5, {"w": np.zeros(3)}, {"loss": 0.1}), "wrong_shape"),
        (Update(5, {"v": np.zeros(2)}, {"loss": 0.1}), "wrong_shape"),
        (Update(5, {"w": np.zeros(2)}, {}), "wrong_shape"),
        (Update(5, {"w": np.zeros(2)}, {"loss": 0.1, "age": 3.0}), "wrong_shape"),
        (Update(0, {"w": np.zeros(2)}, {"loss": 0.1}), "weight_out_of_range"),
        (Update(5, {"w": np.array([0, np.nan])}, {"loss": 0.1}), "not_finite"),
        (Update(5, {"w": np.zeros(2)}, {"loss": np.inf}), "not_finite"),
        (Update(5, {"w": np.array([0, -16_400.0])}, {"loss": 0.1}), "value_out_of_range"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_by_its_reason(update, code):
    content = Masked().averages({"w": (2,)}, ("loss",))
    with pytest.raises(Refused) as refused:
        encode(content.layout(3), *content.values(update), KEY)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "sums", [{"sum": np.zeros(2)}, {"other": np.zeros(3)}, {"sum": np.zeros(3), "more": np.zeros(1)}]
)
def test_a_vector_of_another_length_is_refused(sums):
    content = Masked().sums((Span("a", 3, is_whole=True),))
    with pytest.raises(Refused) as refused:
        content.values(Update(5, sums))
    assert refused.value.code == "wrong_shape"


def test_more_patients_than_the_study_allows_are_refused_in_any_sum():
    content = Masked(weight_max=100).sums((Span("a", 1),))
    with pytest.raises(Refused) as refused:
        encode(content.layout(3), *content.values(Update(101, {"sum": np.zeros(1)})), KEY)
    assert refused.value.code == "value_out_of_range"


def test_an_unknown_question_has_no_sum(smoke_study):
    with pytest.raises(SettingError, match="query.moment.*Did you mean query.moments"):
        spans_of(smoke_study, "query.moment")
