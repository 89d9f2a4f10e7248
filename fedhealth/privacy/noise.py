"""Noise for privacy: integers from a cryptographic source, put on sums that were made integers first.

A floating-point Gaussian leaks through its low bits (Mironov 2012, doi 10.1145/2382196.2382264):
which values it can reach depends on the value it was added to. Here nothing is added in
floating point. The sum is rounded to a lattice, an integer drawn to 113 bits is added to each
coordinate exactly, and what comes back is a fixed function of that integer.
"""

from __future__ import annotations

import hashlib
import math
import os
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedhealth.core.errors import DataError, SettingError
from fedhealth.privacy.alias_table import CENTRE, COLUMNS, MASS_BITS, SIGMA, TOP_BITS, alias_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

#: `wide` adds this many times a second draw. Up to 500 the sum is a discrete Gaussian to 2^-117, at 480 to 2^-128.
STRETCH = 480
#: The parameter, and to all digits the standard deviation, of `wide` noise: about 491,521.
WIDE_SIGMA = SIGMA * math.sqrt(1 + STRETCH**2)
#: The largest magnitude of a draw with stretch 0.
_FARTHEST = CENTRE - 1
#: The largest magnitude of a `wide` draw.
FARTHEST = _FARTHEST * (1 + STRETCH)
#: Of the key of a stream.
KEY_BYTES = 32
#: Draws at a time: what fits the processor's cache.
BLOCK = 1 << 15
_ZEROS = memoryview(bytes(8 * BLOCK))
_ALIAS = np.uint32(COLUMNS - 1)
#: The largest sum in lattice steps for which division by the step is off by less than 2^-11 of one.
_FARTHEST_SUM = 2.0**42
_SLACK = 1 + 2.0**-10


class NoiseSource:
    """Where noise comes from: AES-256 in counter mode, under a fresh key for every draw.

    Keys come from the operating system, so a forked process never repeats its parent's
    noise. With `insecure_seed` they follow from the seed instead: whoever knows it can take
    the noise off again, so nothing that leaves is private, and `is_secure` says so.
    """

    __slots__ = ("_drawn", "_seed")

    def __init__(self, *, insecure_seed: int | None = None) -> None:
        self._seed = insecure_seed
        self._drawn = 0

    @property
    def is_secure(self) -> bool:
        """Whether the noise protects anybody."""
        return self._seed is None

    def key(self) -> bytes:
        """A new key; who has it can draw the same noise again."""
        if self._seed is None:
            return os.urandom(KEY_BYTES)
        self._drawn += 1
        return hashlib.sha256(f"insecure noise {self._seed} {self._drawn}".encode()).digest()

    def words(self) -> Words:
        """A new stream of random words."""
        return Words(self.key())


class Words:
    """Random 32-bit words, as many as are asked for."""

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes) -> None:
        # The counter may start at zero because the key is never used again.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def next(self, n: int) -> NDArray[np.uint32]:
        """The next `n` words, at most as many as a block needs."""
        return np.frombuffer(self._encryptor.update(_ZEROS[: 4 * n]), dtype="<u4")


def narrow(n: int, source: NoiseSource) -> NDArray[np.int64]:
    """[n] draws of the discrete Gaussian with parameter 1024."""
    words, drawn = source.words(), np.empty(n, dtype=np.int64)
    for start in range(0, n, BLOCK):
        drawn[start : start + BLOCK] = _draw([words], min(BLOCK, n - start))[0]
    return drawn


def wide(n: int, source: NoiseSource) -> NDArray[np.int64]:
    """[n] draws of the discrete Gaussian with parameter `WIDE_SIGMA`, to 2^-112 in total variation each."""
    drawn: NDArray[np.int64] = wide_rows(n, [source])[0]
    return drawn


def wide_rows(n: int, sources: Sequence[NoiseSource]) -> NDArray[np.int64]:
    """[sources, n] of each source what `wide` gives."""
    return stretched(n, [source.words() for source in sources], STRETCH)


def stretched(n: int, streams: Sequence[Words], stretch: int) -> NDArray[np.int64]:
    """[streams, n] draws of the discrete Gaussian with parameter 1024 √(1 + stretch²), as `wide` is for `STRETCH`.

    Args:
        n: how many of each.
        streams: fresh ones, or gone on with after whole blocks of `BLOCK` draws, which gives the draws of one call.
        stretch: from 1 to `STRETCH`. The sum of one draw and `stretch` times another is nearer to the discrete
            Gaussian the smaller it is.
    """
    drawn = np.empty((len(streams), n), dtype=np.int64)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        few = max(BLOCK // (2 * size), 1)
        for at in range(0, len(streams), few):
            pair = _draw(streams[at : at + few], 2 * size)
            drawn[at : at + few, start : start + size] = pair[:, :size] + stretch * pair[:, size:]
    return drawn


def deviation(stretch: int) -> float:
    """The parameter, and to all digits the standard deviation, of `stretched` draws."""
    return SIGMA * math.sqrt(1 + stretch**2)


def farthest(stretch: int) -> int:
    """The largest magnitude of a `stretched` draw."""
    return _FARTHEST * (1 + stretch)


def stretch_for(sigma: float) -> int:
    """The least stretch with which draws have a standard deviation of `sigma` at least, up to `WIDE_SIGMA`."""
    # What a float's rounding adds must not ask for more than the widest.
    return min(max(math.ceil(math.sqrt(max((sigma / SIGMA) ** 2 - 1, 0)) * (1 - 1e-12)), 1), STRETCH)


def noisy(total: ArrayLike, *, noise_multiplier: float, sensitivity: float, source: NoiseSource) -> NDArray[np.float64]:
    """The sum with Gaussian noise of at least `noise_multiplier * sensitivity` on every coordinate.

    Guaranteed: against `Gaussian(noise_multiplier)` or its sampled form, what leaves is as private
    as accounted, floating point included. Rounding to the lattice moves neighbouring sums apart
    by up to one step a coordinate, so the noise covers `sensitivity` and that (see `step_of`).
    The lattice is the same whatever the data, so low bits tell nothing. The accountant takes the
    discrete Gaussian for the continuous one; at this width they differ by less than a billionth.

    Not guaranteed: that `sensitivity` holds. It must bound how far one patient moves `total` as it
    was computed, in L2; where `total` was added up in floating point, in an order that depends on
    who is in it, that error is part of it (Casacuberta et al. 2022, arXiv 2207.10635). Adding
    clipped vectors in float64 keeps it below 1e-9 of the clip up to a thousand patients. Nor is
    drawing constant in time.

    Args:
        total: the sum over patients, any shape.
        noise_multiplier: the noise's standard deviation over the sensitivity.
        sensitivity: how far one patient, with all records, moves `total` in L2.
        source: where the noise comes from; nothing is guaranteed unless it is secure.

    Raises:
        SettingError: `noise_multiplier` or `sensitivity` is not positive, or too large for that many coordinates.
        DataError: the sum is not finite, or beyond any sum of clipped vectors.
    """
    exact = np.asarray(total, dtype=np.float64)
    rows = noisy_rows(
        exact.reshape(1, -1), noise_multipliers=[noise_multiplier], sensitivities=[sensitivity], sources=[source]
    )
    return rows.reshape(exact.shape)


def noisy_rows(
    totals: NDArray[np.float64],
    *,
    noise_multipliers: Sequence[float],
    sensitivities: Sequence[float],
    sources: Sequence[NoiseSource],
) -> NDArray[np.float64]:
    """[sums, d] of each row what `noisy` gives for it, by its own multiplier, sensitivity and source.

    Nothing is drawn where an error is raised.

    Raises:
        SettingError: as of `noisy`, for any of the rows.
        DataError: as of `noisy`, for any of the rows.
    """
    size = totals.shape[1]
    step = lattice_steps(totals, noise_multipliers, sensitivities)
    left = np.empty_like(totals)
    # So few at a time that they stay in the cache.
    few = max(BLOCK // (2 * max(size, 1)), 1)
    for start in range(0, len(totals), few):
        rows = slice(start, start + few)
        steps = np.rint(totals[rows] / step[rows]).astype(np.int64)
        left[rows] = (steps + wide_rows(size, sources[rows])) * step[rows]
    return left


def lattice_steps(
    totals: NDArray[np.float64], noise_multipliers: Sequence[float], sensitivities: Sequence[float]
) -> NDArray[np.float64]:
    """[sums, 1] the step of each row's lattice, on which noise may be put on `totals`, [sums, d].

    Raises:
        SettingError: as of `noisy`, for any of the rows.
        DataError: as of `noisy`, for any of the rows.
    """
    size = totals.shape[1]
    step = np.array([[step_of(*each, size)] for each in zip(noise_multipliers, sensitivities, strict=True)])
    ends = totals.max(axis=1, keepdims=True, initial=0), -totals.min(axis=1, keepdims=True, initial=0)
    if not np.all(np.maximum(*ends) <= _FARTHEST_SUM * step):
        raise DataError(
            f"a sum must be finite and within {_FARTHEST_SUM:.0e} lattice steps, found one that is not. "
            "Clip every patient before summing."
        )
    return step


@lru_cache(maxsize=256)
def step_of(noise_multiplier: float, sensitivity: float, size: int) -> float:
    """The lattice's step, from what is public alone.

    Noise is `WIDE_SIGMA` steps and must be `noise_multiplier` times the sensitivity of the rounded
    sum, which is at most sensitivity + step * sqrt(size): two equations with one solution. The
    noise grows by this for rounding: 0.2 % at a million coordinates and a multiplier of 1.

    Raises:
        SettingError: a value is not positive, or rounding would more than double the noise.
    """
    for name, value in (("noise_multiplier", noise_multiplier), ("sensitivity", sensitivity)):
        if not 0 < value < math.inf:
            raise SettingError(f"`{name}` must be above 0 and finite, found {value}. Correct it.")
    share = noise_multiplier * math.sqrt(size) * _SLACK / WIDE_SIGMA
    if share > 0.5:
        raise SettingError(
            f"noise_multiplier times the root of the number of coordinates must be at most {WIDE_SIGMA / 2:.0f}, found "
            f"{noise_multiplier:g} on {size} of them. Use less noise or a smaller model."
        )
    return noise_multiplier * sensitivity / (1 - share) / WIDE_SIGMA


def _draw(streams: Sequence[Words], n: int) -> NDArray[np.int32]:
    """[streams, n] values of the table, a word each: 15 bits choose the column, 17 are compared with its threshold."""
    table, word = alias_table(), np.stack([words.next(n) for words in streams])
    column = word & _ALIAS
    packed = table.packed.take(column, mode="wrap")
    # With its low bits set a word is below `packed` just when its high bits are: the alias there decides nothing.
    values = np.where((word | _ALIAS) < packed, column, packed & _ALIAS).astype(np.int32)
    for at in np.flatnonzero((word ^ packed) <= _ALIAS):
        row, i = divmod(int(at), n)
        values[row, i] = settled(int(word[row, i]), streams[row])
    values -= CENTRE
    return values


def settled(word: int, words: Words) -> int:
    """What a word gives whose first 17 bits are the threshold's own, once in 131,072 draws: the stream's next 96 decide.

    It is the table's column, from which `CENTRE` is to be taken off.
    """
    table, own = alias_table(), word & (COLUMNS - 1)
    more = int.from_bytes(words.next((MASS_BITS - TOP_BITS) // 32).tobytes(), "little")
    return own if more < table.rest[own] else int(table.packed[own]) & (COLUMNS - 1)
