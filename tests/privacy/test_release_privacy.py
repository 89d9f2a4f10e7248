"""The privacy of a release: its noise, what it costs, and what it lets nobody ask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.lattice import Sharing
from fedhealth.core.privacy_event import Gaussian, Unbounded
from fedhealth.core.update import Update
from fedhealth.privacy import accountant
from fedhealth.privacy.distributed import lattices
from fedhealth.privacy.noise import WIDE_SIGMA, NoiseSource
from fedhealth.privacy.noise_share import NoiseShare
from fedhealth.privacy.release import Release
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.plain import Plain as Unmasked
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.site.masked_round import with_noise

ASKED = "query.margins"


@pytest.mark.parametrize("epsilon", [0.1, 1, 3, 8])
def test_the_noise_is_the_least_with_which_a_gaussian_keeps_epsilon(epsilon):
    """Delta by the definition of Balle and Wang, written out; two thousandths less noise would not do."""
    made = Release(epsilon=epsilon)

    def delta(noise):
        a, b = 1 / (2 * noise), epsilon * noise
        return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)

    assert delta(made.noise_multiplier) <= 1e-6 < delta(made.noise_multiplier * 0.998)
    assert made.planned().epsilon == accountant.epsilon([made.event(ASKED)], made.delta)
    assert 0.995 * epsilon < made.planned().epsilon <= epsilon


@pytest.mark.parametrize(("shares", "hospitals"), [(2, 3), (11, 12)])
def test_the_sum_has_the_noise_of_its_hospitals_shares_and_covers_what_rounding_adds(shares, hospitals):
    sharing = Sharing(hospitals, hospitals, hospitals - shares)
    made, d = Release(epsilon=3), 20_000
    content = Noised({"sum": (d,)}, lattices(made, rounds=1, sharing=sharing)(ASKED, d))
    layout, source = content.layout(hospitals), NoiseSource(insecure_seed=1)
    words = []
    for k in range(hospitals):
        weight, values = content.values(Update(1, {"sum": np.zeros(d)}))
        words.append(with_noise(encode(layout, weight, values, bytes([k]) * 32), NoiseShare(content.lattice, source)))
    found = content.read(decode(layout, np.sum(words, axis=0, dtype=words[0].dtype), hospitals)).arrays["sum"]
    expected = made.noise_multiplier * math.sqrt(hospitals / shares)
    assert found.std() == pytest.approx(expected, rel=0.02)
    levels = content.lattice.levels
    assert made.noise_multiplier * (levels + math.sqrt(d)) <= WIDE_SIGMA * math.sqrt(shares)


def test_where_masks_are_opened_a_hospitals_share_of_the_noise_is_left():
    made = Release(epsilon=3)
    # Four shares add up to the variance, so one has half the deviation.
    own = accountant.epsilon([Gaussian(noise_multiplier=made.noise_multiplier / 2)], made.delta)
    assert made.opened(sharing=Sharing(5, 3, 1)).epsilon == own


def test_a_release_is_let_out_once_and_only_under_masks():
    made = Release()
    assert made.event(ASKED) == Gaussian(noise_multiplier=made.noise_multiplier)
    assert made.planned_times(ASKED, 20) == 1
    private = made.privatise(Update(9, {"sum": np.ones(3)}), what=ASKED)
    assert (private.update.weight, private.shares_noise) == (1, True)
    with pytest.raises(Refused, match="under masks only"):
        Unmasked().seal(private)


@pytest.mark.parametrize("what", ["train", "evaluate", "query.shape", "query.moments"])
def test_whatever_else_is_asked_is_refused(what):
    made = Release()
    asks = [
        lambda: made.event(what),
        lambda: made.planned_times(what, 3),
        lambda: made.privatise(Update(1, {}), what=what),
        lambda: made.lattice(what, 10, rounds=1, sharing=Sharing(3, 3, 1)),
    ]
    for ask in asks:
        with pytest.raises(Refused, match="nothing else") as refused:
            ask()
        assert refused.value.code == "not_private"


def test_a_seeded_release_claims_nothing():
    made = Release(insecure_seed=3)
    assert made.event(ASKED) == Unbounded()
    assert "no bound" in str(made.planned())
    assert "NOT PRIVATE" in made.statement()


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"epsilon": -1.0}, {"epsilon": 1e3}, {"delta": 0}, {"delta": 1.0}])
def test_what_would_be_no_privacy_is_refused(wrong):
    with pytest.raises(SettingError, match="must"):
        Release(**wrong)
