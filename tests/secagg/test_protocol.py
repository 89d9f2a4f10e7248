"""Rounds as they should go: the exact sum of whoever is left, or no sum."""

from __future__ import annotations

import itertools

import pytest
from masked_round import STEPS, MaskedRound, plain_sum, terms_of

from fedhealth.core.errors import Refused


def is_possible(terms, lost) -> bool:
    """Whether enough sites are left at every step, by counting."""
    left = len(terms.roster) - len(lost.get("advertise", ()))
    t = (left + terms.colluders) // 2 + 1
    possible = left >= terms.min_cohort
    for step in STEPS[1:]:
        left -= len(lost.get(step, ()))
        possible &= left >= (t if step == "reveal" else max(t, terms.min_cohort))
    return possible


def survivors_of(terms, lost) -> set[str]:
    return set(terms.names) - {name for step in ("advertise", "share", "mask") for name in lost.get(step, ())}


def explore(masked: MaskedRound, lost) -> tuple[int, int]:
    """Every way to lose sites from here on, each from a copy of the round so far: sums, and rounds that ended."""
    step = STEPS[masked.server.phase]
    messages = masked.messages(step)
    sums = ended = 0
    for size in range(len(messages) + 1):
        for some in itertools.combinations(messages, size):
            fork, gone = masked.fork(), {**lost, step: some}
            fork.asked = {name: fork.asked[name] for name in messages if name not in some}
            for name in fork.asked:
                fork.server.take(name, messages[name])
            try:
                found = fork.close()
            except Refused:
                assert not is_possible(masked.terms, gone)
                ended += 1
                continue
            assert is_possible(masked.terms, gone)
            if step == "reveal":
                assert found.tolist() == plain_sum(masked.terms, survivors_of(masked.terms, gone))
                sums += 1
            else:
                more = explore(fork, gone)
                sums, ended = sums + more[0], ended + more[1]
    return sums, ended


# With t of n needed, the rounds that lose at most n - t: every site at one of four steps or at none.
@pytest.mark.parametrize(
    ("n", "sums"),
    [
        (3, 1 + 3),  # t = 2, but three must survive: one may be lost before it reveals
        (4, 1 + 4 * 4),
        pytest.param(5, 1 + 5 * 4 + 10 * 16, marks=pytest.mark.slow),
        pytest.param(6, 1 + 6 * 4 + 15 * 16, marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_losses_ends_in_the_exact_sum_or_in_none(n, sums):
    masked = MaskedRound(terms_of(n, d=3))
    masked.until("share")
    assert explore(masked, {})[0] == sums
