"""Streams that are begun together: numpy's own hash of a seed is the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.seeds import Streams, hashed, rng_of


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_seeds_are_hashed_together_as_numpy_hashes_each(seeds: list[int]) -> None:
    found = hashed(np.array(seeds, dtype=np.uint64))
    assert found.shape == (len(seeds), 3)
    for seed, words in zip(seeds, found, strict=True):
        np.testing.assert_array_equal(words, np.random.SeedSequence(seed).generate_state(3, np.uint64))


def test_a_site_draws_the_same_whether_its_stream_is_begun_alone_or_with_others() -> None:
    streams = Streams(["ash", "birch"])
    for site in ("birch", "ash", "unheard of"):
        for round_ in (1, 2):
            together = streams.rng_of(7, purpose="batches", round_=round_, site=site)
            alone = rng_of(7, purpose="batches", round_=round_, site=site)
            np.testing.assert_array_equal(together.permutation(50), alone.permutation(50))


def test_a_stream_that_is_asked_for_again_begins_again() -> None:
    streams = Streams(["ash"])
    first, again = (streams.rng_of(7, purpose="batches", round_=1, site="ash").random(5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
