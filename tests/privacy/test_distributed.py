"""Distributed privacy: the share that each hospital adds, the sum it makes, and what cannot be shared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.lattice import Part, Sharing
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian
from fedhealth.core.update import Update
from fedhealth.privacy import accountant
from fedhealth.privacy.distributed import MOST_INFLATION, Distributed, lattices
from fedhealth.privacy.noise import FARTHEST, SIGMA, WIDE_SIGMA, NoiseSource, Words, stretched
from fedhealth.privacy.noise_share import NoiseShare, noise_in, spare_noise
from fedhealth.privacy.plain import Plain
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.plain import Plain as Unmasked
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.site.masked_round import with_noise

ROUNDS = 50
#: Whose share is a half of the whole, all of it needed.
FIVE = Sharing(5, 5, 1)


def mechanism(**settings):
    return Distributed(**{"epsilon": None, "noise_multiplier": 1.3, **settings})


def summed(made, what, vectors, *, sharing, told=None, silent=0, seed=None):
    """What a coordinator makes of these hospitals' vectors, and the noise that it says is in it.

    `told` hospitals tell their keys, all where None; the first `silent` of them add no noise.
    """
    d, n = len(vectors[0]), len(vectors)
    lattice = made.lattice(what, d, rounds=ROUNDS, sharing=sharing)
    content = Noised({"sum": (d,)}, lattice)
    layout, source = content.layout(n), NoiseSource(insecure_seed=seed)
    shares, words = [NoiseShare(lattice, source) for _ in vectors], []
    for k, vector in enumerate(vectors):
        weight, values = content.values(Update(1, {"sum": np.asarray(vector, dtype=np.float64)}))
        own = encode(layout, weight, values, bytes([k]) * 32)
        words.append(own if k < silent else with_noise(own, shares[k]))
    total = np.sum(words, axis=0, dtype=words[0].dtype)
    keys = [[key for least, key in share.spare if n >= least] for share in shares[silent:][:told]]
    total[1:] -= spare_noise(lattice, keys, d).view(total.dtype)
    said = noise_in(lattice, n, told=len(keys), spare=len(keys[0]) if keys else 0)
    return content.read(decode(layout, total, n)).arrays["sum"], said


@pytest.mark.parametrize(
    ("sharing", "in_sum", "needs"),
    [
        (Sharing(3, 3, 1), 3, 2),
        (Sharing(4, 3, 1), 4, 3),
        (Sharing(4, 3, 1), 3, 2),
        (Sharing(12, 6, 1), 12, 11),
        (Sharing(12, 6, 1), 11, 9),  # noise for ten, the size below
        (Sharing(12, 6, 1), 10, 9),
        (Sharing(12, 6, 1), 9, 5),
        (Sharing(12, 6, 1), 6, 5),
        (Sharing(12, 6, 0), 12, 12),
    ],
)
def test_the_noise_of_a_sum_is_what_so_many_survivors_need(sharing, in_sum, needs):
    made, d = mechanism(max_grad_norm=0.7), 20_000
    found, said = summed(made, "train", np.zeros((in_sum, d)), sharing=sharing, seed=3)
    expected = 1.3 * 0.7 * math.sqrt(in_sum / needs)
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert found.mean() == pytest.approx(0, abs=5 * expected / math.sqrt(d))
    # Wider by 1/1024 for what clipping may add, and by the rounding of each number.
    assert said == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("told", [0, 2, 5])
def test_keys_that_do_not_come_leave_more_noise_and_the_coordinator_knows_how_much(told):
    made, d = mechanism(), 20_000
    found, said = summed(made, "train", np.zeros((5, d)), sharing=Sharing(5, 3, 1), told=told, seed=8)
    expected = 1.3 * math.sqrt(told / 4 + (5 - told) / 2)
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert said == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("n", [1, 32_768, 40_000, 70_001])
def test_a_share_is_one_stretched_draw_a_part_however_it_is_cut(n):
    lattice = mechanism().lattice("train", 10, rounds=ROUNDS, sharing=Sharing(12, 6, 1))
    share = NoiseShare(lattice, NoiseSource(insecure_seed=5))
    source = NoiseSource(insecure_seed=5)
    whole = [stretched(n, [Words(source.key())], part.stretch)[0] for part in lattice.parts]
    assert np.array_equal(share.draw(n), sum(whole))


@pytest.mark.parametrize("in_sum", [6, 8])
def test_with_as_many_hospitals_silent_as_may_collude_the_noise_is_what_was_accounted(in_sum):
    made, d = mechanism(), 20_000
    found, _ = summed(made, "train", np.zeros((in_sum, d)), sharing=Sharing(8, 6, 2), silent=2, seed=4)
    assert found.std() == pytest.approx(1.3, rel=0.02)
    assert found.std() > 1.3 * 0.98


@given(st.integers(3, 60), st.integers(0, 57), st.integers(0, 20), st.floats(0.1, 30), st.floats(0, 30))
def test_whoever_stays_and_tells_the_honest_ones_keep_the_noise_that_was_promised(min_cohort, more, t, noise, floor):
    """By the variances alone: of those in the sum less the colluders, each part whose key is told taken off."""
    t = min(t, min_cohort - 2)
    made = mechanism(noise_multiplier=noise, local_noise=floor)
    lattice = made.lattice("train", 100, rounds=ROUNDS, sharing=Sharing(min_cohort + more, min_cohort, t))
    moves = lattice.levels * (1 + 2**-10) + 10  # in steps: the clip of 1, and the root of 100 numbers
    assert sum(part.spare_from is None for part in lattice.parts) == 1
    for in_sum in range(min_cohort, min_cohort + more + 1):
        kept = [part for part in lattice.parts if part.spare_from is None or part.spare_from > in_sum]
        assert tuple(kept) == lattice.parts[: len(kept)]  # what is told is of the last parts
        own = sum(SIGMA**2 * (1 + part.stretch**2) for part in kept)
        assert (in_sum - t) * own >= (noise * moves) ** 2 * (1 - 1e-9)
        assert own >= (floor * moves) ** 2 * (1 - 1e-9)
    assert lattice.margin == sum(16_383 * (1 + part.stretch) for part in lattice.parts)
    assert max(part.stretch for part in lattice.parts) == 480


def test_the_decoded_sum_is_distributed_as_that_of_one_curator():
    """Kolmogorov and Smirnov, against the exact sum with continuous Gaussian noise."""
    made, d = mechanism(noise_multiplier=0.9), 5_000
    vectors = np.random.default_rng(0).normal(size=(5, d))
    found, _ = summed(made, "train", vectors, sharing=Sharing(5, 4, 0), seed=5)
    away = (found - vectors.sum(axis=0)) / 0.9
    assert stats.kstest(away, "norm").pvalue > 1e-3
    # It would tell a tenth more or less noise apart.
    assert stats.kstest(away * 1.1, "norm").pvalue < 1e-3
    assert stats.kstest(away / 1.1, "norm").pvalue < 1e-3


@pytest.mark.parametrize("what", ["query.shape", "evaluate"])
def test_counts_and_scores_get_their_noise_once_for_all_hospitals(what):
    made = mechanism(statistics_noise=12.0, evaluation_noise=5.0)
    found, _ = summed(made, what, np.full((4, 4000), 7.0), sharing=Sharing(4, 3, 1), seed=6)
    expected = (12.0 if what == "query.shape" else 5.0) * math.sqrt(4 / 3)
    assert found.std() == pytest.approx(expected, rel=0.04)
    assert found.mean() == pytest.approx(28, abs=5 * expected / 60)


@pytest.mark.parametrize("d", [1, 100, 100_000, 10_000_000])
def test_a_share_covers_the_clip_and_the_rounding_of_every_number(d):
    """The two conditions, worked out again: WIDE_SIGMA √honest steps are σ times (C s + √d)."""
    made = mechanism(max_grad_norm=2.0)
    lattice = made.lattice("train", d, rounds=ROUNDS, sharing=Sharing(4, 4, 1))
    content = Noised({"sum": (d,)}, lattice)
    (slot,) = content.layout(10).slots
    steps = content.layout(10).scale(slot)  # as it is used, its bound being a float32
    needed = 1.3 * (2.0 * (1 + 2**-10) * steps + math.sqrt(d))
    assert needed <= WIDE_SIGMA * math.sqrt(3) <= needed * (1 + 1e-5)


def test_a_local_floor_makes_the_lattice_coarser_and_the_opened_share_worth_more():
    made, floored = mechanism(), mechanism(local_noise=2.0)
    found = [each.lattice("train", 50, rounds=ROUNDS, sharing=FIVE).levels for each in (made, floored)]
    assert found[1] == pytest.approx(found[0] * (1.3 / 2) / 2.0, rel=1e-3)
    course = made.course(rounds=ROUNDS)
    opened = [each.opened(course, ROUNDS, sharing=FIVE).epsilon for each in (made, floored)]
    assert opened[1] < opened[0]


def test_a_floor_above_every_share_leaves_nothing_to_take_off():
    floored = mechanism(local_noise=2.0).lattice("train", 50, rounds=ROUNDS, sharing=Sharing(12, 6, 1))
    assert floored.parts == (Part(480),)


def test_where_more_hospitals_must_stay_than_there_are_noise_is_for_so_many():
    assert Sharing(3, 5, 1).cohorts == (5,)
    assert Sharing(3, 5, 1).share(3) == 1 / 2


def test_against_fewer_the_guarantee_is_the_better_and_all_are_the_accountants():
    made = mechanism(sampling_rate=0.2)
    course = made.course(rounds=ROUNDS)
    planned, alone = made.planned(course, ROUNDS), made.alone(course, ROUNDS, sharing=FIVE)
    opened = made.opened(course, ROUNDS, sharing=FIVE)
    assert alone.epsilon < planned.epsilon < opened.epsilon
    assert (planned.views, alone.views, opened.views) == (("sums",), ("sums",), ("updates",))
    events = [made.event("train", course)] * ROUNDS + [made.event("query.shape"), made.event("evaluate")]
    assert planned.epsilon == pytest.approx(accountant.epsilon(events, 1e-5), rel=1e-3)


def test_against_fewer_the_guarantee_is_of_the_least_that_stays_which_is_where_all_do():
    """By hand: seven of eight shares make the whole, so all eight are √(8/7) of it and one is √(1/7)."""
    made, eight = mechanism(), Sharing(8, 3, 1)
    course = made.course(rounds=ROUNDS)

    def expected(factor):
        training = PoissonSampledGaussian(noise_multiplier=1.3 * factor, sampling_rate=0.1, count=ROUNDS)
        events = [training, *(Gaussian(noise_multiplier=noise * factor) for noise in (10.0, 4.0))]
        return pytest.approx(accountant.epsilon(events, 1e-5), rel=1e-3)

    assert made.alone(course, ROUNDS, sharing=eight).epsilon == expected((8 / 7) ** 0.5)
    assert made.opened(course, ROUNDS, sharing=eight).epsilon == expected((1 / 7) ** 0.5)


def test_noise_is_solved_for_the_whole_study():
    made = Distributed(epsilon=3.0)
    assert made.planned(made.course(rounds=ROUNDS), ROUNDS).epsilon == pytest.approx(3.0, rel=2e-3)


def test_rounding_that_adds_too_much_is_refused_with_the_numbers():
    with pytest.raises(
        SettingError, match=r"at most 5%.*for 10000000 numbers at a noise multiplier of 28\.9 a hospital"
    ):
        mechanism(noise_multiplier=50.0).lattice("train", 10_000_000, rounds=ROUNDS, sharing=Sharing(4, 4, 1))
    assert MOST_INFLATION == 0.05
    with pytest.raises(SettingError, match="at least 1, found 0"):
        mechanism().lattice("train", 10, rounds=ROUNDS, sharing=Sharing(3, 3, 3))


def test_a_sum_far_beyond_any_batch_still_fits_the_ring_and_noise_never_wraps_it():
    made = mechanism(noise_multiplier=0.01)
    content = Noised({"sum": (4,)}, made.lattice("train", 4, rounds=ROUNDS, sharing=Sharing(1000, 3, 1)))
    layout = content.layout(1000)
    (slot,) = layout.slots
    assert slot.bound > 131_072  # the most patients of a hospital, each at the clip
    words = 1000 * (math.ceil(slot.bound * layout.scale(slot)) + 2 + 3 * FARTHEST)
    assert words < 2**63


@pytest.mark.parametrize("what", ["query.moments", "query.spread"])
def test_what_has_no_private_form_is_refused(what):
    with pytest.raises(Refused, match="private form"):
        mechanism().privatise(Update(1, {"sum": np.zeros(3)}), what=what)
    with pytest.raises(Refused, match="private form"):
        mechanism().lattice(what, 3, rounds=ROUNDS, sharing=FIVE)


def test_what_lacks_its_noise_does_not_leave_without_a_mask():
    private = mechanism().privatise(Update(30, {"a": np.zeros(3)}, {"loss": 0.5}), what="train")
    assert private.shares_noise
    assert (private.update.weight, private.update.metrics) == (1, {})
    with pytest.raises(Refused, match="under masks only"):
        Unmasked().seal(private)


@pytest.mark.parametrize(("settings", "said"), [
    ({"sampling_rate": None}, "sampling_rate"), ({"local_noise": -1.0}, "local_noise"), ({"epsilon": 1.0}, "both"),
])  # fmt: skip
def test_a_wrong_setting_is_refused_in_one_line(settings, said):
    with pytest.raises(SettingError, match=said) as refusal:
        mechanism(**settings)
    assert "\n" not in str(refusal.value)


def test_only_this_mechanism_has_lattices():
    assert lattices(Plain(), rounds=3, sharing=FIVE) is None
    assert lattices(mechanism(), rounds=ROUNDS, sharing=FIVE)("train", 5).parts == (Part(480),)


@pytest.mark.parametrize(
    ("floor", "hospitals", "expected"),
    [(0.0, 3, 4 * (3 / 2) ** 0.5), (0.0, 4, 4 * (4 / 3) ** 0.5), (3.5, 3, 3.5 * 3**0.5), (3.5, 4, 3.5 * 2)],
)
def test_the_noise_that_scores_are_shown_with_is_that_of_shares_or_of_their_floor(
    smoke_study, floor, hospitals, expected
):
    privacy = {"score_bins": 20, "evaluation_noise": 4.0, "local_noise": floor}
    study = replace(smoke_study, privacy=privacy, secagg={"min_cohort": 3, "colluders": 1}, roster=tuple("abcd"))
    assert study.score_noise(hospitals) == pytest.approx(expected)
    # Where each adds the whole, masks or not, all of it is there.
    whole = replace(study, privacy={"score_bins": 20, "evaluation_noise": 4.0})
    assert whole.score_noise(hospitals) == pytest.approx(4 * hospitals**0.5)
