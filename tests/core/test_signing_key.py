"""Which keys a roster takes, held to the curve's own arithmetic and to a library's keys."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.signing_key import fault_of_key

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P

# The eight encodings in their one form (RFC 8032), as lists of keys to refuse have them.
SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


def point(key: bytes):
    """x and y of a key, by RFC 8032, 5.1.3."""
    written = int.from_bytes(key, "little")
    y, sign = written % 2**255, written >> 255
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert v * x * x % P == u
    return (P - x if x % 2 != sign else x) % P, y


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P) % P,
    )


@pytest.mark.parametrize("key", SMALL)
def test_the_eight_keys_of_small_order_are_refused(key):
    found = point(bytes.fromhex(key))
    for _ in range(3):
        found = add(found, found)
    assert found == (0, 1), "eight times the point is the neutral one"
    assert fault_of_key(bytes.fromhex(key)) == "a key of small order"


def test_the_eight_are_all_there_are():
    assert len({point(bytes.fromhex(key)) for key in SMALL}) == 8


@pytest.mark.parametrize("more", range(19))
@pytest.mark.parametrize("sign", [0, 1])
def test_a_second_way_to_write_a_key_is_refused(more, sign):
    written = P + more + (sign << 255)
    assert fault_of_key(written.to_bytes(32, "little")) == "a second way to write a key"


@pytest.mark.parametrize("y", [1, P - 1])
def test_the_sign_of_nothing_is_refused(y):
    # x is 0 there, and has one sign.
    assert fault_of_key((y + (1 << 255)).to_bytes(32, "little")) == "a key of small order"


def test_what_is_no_point_is_refused_and_half_of_all_numbers_are_none():
    found = [fault_of_key(y.to_bytes(32, "little")) for y in range(2, 202)]
    assert set(found) == {None, "no point of the curve"}
    assert 60 < found.count(None) < 140
    for y, fault in enumerate(found, start=2):
        u, v = y * y - 1, D * y * y + 1
        assert (pow(u * pow(v, P - 2, P), (P - 1) // 2, P) == 1) == (fault is None)
        if fault is None:
            point(y.to_bytes(32, "little"))


@pytest.mark.parametrize("seed", range(20))
def test_a_key_that_somebody_has_is_taken(seed):
    public = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key().public_bytes_raw()
    assert fault_of_key(public) is None


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_none(size):
    assert fault_of_key(bytes(size)) == "another length than 32 bytes"
