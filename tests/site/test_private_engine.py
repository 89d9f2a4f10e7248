"""The private engine: the right amount of noise on the right sum, as often as it was charged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhealth.core.errors import Refused
from fedhealth.core.pull import Pull
from fedhealth.core.training import LocalTraining
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, weights_of
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.patient_level import Course
from fedhealth.site.engines.plain import Plain
from fedhealth.site.private_engine import PrivateEngine, bears

#: One step of plain descent at rate 1: what the weights lose is the gradient.
ONE = LocalTraining(steps=1, learning_rate=1.0)
#: So little noise that it does not show beside a gradient.
SILENT = Course(rate=1.0, steps=1, noise_multiplier=1e-6)


def engine(course=SILENT, *, size=20, left=1000, patients=None, **settings):
    mechanism = DpSgd(**{"epsilon": None, "noise_multiplier": course.noise_multiplier, **settings})
    return PrivateEngine(
        mechanism=mechanism, course=course, size=size, left=left, bound=mechanism.max_grad_norm,
        source=NoiseSource(insecure_seed=4), patients=patients,
    )  # fmt: skip


def people(n=20, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), (rng.random(n) < 0.5).astype(np.float32)


def step(made, x, y, model=None, training=ONE, **how):
    """What each weight lost."""
    network = first_network(model or Logistic(), x.shape[1], seed=1)
    before = weights_of(network)
    made.fit(network, x, y, training, np.random.default_rng(0), **how)
    return {name: before[name] - array for name, array in weights_of(network).items()}


def clipped(x, y, bound):
    """At weights of 0 a patient's gradient is 1/2 - y times the row and 1; clipped and summed by a loop."""
    total = np.zeros(x.shape[1] + 1)
    for row, outcome in zip(x.astype(float), y, strict=True):
        one = (0.5 - outcome) * np.append(row, 1.0)
        total += one * min(1.0, bound / np.linalg.norm(one))
    return total


def test_a_step_is_the_clipped_sum_over_the_expected_number_of_patients():
    x, y = people()
    lost = step(engine(size=40, max_grad_norm=0.5), x, y)
    expected = clipped(x, y, 0.5) / 40  # 20 take part, and 40 are expected: what is drawn must not show
    np.testing.assert_allclose(np.append(lost["weight"], lost["bias"]), expected, atol=1e-5)


def test_the_noise_of_a_step_is_as_charged():
    course = Course(rate=0.5, steps=400, noise_multiplier=2.0)
    made = engine(course, size=10, max_grad_norm=0.5)
    x = np.zeros((8, 100), dtype=np.float32)
    # The rows are 0, so the weights' gradient is noise alone, of 2 · 0.5 / (0.5 · 10) in each of 400 steps.
    lost = step(made, x, np.ones(8, dtype=np.float32), training=replace(ONE, steps=400))
    assert lost["weight"].std() == pytest.approx(math.sqrt(400) * 0.2, rel=0.35)
    assert abs(lost["weight"].mean()) < 5 * math.sqrt(400) * 0.2 / 10


def test_a_step_without_any_patient_is_taken_all_the_same():
    lost = step(engine(Course(1.0, 1, 1.0)), np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.float32))
    assert (lost["weight"] != 0).all()


def test_patients_are_drawn_anew_in_each_step_at_the_rate():
    """Of patients with one and the same gradient, the sum counts who was drawn."""
    course, n = Course(rate=0.3, steps=1, noise_multiplier=1e-4), 50
    x, y = np.zeros((n, 2), dtype=np.float32), np.zeros(n, dtype=np.float32)
    made = engine(course, size=n)
    counts = [float(step(made, x, y)["bias"][0]) * 0.3 * n / 0.5 for _ in range(300)]
    assert np.mean(counts) == pytest.approx(15, abs=4 * math.sqrt(50 * 0.21 / 300))
    assert np.var(counts) == pytest.approx(50 * 0.21, rel=0.4)


def test_a_patient_with_eight_records_moves_a_step_as_far_as_one_with_one():
    x = np.full((16, 3), 40.0, dtype=np.float32)
    y = np.ones(16, dtype=np.float32)
    whose = np.repeat(np.arange(2), 8)
    lost = step(engine(patients=whose, size=1, max_grad_norm=0.25), x, y)
    # Two patients of one direction: twice the bound. By record it would be sixteen times.
    assert np.linalg.norm(np.append(lost["weight"], lost["bias"])) == pytest.approx(0.5, rel=1e-4)


def test_only_the_named_weights_move_and_a_pull_is_added_without_noise():
    x, y = people()
    model = Mlp(hidden=(4,))
    moved = step(engine(), x, y, model, only=["2.weight"])
    assert {name for name, array in moved.items() if array.any()} == {"2.weight"}
    shift = {"bias": np.array([3.0])}
    lost = step(engine(), x, y, pull=Pull(shift=shift))
    assert lost["bias"][0] - step(engine(), x, y)["bias"][0] == pytest.approx(3.0, abs=1e-4)


def test_no_more_steps_are_taken_than_were_charged():
    x, y = people()
    made = engine(left=3)
    step(made, x, y, training=replace(ONE, steps=2))
    with pytest.raises(Refused) as refused:
        step(made, x, y, training=replace(ONE, steps=2))
    assert refused.value.code == "budget_spent"


def test_no_gradient_and_no_loss_is_told():
    x, y = people()
    network = first_network(Logistic(), 3, seed=1)
    with pytest.raises(Refused, match="by `fit` alone"):
        engine().gradient(network, x, y)
    loss, steps = engine().fit(network, x, y, ONE, np.random.default_rng(0))
    assert math.isnan(loss)
    assert steps == 1


def test_passes_are_counted_by_the_rate_and_not_by_the_patients():
    course = Course(rate=0.25, steps=8, noise_multiplier=1.0)
    for n in (8, 9):
        x, y = people(n)
        _, steps = engine(course).fit(
            first_network(Logistic(), 3, seed=1), x, y, LocalTraining(epochs=2, batch_size=2), np.random.default_rng(0)
        )
        assert steps == 8


def test_adaptive_clipping_follows_the_quantile_of_the_norms():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)).astype(np.float32) * 4
    y = np.ones(400, dtype=np.float32)
    course = Course(rate=1.0, steps=150, noise_multiplier=1.0)
    made = engine(course, size=400, clipping="adaptive", quantile=0.5, max_grad_norm=0.01)
    # So slow that the weights stay at 0, where the norms are known.
    step(made, x, y, training=LocalTraining(steps=150, learning_rate=1e-9))
    norms = 0.5 * np.sqrt(1 + (x.astype(float) ** 2).sum(axis=1))
    assert made.bound == pytest.approx(np.median(norms), rel=0.1)


def test_the_same_seed_repeats_a_round_and_secure_noise_does_not():
    x, y = people()
    course = Course(rate=0.5, steps=3, noise_multiplier=1.0)
    training = replace(ONE, steps=3)
    one, again = (step(engine(course), x, y, training=training) for _ in range(2))
    np.testing.assert_array_equal(one["weight"], again["weight"])
    secure = [replace(engine(course), source=NoiseSource()) for _ in range(2)]
    one, again = (step(made, x, y, training=training) for made in secure)
    assert not np.array_equal(one["weight"], again["weight"])


def test_a_patient_more_moves_the_sum_by_no_more_than_the_bound_rounding_included():
    rng = np.random.default_rng(3)
    model = Mlp(hidden=(8,), normalisation="layer")
    x = (rng.normal(size=(300, 6)) * np.exp(6 * rng.normal(size=(300, 1)))).astype(np.float32)
    y = (rng.random(300) < 0.5).astype(np.float32)
    sums = [step(engine(size=1, max_grad_norm=0.1), x[:n], y[:n], model) for n in (299, 300)]
    moved = math.sqrt(sum(float(((sums[1][name] - sums[0][name]).astype(float) ** 2).sum()) for name in sums[0]))
    # Float32 weights leave, and a sum of 300 patients' is as long as 30.
    assert moved <= 0.1 + 1e-4
    assert torch.get_num_threads() == 1


def test_weights_at_which_rounding_could_pass_the_clip_are_refused_by_what_is_known_outside():
    x, y = people()
    network = first_network(Mlp(hidden=(8, 8)), 3, seed=1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1e6)
    with pytest.raises(Refused, match="rounding must move a private sum") as refused:
        engine().fit(network, x, y, ONE, np.random.default_rng(0))
    assert refused.value.code == "weights_too_large"
    with pytest.raises(Refused, match="rounding"):  # nobody's row has any part in it
        engine().fit(network, x[:0], y[:0], ONE, np.random.default_rng(0))


def test_a_patients_risk_is_the_same_to_the_last_bit_whoever_is_scored_beside():
    x, _ = people(101, 20)
    network = first_network(Mlp(hidden=(40, 30)), 20, seed=1)
    together = engine().predict(network, x)
    assert [engine().predict(network, x[i : i + 1])[0] for i in range(101)] == together.tolist()
    np.testing.assert_allclose(together, Plain().predict(network, x), rtol=1e-5)


def test_risks_have_no_number_out_of_range():
    network = first_network(Logistic(), 1, seed=1)
    with torch.no_grad():
        network.bias.fill_(-1e30)
    assert engine().predict(network, np.zeros((1, 1), dtype=np.float32))[0] == pytest.approx(0, abs=1e-300)


def test_a_norm_near_the_bound_counts_in_part():
    """At weights of 0 all these patients' norms are the bound: half of them count as inside."""
    x, y = np.zeros((400, 2), dtype=np.float32), np.zeros(400, dtype=np.float32)
    made = engine(Course(1.0, 1, 1e-3), size=400, clipping="adaptive", max_grad_norm=0.5, quantile=0.3, clip_rate=1.0)
    step(made, x, y, training=LocalTraining(steps=1, learning_rate=1e-9))
    # The noise on the count is a twentieth of the patients; counted whole they would give a share of 0 or 1.
    share = 0.3 - math.log(made.bound / 0.5)
    assert share == pytest.approx(0.5, abs=4 * 0.05)


@pytest.mark.parametrize(
    ("told", "noise", "there_may_be"),
    [(1, 1000.0, 13_000), (5000, 10.0, 10_120), (1, 0.01, 1000)],
    ids=["thousands behind the noise, and a thousand since", "grown to twice as many", "grown by a thousand"],
)
def test_rounding_is_bounded_for_as_many_patients_as_there_may_be_behind_the_number_that_was_told(
    monkeypatch, told, noise, there_may_be
):
    asked = []
    monkeypatch.setattr(
        "fedhealth.site.private_engine.check_rounding", lambda exact, *, patients, bound: asked.append(patients)
    )
    x, y = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    step(engine(size=told, statistics_noise=noise), x, y)
    assert min(asked) >= there_may_be


def test_noise_covers_the_clip_and_a_thousandth_more_and_rounding_of_gradients_gets_half_of_that():
    one = engine()
    assert one.sensitivity == pytest.approx(one.bound * (1 + 1 / 1024), rel=1e-12)
    assert bears(0.99 * one.bound / 2048 / 100, patients=100, bound=one.bound)
    assert not bears(1.01 * one.bound / 2048 / 100, patients=100, bound=one.bound)
