"""Every random stream is H(seed, round, site, purpose).

No generator is ever shared or drawn from in turn. A stream depends on its own name
alone, so adding, removing or reordering hospitals leaves every other hospital's stream
as it was, and any round can be run again by itself.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


def seed_of(seed: int, *, purpose: str, round_: int = 0, site: str = "") -> int:
    """A 64-bit seed named by its parts: the first 8 bytes of SHA-256 over them.

    The parts are joined with their lengths, so no two different names collide by
    concatenation.
    """
    parts = (str(seed), str(round_), site, purpose)
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def rng_of(seed: int, *, purpose: str, round_: int = 0, site: str = "") -> np.random.Generator:
    """The numpy generator of the stream with that name."""
    return np.random.Generator(np.random.SFC64(seed_of(seed, purpose=purpose, round_=round_, site=site)))


def chosen(names: Iterable[str], fraction: float, *, seed: int, round_: int, at_least: int = 1) -> list[str]:
    """The hospitals that take part in a round, chosen by hash and not by a shared draw.

    Each name has its own ticket H(seed, round, name, "sample") in [0, 1) and takes part
    when the ticket lies below `fraction`; where fewer than `at_least` do, the lowest
    tickets go. Whether one hospital takes part therefore never depends on which others
    exist (but for that last rule). The share is `fraction` in expectation, not exactly.
    """
    tickets = {name: seed_of(seed, purpose="sample", round_=round_, site=name) / 2**64 for name in names}
    drawn = [name for name, ticket in tickets.items() if ticket < fraction]
    if len(drawn) < at_least:
        drawn = sorted(tickets, key=tickets.__getitem__)[:at_least]
    return sorted(drawn)
