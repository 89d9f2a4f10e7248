"""Hyperbolic tangents and logistic functions: right, and the same bits wherever a number stands."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.site.bends import bend, logistic


def numbers(n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=n) * 10.0 ** rng.uniform(-9, 2, size=n))


def test_they_are_the_librarys_but_for_a_hundredth_of_a_millionth_of_a_millionth():
    x = torch.cat(
        [
            numbers(20_000),
            torch.linspace(-25, 25, 20_001).double(),
            torch.tensor([-1e300, 1e300, 0.0, 1 / 512]).double(),
        ]
    )
    np.testing.assert_allclose(bend(x.clone()), [math.tanh(v) for v in x.tolist()], rtol=0, atol=1e-14)
    expected = [1 / (1 + math.exp(-max(v, -700.0))) for v in x.tolist()]
    np.testing.assert_allclose(logistic(x), expected, rtol=0, atol=1e-14)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_numbers_bits_do_not_depend_on_its_place(seed, n, shift):
    x = numbers(n + shift, seed)
    alone = torch.cat([bend(x[i : i + 1].clone()) for i in range(n + shift)])
    assert torch.equal(bend(x.clone()), alone)
    assert torch.equal(bend(x[shift:].clone()), alone[shift:])
    wide = torch.zeros(n + shift, 3).double()
    wide[:, 1] = x
    assert torch.equal(bend(wide[:, 1:2])[:, 0], alone)


def test_ends_and_what_is_no_number():
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0], dtype=torch.float64)
    found = bend(x).tolist()
    assert found[:2] == [1.0, -1.0]
    assert math.isnan(found[2])
    assert found[3:] == [0.0, 0.0]
    assert logistic(torch.zeros(1).double()).item() == 0.5
