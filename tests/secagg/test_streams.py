"""The generator, held to NIST's vectors and to a second implementation of AES."""

from __future__ import annotations

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedhealth.secagg.protocol.streams import add_streams, keystream

KEYS = [bytes([i]) * 32 for i in range(1, 6)]
TYPES = {32: np.dtype("<u4"), 64: np.dtype("<u8")}


def slow_stream(key: bytes, size_bytes: int) -> bytes:
    """AES-256-CTR of PyCryptodome, block by block in electronic-codebook mode."""
    aes = AES.new(key, AES.MODE_ECB)
    blocks = [aes.encrypt(i.to_bytes(16, "big")) for i in range(-(-size_bytes // 16))]
    return b"".join(blocks)[:size_bytes]


def slow_sum(words, plus, minus, bits: int) -> list[int]:
    """The masked words by whole numbers of any size."""
    width, total = bits // 8, [int(word) for word in words]
    for sign, keys in ((1, plus), (-1, minus)):
        for key in keys:
            stream = slow_stream(key, len(words) * width)
            for i in range(len(total)):
                total[i] += sign * int.from_bytes(stream[i * width : (i + 1) * width], "little")
    return [value % 2**bits for value in total]


def test_the_stream_is_nists_aes_256():
    # NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt): four blocks from the counter f0f1...ff on.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    stream = keystream(key, 64, start=counter * 16)
    assert bytes(x ^ k for x, k in zip(plain, stream, strict=True)).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


def test_a_stream_cut_anywhere_is_the_same_stream():
    whole = slow_stream(KEYS[0], 1000)
    assert keystream(KEYS[0], 1000) == whole
    assert keystream(KEYS[0], 200, start=800) == whole[800:]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("d", [1, 3, 15, 16, 17, 31, 32, 33, 64])
def test_masking_is_modular_arithmetic_on_whole_numbers(bits, d):
    words = np.arange(d, dtype=TYPES[bits]) - np.array(5, dtype=TYPES[bits])
    expected = slow_sum(words, KEYS[:3], KEYS[3:], bits)
    add_streams(words, KEYS[:3], KEYS[3:])
    assert words.tolist() == expected


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([32, 64]),
    st.integers(0, 400),
    st.integers(1, 7),
    st.sampled_from([16, 48, 256, 4096]),
    st.integers(0, 5),
)
def test_threads_and_block_size_change_no_bit(bits, d, threads, block_bytes, split):
    one, other = (np.arange(d, dtype=TYPES[bits]) for _ in range(2))
    add_streams(one, KEYS[:split], KEYS[split:])
    add_streams(other, KEYS[:split], KEYS[split:], threads=threads, block_bytes=block_bytes)
    assert one.tobytes() == other.tobytes()


def test_what_was_added_can_be_taken_off():
    words = np.arange(100_000, dtype="<u4")
    masked = words.copy()
    add_streams(masked, KEYS, [])
    assert not np.array_equal(masked, words)
    add_streams(masked, [], KEYS, threads=2)
    assert np.array_equal(masked, words)


@pytest.mark.parametrize("fill", [0, 2**32 - 1], ids=["all zero", "all largest"])
def test_a_masked_vector_looks_like_noise_whatever_is_in_it(fill):
    words = np.full(200_000, fill, dtype="<u4")
    add_streams(words, KEYS[:1], [])
    seen = np.bincount(words.view(np.uint8), minlength=256)
    # A fair die of 256 sides fails this once in a million runs; the key is fixed, so the test does not flicker.
    assert stats.chisquare(seen).pvalue > 1e-6


@pytest.mark.parametrize("words", [np.zeros(4, ">u4"), np.zeros(4, "<i4"), np.zeros(8, "<u4")[::2]])
def test_words_of_another_kind_are_not_masked(words):
    with pytest.raises(ValueError, match="contiguous"):
        add_streams(words, KEYS, [])
