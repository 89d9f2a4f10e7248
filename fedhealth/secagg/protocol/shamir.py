"""Shamir's secret sharing: any `threshold` shares give the secret, fewer say nothing about it.

Shares are values of a random polynomial over the integers modulo P = 2^256 + 297, a prime
just large enough that a 32-byte secret is one element (doi 10.1145/359168.359176).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

P = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
#: A coefficient is 48 random bytes modulo P: its distance from uniform is below 2^-127.
COEFFICIENT_BYTES = 48


def split(secret: bytes, threshold: int, points: Sequence[int], randomness: bytes) -> list[bytes]:
    """One share of `SHARE_BYTES` for each point, in the order of `points`.

    Args:
        secret: `SECRET_BYTES` bytes.
        threshold: how many shares give the secret back, from 1 to the number of points.
        points: distinct whole numbers from 1 to P - 1; who holds which is public.
        randomness: `(threshold - 1) * COEFFICIENT_BYTES` secret bytes, never used twice.

    Raises:
        ValueError: an argument breaks its rule; a caller's mistake, never a peer's.
    """
    if len(secret) != SECRET_BYTES or len(randomness) != (threshold - 1) * COEFFICIENT_BYTES:
        raise ValueError("a secret is 32 bytes and each coefficient 48")
    if not 1 <= threshold <= len(points) == len({point for point in points if 0 < point < P}):
        raise ValueError("points are distinct, from 1, and at least as many as the threshold")
    starts = range(0, len(randomness), COEFFICIENT_BYTES)
    coefficients = [int.from_bytes(randomness[at : at + COEFFICIENT_BYTES], "big") % P for at in starts]
    constant = int.from_bytes(secret, "big")
    return [_value(coefficients, constant, point).to_bytes(SHARE_BYTES, "big") for point in points]


def weights_at_zero(points: Sequence[int]) -> dict[int, int]:
    """The Lagrange weight of each point: the same for every secret that these points share."""
    product = 1
    for point in points:
        product = product * point % P
    weights = {}
    for point in points:
        below = point
        for other in points:
            if other != point:
                below = below * (other - point) % P
        weights[point] = product * pow(below, -1, P) % P
    return weights


def combine(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> bytes | None:
    """The secret, or None where these shares are of no 32-byte secret.

    Wrong shares mostly give a wrong secret and not None: compare it with a commitment.

    Args:
        shares: by point, as many as the threshold.
        weights: `weights_at_zero` of the same points.
    """
    values = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    if any(value >= P or len(shares[point]) != SHARE_BYTES for point, value in values.items()):
        return None
    secret = sum(value * weights[point] for point, value in values.items()) % P
    return secret.to_bytes(SECRET_BYTES, "big") if secret < 2**256 else None


def _value(coefficients: Sequence[int], constant: int, point: int) -> int:
    """The polynomial at `point`, by Horner's rule."""
    value = 0
    for coefficient in coefficients:
        value = (value + coefficient) * point % P
    return (value + constant) % P
