"""Shamir's sharing, held to a system of linear equations and to counting."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.protocol import shamir

SECRETS = st.one_of(st.just(bytes(32)), st.just(b"\xff" * 32), st.binary(min_size=32, max_size=32))


def shared(secret: bytes, threshold: int, points, seed: int = 0) -> dict[int, bytes]:
    noise = random.Random(seed).randbytes((threshold - 1) * shamir.COEFFICIENT_BYTES)
    return dict(zip(points, shamir.split(secret, threshold, points, noise), strict=True))


def opened(shares: dict[int, bytes]) -> bytes | None:
    return shamir.combine(shares, shamir.weights_at_zero(list(shares)))


def test_the_modulus_is_prime_and_holds_every_32_byte_secret():
    from sympy import isprime  # it takes a second to load

    assert isprime(shamir.P)
    assert shamir.P > 2**256 - 1


@given(SECRETS, st.integers(1, 9), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, spare, rng):
    points = rng.sample(range(1, 1000), threshold + spare)
    shares = shared(secret, threshold, points, rng.getrandbits(32))
    kept = rng.sample(points, threshold)
    assert opened({point: shares[point] for point in kept}) == secret


def test_a_share_is_the_polynomial_worked_by_hand():
    # f(x) = 5 + 3x + 2x^2 : f(1) = 10, f(2) = 19, f(10) = 235
    randomness = (2).to_bytes(48, "big") + (3).to_bytes(48, "big")
    shares = shamir.split((5).to_bytes(32, "big"), 3, [1, 2, 10], randomness)
    assert [int.from_bytes(share, "big") for share in shares] == [10, 19, 235]


def test_the_weights_are_lagranges_fractions():
    points = [1, 3, 4, 7]
    for point, weight in shamir.weights_at_zero(points).items():
        exact = Fraction(1)
        for other in points:
            if other != point:
                exact *= Fraction(other, other - point)
        assert weight * exact.denominator % shamir.P == exact.numerator % shamir.P


@settings(max_examples=25)
@given(SECRETS, SECRETS, st.integers(2, 6))
def test_one_share_too_few_is_consistent_with_every_secret(secret, other, threshold):
    # Whatever the other secret, one more point completes the known shares to a polynomial of it.
    points = list(range(1, threshold))
    known = shared(secret, threshold, [*points, threshold])
    few = {point: known[point] for point in points}
    weights = shamir.weights_at_zero([*points, threshold])
    rest = int.from_bytes(other, "big") - sum(int.from_bytes(few[p], "big") * weights[p] for p in points)
    missing = rest * pow(weights[threshold], -1, shamir.P) % shamir.P
    assert opened({**few, threshold: missing.to_bytes(33, "big")}) == other


def test_over_a_small_field_too_few_shares_fit_every_secret_equally_often(monkeypatch):
    monkeypatch.setattr(shamir, "P", 7)
    seen = {secret: [] for secret in range(7)}
    for secret, first, second in itertools.product(range(7), repeat=3):
        coefficients = first.to_bytes(48, "big") + second.to_bytes(48, "big")
        shares = shamir.split(secret.to_bytes(32, "big"), 3, [1, 2, 4], coefficients)
        seen[secret].append((shares[0], shares[2]))
    assert all(sorted(pairs) == sorted(seen[0]) for pairs in seen.values())
    assert len(set(seen[0])) == 49


def test_a_share_outside_the_field_or_of_another_length_opens_nothing():
    shares = shared(bytes(32), 2, [1, 2, 3])
    assert opened({1: shares[1], 2: (shamir.P).to_bytes(33, "big")}) is None
    assert opened({1: shares[1], 2: b"\x00" + shares[2]}) is None


def test_a_value_above_32_bytes_is_no_secret():
    assert opened({1: (2**256).to_bytes(33, "big")}) is None


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "noise"),
    [
        (bytes(31), 2, [1, 2], 48),
        (bytes(32), 2, [1, 2], 47),
        (bytes(32), 3, [1, 2], 96),
        (bytes(32), 0, [1, 2], -48),
        (bytes(32), 2, [0, 1], 48),
        (bytes(32), 2, [1, 1], 48),
    ],
    ids=["short secret", "short noise", "too few points", "threshold 0", "the secret's own point", "a point twice"],
)
def test_an_unsound_sharing_is_not_made(secret, threshold, points, noise):
    with pytest.raises(ValueError, match="secret is|points are"):
        shamir.split(secret, threshold, points, bytes(max(noise, 0)))
