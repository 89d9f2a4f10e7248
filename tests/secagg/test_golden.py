"""Every byte of a round, against the protocol written a second time on other libraries."""

from __future__ import annotations

import struct

import pytest
from masked_round import MaskedRound, identity_of, seed_of, terms_of, words_of
from secagg_reference import Reference


@pytest.mark.parametrize(
    ("n", "colluders", "bits", "before_mask", "before_reveal"),
    [(3, 0, 32, [], []), (5, 0, 32, [1], [4]), (4, 1, 64, [], [2]), (5, 1, 64, [3], [])],
)
def test_a_round_is_byte_for_byte_the_one_written_a_second_time(n, colluders, bits, before_mask, before_reveal):
    terms = terms_of(n, d=7, bits=bits, colluders=colluders, task=bytes(range(32)), round=9)
    layout = struct.pack(">BQQQH", bits, 1000, max(n, 3), 0, 1) + b"w\0\0\0\5model" + struct.pack(">Id", 6, 1.0)
    reference = Reference(
        {
            "study": "study",
            "round": 9,
            "min_cohort": 3,
            "colluders": colluders,
            "losses_percent": 30,
            "task": bytes(range(32)),
            "layout": layout,
        },
        terms.names,
        [identity_of(name).private_bytes_raw() for name in terms.names],
        [seed_of(name) for name in terms.names],
        [words_of(terms, name).tolist() for name in terms.names],
        bits,
        seed_of("coordinator"),
    )
    expected, total = reference.run(before_mask, before_reveal)
    masked = MaskedRound(terms)
    lost = {"mask": [terms.names[i] for i in before_mask], "reveal": [terms.names[i] for i in before_reveal]}
    assert masked.run(lost) == total
    assert masked.transcript == expected
