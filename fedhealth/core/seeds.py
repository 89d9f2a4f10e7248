"""Every random stream is H(seed, round, site, purpose).

No generator is ever shared or drawn from in turn. A stream depends on its own name
alone, so adding, removing or reordering hospitals leaves every other hospital's stream
as it was, and any round can be run again by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import DTypeLike, NDArray


def seed_of(seed: int, *, purpose: str, round_: int = 0, site: str = "") -> int:
    """A 64-bit seed named by its parts: the first 8 bytes of SHA-256 over them.

    The parts are joined with their lengths, so no two different names collide by
    concatenation.
    """
    return int.from_bytes(_hashes(seed, purpose, round_, [site]), "big")


def seeds_of(seed: int, *, purpose: str, round_: int, sites: Iterable[str]) -> NDArray[np.uint64]:
    """[sites] each one's `seed_of`."""
    return np.frombuffer(_hashes(seed, purpose, round_, sites), dtype=">u8").astype(np.uint64)


def rng_of(seed: int, *, purpose: str, round_: int = 0, site: str = "") -> np.random.Generator:
    """The numpy generator of the stream with that name."""
    return np.random.Generator(np.random.SFC64(seed_of(seed, purpose=purpose, round_=round_, site=site)))


@dataclass(slots=True)
class Streams:
    """The streams of some sites, `rng_of`'s to the bit.

    All of a name's are begun when the first is asked for: numpy takes longer to hash one seed than to draw from it.

    Attributes:
        sites: the sites; the stream of another is begun by itself.
    """

    sites: Sequence[str]
    _begun: dict[tuple[int, str, int], dict[str, NDArray[np.uint64]]] = field(default_factory=dict, init=False)

    def rng_of(self, seed: int, *, purpose: str, round_: int, site: str) -> np.random.Generator:
        """The stream with that name, fresh each time."""
        name = (seed, purpose, round_)
        if name not in self._begun:
            seeds = seeds_of(seed, purpose=purpose, round_=round_, sites=self.sites)
            self._begun[name] = dict(zip(self.sites, hashed(seeds), strict=True))
        words = self._begun[name].get(site)
        if words is None:
            return rng_of(seed, purpose=purpose, round_=round_, site=site)
        return np.random.Generator(np.random.SFC64(_Hashed(words)))  # type: ignore[arg-type]  # numpy takes its own base class


class _Hashed(ISeedSequence):
    """A seed that has been hashed: what numpy asks one for is at hand."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[Any]:
        """The words, [3], the number and type that SFC64 asks for."""
        del n_words, dtype
        return self._words


def hashed(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[n, 3] what `np.random.SeedSequence(seed).generate_state(3, np.uint64)` gives for each seed, [n].

    Numpy promises these bits for good (NEP 19); the hash is M. E. O'Neill's, "Developing a seed_seq alternative", 2015.
    """
    pool = np.zeros((4, len(seeds)), dtype=np.uint32)
    pool[0], pool[1] = seeds & np.uint64(0xFFFFFFFF), seeds >> np.uint64(32)
    pool = _scrambled(pool, _CONSTANTS[:4])
    for source in range(4):
        others = [place for place in range(4) if place != source]
        told = _scrambled(pool[source], _CONSTANTS[4 + 3 * source : 7 + 3 * source])
        mixed = np.uint32(0xCA01F9DD) * pool[others] - np.uint32(0x4973F715) * told
        pool[others] = mixed ^ mixed >> np.uint32(16)
    words = _scrambled(pool[[0, 1, 2, 3, 0, 1]], _LAST_CONSTANTS).astype(np.uint64)
    return np.ascontiguousarray((words[::2] | words[1::2] << np.uint64(32)).T)


def _hashes(seed: int, purpose: str, round_: int, sites: Iterable[str]) -> bytes:
    """The 8 bytes of each site's seed, one after the other."""
    first, second = str(seed), str(round_)
    before, after = f"{len(first)}:{first}{len(second)}:{second}", f"{len(purpose)}:{purpose}"
    return b"".join(hashlib.sha256(f"{before}{len(site)}:{site}{after}".encode()).digest()[:8] for site in sites)


def _powers(first: int, factor: int, count: int) -> list[tuple[int, int]]:
    """So many pairs of a number and the next, each `factor` times the one before in 32 bits."""
    numbers = [first * pow(factor, k, 1 << 32) % (1 << 32) for k in range(count + 1)]
    return list(pairwise(numbers))


_CONSTANTS = np.array(_powers(0x43B0D7E5, 0x931E8875, 16), dtype=np.uint32)
_LAST_CONSTANTS = np.array(_powers(0x8B51F9DD, 0x58F38DED, 6), dtype=np.uint32)


def _scrambled(words: NDArray[np.uint32], constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """[k, n] the words, [k, n] or [n], each row by its two constants, [k, 2]."""
    found = (words ^ constants[:, :1]) * constants[:, 1:]
    return found ^ found >> np.uint32(16)


def chosen(names: Iterable[str], fraction: float, *, seed: int, round_: int, at_least: int = 1) -> list[str]:
    """The hospitals that take part in a round, chosen by hash and not by a shared draw.

    Each name has its own ticket H(seed, round, name, "sample") in [0, 1) and takes part
    when the ticket lies below `fraction`; where fewer than `at_least` do, the lowest
    tickets go. Whether one hospital takes part therefore never depends on which others
    exist (but for that last rule). The share is `fraction` in expectation, not exactly.
    """
    named = list(names)
    tickets = (seeds_of(seed, purpose="sample", round_=round_, sites=named) / 2.0**64).tolist()
    drawn = [name for name, ticket in zip(named, tickets, strict=True) if ticket < fraction]
    if len(drawn) < at_least:
        drawn = [name for _, name in sorted(zip(tickets, named, strict=True), key=itemgetter(0))[:at_least]]
    return sorted(drawn)
