"""Parts of a pooled table: complete, disjoint, never short of rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fedhealth.core.errors import DataError, SettingError
from fedhealth.synthetic.partition import dirichlet, feature_shift, first_component, iid, natural, quantity


@st.composite
def shapes(draw):
    parts = draw(st.integers(1, 12))
    least = draw(st.integers(0, 6))
    return draw(st.integers(parts * max(least, 1), 400)), parts, least


def sizes(part, parts):
    return np.bincount(part, minlength=parts)


@given(shapes(), st.integers(0, 99), st.sampled_from([0.01, 0.5, 100.0]))
def test_every_scheme_deals_all_rows_and_no_part_is_short(shape, seed, knob):
    n, parts, least = shape
    x = np.random.default_rng(seed).normal(size=(n, 3))
    labels = (x[:, 0] > 1).astype(float)
    splits = [
        iid(n, parts, seed=seed, least=least),
        dirichlet(labels, parts, alpha=knob, seed=seed, least=least),
        quantity(n, parts, spread=min(knob, 3), seed=seed, least=least),
        quantity(n, parts, spread=min(knob, 3), law="zipf", seed=seed, least=least),
        feature_shift(x, parts, least=least),
    ]
    for part in splits:
        assert part.shape == (n,)
        assert sizes(part, parts).min() >= least
        assert part.min() >= 0
        assert part.max() < parts


def test_the_same_seed_gives_the_same_parts():
    labels = np.arange(300) % 2
    one, two, other = (dirichlet(labels, 5, alpha=0.3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_iid_parts_differ_by_one_row_at_most():
    assert sorted(sizes(iid(103, 10, seed=1), 10)) == [10] * 7 + [11] * 3


def test_a_small_alpha_skews_the_labels_and_a_large_one_does_not():
    labels = (np.arange(20_000) % 5 == 0).astype(float)

    def spread(alpha):
        part = dirichlet(labels, 10, alpha=alpha, seed=3, least=50)
        return np.std([labels[part == k].mean() for k in range(10)])

    assert spread(1e4) < 0.02 < 0.1 < spread(0.3)


def test_zipf_sizes_follow_the_rank():
    assert sizes(quantity(1100, 3, spread=1.0, law="zipf", seed=1, least=0), 3).tolist() == [600, 300, 200]


def test_the_first_component_is_that_of_scikit_learn():
    x = np.random.default_rng(1).normal(size=(500, 4)) @ np.random.default_rng(2).normal(size=(4, 4))
    expected = PCA(1).fit_transform(StandardScaler().fit_transform(x))[:, 0]
    assert abs(np.corrcoef(first_component(x), expected)[0, 1]) == pytest.approx(1, abs=1e-9)


def test_feature_shift_cuts_in_the_order_of_the_first_component():
    x = np.random.default_rng(1).normal(size=(400, 3)) * [5, 1, 1] + np.random.default_rng(2).normal(size=(400, 1))
    x[::17, 1] = np.nan
    part, scores = feature_shift(x, 4), first_component(x)
    ends = [(scores[part == k].min(), scores[part == k].max()) for k in range(4)]
    assert all(low[1] <= high[0] for low, high in pairwise(ends))


def test_a_constant_column_does_not_stop_a_feature_split():
    x = np.column_stack([np.ones(50), np.full(50, np.nan), np.arange(50.0)])
    assert feature_shift(x, 5).tolist() == np.repeat(np.arange(5), 10).tolist()


def test_natural_parts_are_the_values_of_a_column():
    part, names = natural(["b", "a", "b"])
    assert names == ("a", "b")
    assert part.tolist() == [1, 0, 1]


def test_a_natural_part_that_is_short_is_refused():
    with pytest.raises(DataError, match="at least 2 rows, found 1 of 2"):
        natural(["b", "a", "b"], least=2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iid(10, 0, seed=1), "at least 1 part"),
        (lambda: iid(10, 4, seed=1, least=3), "needs 12 rows, found 10"),
        (lambda: dirichlet(np.zeros(10), 2, alpha=0.0, seed=1), "alpha must be above 0"),
        (lambda: quantity(10, 2, spread=-1.0, seed=1), "spread must be above 0"),
        (lambda: quantity(10, 2, law="pareto", seed=1), "lognormal or zipf"),
    ],
)
def test_an_impossible_split_is_refused(call, words):
    with pytest.raises(SettingError, match=words):
        call()
