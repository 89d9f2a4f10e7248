"""The settings of DP-SGD, and what they make of counts, epsilons and steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.core.training import LocalTraining
from fedhealth.core.update import Update
from fedhealth.privacy import accountant
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.gaussian import epsilon_of
from fedhealth.privacy.patient_level import Course

TEN = LocalTraining(steps=10)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"epsilon": 0.0}, "`privacy.epsilon` must be above 0"),
        ({"epsilon": -1.0}, "`privacy.epsilon` must be above 0"),
        ({"epsilon": math.inf}, "`privacy.epsilon` must be above 0"),
        ({"noise_multiplier": 1.0}, "found both"),
        ({"epsilon": None}, "found neither"),
        ({"epsilon": None, "noise_multiplier": 0.0}, "`privacy.noise_multiplier` must be above 0"),
        ({"delta": 1.0}, "`privacy.delta` must lie in"),
        ({"sampling_rate": 0.0}, "`privacy.sampling_rate` must lie in"),
        ({"max_grad_norm": 0.0}, "`privacy.max_grad_norm` must be above 0"),
        ({"quantile": 1.0}, "`privacy.quantile` must lie between"),
        ({"evaluate_every": 0}, "`privacy.evaluate_every` must be at least 1"),
        ({"score_bins": 1}, "`privacy.score_bins` must be at least 2"),
    ],
)
def test_a_setting_that_protects_nobody_is_refused(settings, found):
    with pytest.raises(SettingError, match=found):
        DpSgd(**settings)


def test_the_noise_is_solved_so_that_the_whole_study_costs_epsilon():
    mechanism = DpSgd(epsilon=3.0, delta=1e-5, evaluate_every=4)
    course = mechanism.course([TEN, TEN], rounds=8, size=100)
    assert course.steps == 20
    events = [
        *[PoissonSampledGaussian(noise_multiplier=course.noise_multiplier, sampling_rate=0.1, count=20)] * 8,
        Gaussian(noise_multiplier=10.0),
        *[Gaussian(noise_multiplier=4.0)] * 3,  # after rounds 4 and 8, and at the end
    ]
    assert accountant.epsilon(events, 1e-5) == pytest.approx(3.0, rel=1e-3)
    assert accountant.epsilon(events, 1e-5) <= 3.0
    assert mechanism.planned(course, 8).epsilon == pytest.approx(accountant.epsilon(events, 1e-5))


def test_where_everybody_takes_part_the_epsilon_is_the_closed_form():
    mechanism = DpSgd(epsilon=None, noise_multiplier=6.0, sampling_rate=1.0)
    planned = mechanism.planned(mechanism.course([TEN], rounds=5, size=100), 5)
    mu = math.sqrt(50 / 6**2 + 1 / 10**2 + 1 / 4**2)
    assert planned.epsilon == pytest.approx(epsilon_of(mu, 1e-5), rel=2e-3)


def test_an_epsilon_that_counts_alone_use_up_is_refused():
    with pytest.raises(SettingError, match="must leave something for training"):
        DpSgd(epsilon=0.5, evaluation_noise=2.0).course([TEN], rounds=1, size=100)


def test_a_batch_becomes_a_rate_by_the_number_that_was_told_and_must_not_be_larger():
    mechanism = DpSgd(sampling_rate=None, epsilon=None, noise_multiplier=1.0)
    training = LocalTraining(batch_size=32, epochs=2)
    assert mechanism.course([training], rounds=1, size=128) == Course(0.25, 8, 1.0)
    with pytest.raises(SettingError, match="`training.batch_size` must be at most"):
        mechanism.course([training], rounds=1, size=31)


def test_a_pass_is_as_many_steps_as_it_takes_to_draw_everybody_once_on_average():
    found = [DpSgd().steps(LocalTraining(epochs=3), rate) for rate in (1.0, 0.5, 0.3, 0.1)]
    assert found == [3, 6, 12, 30]


def test_a_seed_makes_every_event_unbounded_and_the_words_say_so():
    mechanism = DpSgd(insecure_seed=1)
    course = mechanism.course([TEN], rounds=2, size=100)
    assert mechanism.event("train", course) == mechanism.event("evaluate") == Unbounded()
    assert "no bound" in str(mechanism.planned(course, 2))
    assert mechanism.statement().startswith("NOT PRIVATE")
    assert "ε" not in mechanism.statement()


def test_counts_leave_with_noise_of_the_stated_size_and_their_weight_is_a_noisy_count_too():
    mechanism, n = DpSgd(), 4000
    left = mechanism.privatise(Update(150, {"sum": np.zeros(n)}, {"shared": 1.0}), what="evaluate")
    assert left.update.arrays["sum"].std() == pytest.approx(4.0, rel=0.06)  # 5 standard errors
    assert left.update.weight != 150
    assert left.update.metrics == {"shared": 1.0}
    assert left.spend.is_private
    shape = [
        mechanism.privatise(Update(150, {"sum": np.array([150.0, 50.0, 50.0])}), what="query.shape") for _ in range(400)
    ]
    told = np.array([one.update.arrays["sum"] for one in shape])
    np.testing.assert_allclose(told.std(axis=0), 10.0, rtol=0.2)
    assert [one.update.weight for one in shape] == np.maximum(told[:, 0], 0).tolist()


def test_training_leaves_without_its_loss():
    left = DpSgd().privatise(Update(80, {"weight": np.ones(3)}, {"loss": 0.3}), what="train")
    assert left.update.metrics == {}
    assert left.update.weight == 80


@pytest.mark.parametrize("what", ["query.moments", "query.spread", "query.anything"])
def test_what_has_no_private_form_is_refused(what):
    with pytest.raises(Refused) as refused:
        DpSgd().privatise(Update(80, {"sum": np.ones(3)}), what=what)
    assert refused.value.code == "not_private"


def test_adaptive_clipping_pays_for_its_count_with_noise_on_the_sum():
    mechanism = DpSgd(epsilon=None, noise_multiplier=1.5, clipping="adaptive", sampling_rate=0.1)
    course = mechanism.course([TEN], rounds=1, size=400)
    spread, left = mechanism.count_noise(course, 400), mechanism.sum_noise(course, 400)
    assert spread == 2.0  # a twentieth of 40
    # The count moves by half a patient: two Gaussians, whose squared shifts add.
    assert 1 / left**2 + (0.5 / spread) ** 2 == pytest.approx(1 / 1.5**2)
    assert left > 1.5


@pytest.mark.parametrize(
    ("rate", "noise", "rule"),
    [(0.0, 1.0, "sampling rate must lie in"), (1.5, 1.0, "sampling rate must lie in"), (math.nan, 1.0, "sampling rate"),
     (0.1, 0.0, "noise multiplier must be above 0"), (0.1, math.inf, "noise multiplier must be above 0")],
)  # fmt: skip
def test_no_hospital_trains_by_a_course_without_a_chance_or_without_noise(rate, noise, rule):
    with pytest.raises(SettingError, match=rule):
        Course(rate, 1, noise)


@pytest.mark.parametrize("rate", [0.0, 10.1, math.inf, math.nan])
def test_a_bound_follows_its_quantile_at_a_rate_that_a_step_survives(rate):
    with pytest.raises(SettingError, match=r"`privacy.clip_rate` must lie in \(0, 10\]"):
        DpSgd(clipping="adaptive", clip_rate=rate)


@pytest.mark.parametrize(
    ("noise", "share"), [(1e-300, 1.0), (1e-160, 1.0), (1e160, math.sqrt(4 / 3)), (1e300, math.sqrt(4 / 3))]
)
def test_the_noise_beside_an_adaptive_count_is_a_number_at_any_size_of_noise(noise, share):
    mechanism = DpSgd(epsilon=None, noise_multiplier=noise, clipping="adaptive")
    # A count with noise of 2 patients costs next to nothing beside so little on the sum, and a quarter where it has as much.
    assert mechanism.sum_noise(Course(0.1, 1, noise), 400) == pytest.approx(noise * share, rel=1e-12, abs=0)
