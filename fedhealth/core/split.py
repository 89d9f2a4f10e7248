"""The split: which of a hospital's patients train, validate and test."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.seeds import seed_of
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("train", "validation", "test")
#: Patients whose digests are in memory together.
_AT_ONCE = 65_536


@settings
class Split:
    """The share of a hospital's patients in each part; the shares sum to 1.

    `turn` moves who is where, by so much of the whole: with test=0.2, the five turns 0, 0.2, 0.4, 0.6
    and 0.8 test every patient once.
    """

    train: float = 0.6
    validation: float = 0.2
    test: float = 0.2
    turn: float = 0.0

    def __post_init__(self) -> None:
        shares = [self.train, self.validation, self.test]
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise SettingError(
                f"the shares of train, validation and test must be at least 0 and sum to 1, found {shares}. "
                "Correct one of them."
            )
        if not (self.train and self.test):
            raise SettingError(
                f"train and test must have a share above 0 each, found {shares}. Without patients to train on there is "
                "no model, and without patients to test on no result."
            )

        if not 0 <= self.turn < 1:
            raise SettingError(f"`split.turn` must lie in [0, 1), found {self.turn}. Use 0 for the usual split.")

    def assign(self, patients: NDArray[np.str_], *, seed: int, site: str) -> NDArray[np.str_]:
        """The part of each patient, [n], as `places` has it."""
        return np.array(PARTS)[self.places(patients, seed=seed, site=site)]

    def places(self, patients: NDArray[np.str_], *, seed: int, site: str) -> NDArray[np.int8]:
        """The place in `PARTS` of each patient's part, [n], by a hash of the pseudonym.

        Each patient has a ticket in [0, 1) that depends on the seed, the hospital and the
        pseudonym alone, so a patient who joins or leaves moves no other. The shares are
        met in expectation, not exactly.
        """
        key = seed_of(seed, purpose="split", site=site).to_bytes(8, "big")
        tickets = np.empty(len(patients))
        for start in range(0, len(patients), _AT_ONCE):
            some = patients[start : start + _AT_ONCE].tolist()
            digests = b"".join(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest() for name in some)
            tickets[start : start + len(some)] = (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)) / 2.0**53
        if self.turn:
            tickets = (tickets + self.turn) % 1.0
        edges = np.cumsum([self.train, self.validation, self.test])
        return np.searchsorted(edges / edges[-1], tickets, side="right").astype(np.int8)
