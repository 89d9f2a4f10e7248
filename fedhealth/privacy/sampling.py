"""Poisson sampling: which patients take part in a step, by secret coins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.privacy.noise import Words

#: Words drawn at a time: no more than a stream gives at once.
_BLOCK = 1 << 15


def drawn(n: int, rate: float, coins: Words) -> NDArray[np.int64]:
    """The numbers below `n` that are in, each by the stream's next coin; their count is as secret as they are.

    The chance is `rate` rounded down to a multiple of 2^-32, so never more than was accounted.

    Raises:
        SettingError: `rate` is not in (0, 1].
    """
    below = _below(rate)
    blocks = [coins.next(min(_BLOCK, n - start)) < below for start in range(0, n, _BLOCK)]
    return np.flatnonzero(np.concatenate(blocks)) if blocks else np.empty(0, dtype=np.int64)


def drawn_in_steps(n: int, rate: float, coins: Words, steps: int) -> list[NDArray[np.int64]]:
    """What `drawn` gives in so many steps, one after the other.

    Raises:
        SettingError: `rate` is not in (0, 1].
    """
    if not 0 < n <= _BLOCK:
        return [drawn(n, rate, coins) for _ in range(steps)]
    below, many = _below(rate), _BLOCK // n
    found: list[NDArray[np.int64]] = []
    for start in range(0, steps, many):
        size = min(many, steps - start)
        heads = np.flatnonzero(coins.next(size * n) < below)
        found += np.split(heads % n, np.searchsorted(heads, n * np.arange(1, size)))
    return found


def _below(rate: float) -> np.uint64:
    if not 0 < rate <= 1:
        raise SettingError(f"a sampling rate must lie in (0, 1], found {rate}. Use 1 for everybody in every step.")
    return np.uint64(rate * 2**32)
