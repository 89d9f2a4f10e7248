"""Central privacy: how far a hospital moves the mean, what the noise is, and what is promised of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.update import Update
from fedhealth.privacy.central import Central
from fedhealth.privacy.gaussian import epsilon_of

LITTLE = Central(epsilon=None, noise_multiplier=1e-4, clipping_norm=2.0)


def updates(hospitals=5, d=40, *, length=7.0):
    drawn = np.random.default_rng(3).normal(size=(hospitals, d))
    return list(length * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"epsilon": 0.0}, "`privacy.epsilon` must be above 0"),
        ({"epsilon": math.inf}, "`privacy.epsilon` must be above 0"),
        ({"noise_multiplier": 1.0}, "found both"),
        ({"epsilon": None}, "found neither"),
        ({"epsilon": None, "noise_multiplier": -1.0}, "`privacy.noise_multiplier` must be above 0"),
        ({"clipping_norm": 0.0}, "`privacy.clipping_norm` must be above 0"),
        ({"delta": 1.0}, "`privacy.delta` must lie in"),
    ],
)
def test_a_setting_that_protects_nobody_is_refused(settings, found):
    with pytest.raises(SettingError, match=found):
        Central(**settings)


@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_the_epsilon_of_all_rounds_is_that_of_one_gaussian_in_closed_form(rounds):
    planned = Central(epsilon=None, noise_multiplier=3.0).planned(rounds)
    assert planned.epsilon == pytest.approx(epsilon_of(math.sqrt(rounds) / 3.0, 1e-5), rel=1e-3)
    assert planned.epsilon >= epsilon_of(math.sqrt(rounds) / 3.0, 1e-5)


def test_the_noise_is_solved_so_that_all_planned_rounds_cost_epsilon_and_hardly_less():
    mechanism = Central(epsilon=4.0)
    exact = epsilon_of(math.sqrt(12) / mechanism.multiplier(12), 1e-5)
    assert 3.99 < exact <= 4.0
    assert mechanism.planned(12).epsilon <= 4.0


def test_the_guarantee_names_the_hospital_the_models_and_the_coordinator_it_is_not_against():
    said = str(Central().planned(3))
    for words in ("(ε = 8, δ = 1e-05) for a hospital with all its patients", "replaced by zeros in all rounds",
                  "the models of all rounds, other hospitals included, but not the coordinator", "no sampling", "PLD"):  # fmt: skip
        assert words in said
    assert "a patient" not in said


def test_a_seed_takes_the_promise_back_everywhere():
    seeded = Central(insecure_seed=1)
    assert seeded.statement().startswith("NOT PRIVATE")
    assert seeded.planned(3).epsilon == math.inf
    assert "ε" not in str(seeded.planned(3))


def test_one_hospital_zeroed_moves_the_mean_by_the_clip_over_their_number_and_no_further():
    # A seed gives both means one noise, so that their difference is the hospital's part alone.
    mechanism = Central(epsilon=None, noise_multiplier=1e-4, clipping_norm=2.0, insecure_seed=1)
    whole = updates()
    for place in range(5):
        without = [np.zeros(40) if i == place else u for i, u in enumerate(whole)]
        one, other = (mechanism.noised_mean(found, rounds=1, round_=1) for found in (whole, without))
        assert np.linalg.norm(one - other) == pytest.approx(2.0 / 5, rel=1e-6)


@pytest.mark.parametrize("length", [1e-30, 0.5, 2.0, 1e30])
def test_what_a_hospital_puts_into_the_sum_is_within_the_clip_and_a_short_update_is_whole(length):
    (update,) = updates(1, length=length)
    clipped = LITTLE.clipped(update)
    assert np.linalg.norm(clipped) <= 2.0 * (1 + 1e-12)
    assert np.allclose(clipped, update * min(1, 2.0 / length))


def test_a_hospital_that_learned_nothing_is_a_zero_in_the_mean():
    zero = np.zeros(40)
    assert np.array_equal(LITTLE.clipped(zero), zero)
    assert np.abs(LITTLE.noised_mean([zero] * 3, rounds=1, round_=1)).max() < 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_an_update_without_a_length_is_refused(bad):
    with pytest.raises(DataError, match="must be finite"):
        LITTLE.noised_mean([np.full(3, bad)], rounds=1, round_=1)


def test_the_noise_of_the_mean_is_the_multiplier_times_the_clip_over_the_number_of_hospitals():
    mechanism = Central(epsilon=None, noise_multiplier=3.0, clipping_norm=0.5)
    noise = mechanism.noised_mean([np.zeros(100_000)] * 6, rounds=1, round_=1)
    # Four deviations of a sample deviation: 4 / sqrt(2 n). The lattice makes it a little more, never less.
    assert noise.std() / (3.0 * 0.5 / 6) == pytest.approx(1.0, abs=4 / math.sqrt(2e5) + 2e-3)
    assert abs(noise.mean()) < 4 * (3.0 * 0.5 / 6) / math.sqrt(1e5)


def test_the_mean_is_the_same_to_the_bit_in_whatever_order_hospitals_come():
    mechanism = Central(epsilon=None, noise_multiplier=1.0, insecure_seed=1)
    found = [mechanism.noised_mean(order, rounds=2, round_=1) for order in (updates(), updates()[::-1])]
    assert np.array_equal(*found)


def test_each_round_has_noise_of_its_own_and_a_seed_repeats_it():
    for seed in (None, 4):
        mechanism = Central(epsilon=None, noise_multiplier=1.0, insecure_seed=seed)
        drawn = [mechanism.noised_mean([np.zeros(8)], rounds=2, round_=round_) for round_ in (1, 2, 1)]
        assert not np.array_equal(drawn[0], drawn[1])
        assert np.array_equal(drawn[0], drawn[2]) == (seed is not None)


def test_numpys_global_generator_has_no_part_in_the_noise():
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - what must not matter
        drawn.append(Central(epsilon=None, noise_multiplier=1.0).noised_mean([np.zeros(8)], rounds=1, round_=1))
    assert not np.array_equal(*drawn)


def test_an_update_leaves_the_hospital_whole_without_its_loss_and_as_an_event_without_bound():
    update = Update(30.0, {"w": np.ones(2)}, {"loss": 0.3})
    train, evaluate = (Central().privatise(update, what=what) for what in ("train", "evaluate"))
    assert train.update.arrays is update.arrays
    assert (train.update.metrics, evaluate.update.metrics) == ({}, {"loss": 0.3})
    assert not train.spend.is_private
    assert str(train.spend).endswith("no bound, ε = ∞")
