"""A guarantee never prints its epsilon alone."""

from __future__ import annotations

import math

import pytest

from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.privacy.accountant import epsilon
from fedhealth.privacy.guarantee import Guarantee, guarantee

STEPS = PoissonSampledGaussian(noise_multiplier=1.394, sampling_rate=0.1, count=100)


def test_it_says_unit_adjacency_delta_sampling_accountant_and_view():
    said = str(guarantee([STEPS], delta=1e-5, views=["updates"]))
    for words in ("δ = 1e-05", "patient with all records", "added or removed", "coordinator", "rate 0.1", "PLD"):
        assert words in said


def test_sums_over_everybody_are_not_said_to_be_sampled():
    both = guarantee([STEPS, Gaussian(noise_multiplier=20)], delta=1e-5, views=["updates", "sums"])
    assert "sums over all patients" in str(both)
    assert "masked sums" in str(both)
    assert "; no sampling; " in str(guarantee([Gaussian(noise_multiplier=20)], delta=1e-5, views=["sums"]))


def test_the_printed_epsilon_is_never_below_the_bound():
    found = guarantee([STEPS], delta=1e-5, views=["updates"])
    printed = float(str(found).removeprefix("(ε = ").split(",")[0])
    assert epsilon([STEPS], 1e-5) <= printed < 1.01 * epsilon([STEPS], 1e-5)


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (2.0, "2"), (3.9636, "3.97"), (0.012301, "0.0124"), (99.91, "100"), (5.0, "5")]
)
def test_epsilon_is_rounded_up_to_three_digits(value, said):
    shown = str(Guarantee(epsilon=value, delta=1e-5, views=("sums",), sampling="no sampling"))
    assert shown.startswith(f"(ε = {said}, ")


def test_without_noise_no_number_is_printed():
    found = guarantee([STEPS, Unbounded()], delta=1e-5, views=["updates"])
    assert found.epsilon == math.inf
    assert str(found).startswith("no bound")
    assert "ε" not in str(found)


def test_its_parts_can_be_shown_without_the_epsilon():
    assert "3.9" not in repr(guarantee([STEPS], delta=1e-5, views=["updates"]))
