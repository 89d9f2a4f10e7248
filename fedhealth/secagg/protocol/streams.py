"""Masks: AES-256 in counter mode, added to or taken from a vector of words modulo 2^32 or 2^64.

A key is used for one stream, so the counter starts at zero. Where a stream has to be cut,
the counter seeks: word i is the same whatever the block size and the number of threads.
The vector goes through memory once, block by block, however many streams there are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers import CipherContext
    from numpy.typing import NDArray

CIPHER_BLOCK = 16
#: Zeros, keystream and a piece of the vector stay in the second-level cache together.
BLOCK_BYTES = 256 * 1024


def keystream(key: bytes, size_bytes: int, *, start: int = 0) -> bytes:
    """Bytes `start` to `start + size_bytes` of the stream of a 32-byte key; `start` is a multiple of 16."""
    return cipher_of(key, start).update(bytes(size_bytes))


def cipher_of(key: bytes, start: int = 0) -> CipherContext:
    """The stream of a 32-byte key from byte `start` on, as a cipher that turns zeros into it."""
    counter = (start // CIPHER_BLOCK).to_bytes(CIPHER_BLOCK, "big")
    return Cipher(AES(key), CTR(counter)).encryptor()


def add_streams(
    words: NDArray[np.unsignedinteger],
    plus: Sequence[bytes],
    minus: Sequence[bytes],
    *,
    threads: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> None:
    """Add the streams of the keys in `plus` to `words`, in place, and take off those in `minus`.

    Args:
        words: [d], little-endian unsigned integers of 4 or 8 bytes, contiguous and writeable.
        plus: 32-byte keys.
        minus: 32-byte keys.
        threads: pieces of the vector worked on at once, none below a block. The cipher lets other threads run.
        block_bytes: a multiple of 16.
    """
    if words.dtype not in (np.dtype("<u4"), np.dtype("<u8")) or not words.flags.c_contiguous or block_bytes % 16:
        raise ValueError("words are contiguous <u4 or <u8, blocks a multiple of 16 bytes")
    if not plus and not minus:
        return
    per_cipher_block = CIPHER_BLOCK // words.itemsize
    piece = max(-(-len(words) // (threads * per_cipher_block)) * per_cipher_block, block_bytes // words.itemsize)
    starts = range(0, len(words), piece)

    def work(start: int) -> None:
        _add(words[start : start + piece], plus, minus, start * words.itemsize, block_bytes)

    if len(starts) <= 1:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(len(starts)) as pool:
        list(pool.map(work, starts))


def _add(
    piece: NDArray[np.unsignedinteger],
    plus: Sequence[bytes],
    minus: Sequence[bytes],
    offset_bytes: int,
    block_bytes: int,
) -> None:
    """Work on the part of a vector that begins `offset_bytes` into it."""
    added = [cipher_of(key, offset_bytes) for key in plus]
    taken = [cipher_of(key, offset_bytes) for key in minus]
    block_bytes = min(block_bytes, piece.nbytes)
    zeros = memoryview(bytes(block_bytes))
    stream = bytearray(block_bytes + CIPHER_BLOCK)
    mask = np.frombuffer(stream, dtype=piece.dtype)
    step = block_bytes // piece.itemsize
    for start in range(0, len(piece), step):
        view = piece[start : start + step]
        nothing, now = zeros[: view.nbytes], mask[: len(view)]
        for cipher in added:
            cipher.update_into(nothing, stream)
            np.add(view, now, out=view)
        for cipher in taken:
            cipher.update_into(nothing, stream)
            np.subtract(view, now, out=view)
