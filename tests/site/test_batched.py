"""The batched engine and the native one against the plain one, their oracle, and against themselves in other company."""

from functools import cache

import numpy as np
import pytest
import torch

from fedhealth.core.pull import Pull
from fedhealth.core.training import LocalTraining
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.engines.plain import Plain
from fedhealth.site.kernels import native
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.kernels.score import ScoreJob
from fedhealth.site.kernels.stack import height, why_not

WIDTH = 8
MODELS = [
    Logistic(), Mlp(hidden=(8,)), Mlp(hidden=(7, 4)), Mlp(hidden=(6,), normalisation="layer"),
    Gru(steps=3, static=2, hidden=5), Gru(steps=8, hidden=8), Cnn(steps=3, static=2, hidden=5, kernel=3), Cnn(steps=2, hidden=3),
]  # fmt: skip
TRAININGS = [
    LocalTraining(epochs=2, batch_size=16, learning_rate=0.1),
    LocalTraining(steps=6, batch_size=16, momentum=0.9, weight_decay=0.1),
    LocalTraining(epochs=2, batch_size=16, optimiser="adamw", learning_rate=0.01, weight_decay=0.1),
    LocalTraining(epochs=2, batch_size=40, clip_norm=0.05),
    LocalTraining(steps=4, batch_size=1000),
]
#: Every model by the batched engine, and by the native one those that it knows.
BOTH = [(Batched(), model) for model in MODELS] + [
    (Native(), model) for model in (*MODELS[:3], Mlp(hidden=(1, 17, 3)), Mlp(hidden=(32, 16)))
]
#: The native engine leaves it to the other where only some of the weights move.
HOOKED = [(e, m, hook) for e, m in BOTH for hook in ("none", "pull", "only") if hook != "only" or type(e) is Batched]
#: Ragged: fewer patients than a mini-batch, one, a whole number of mini-batches, and equally many twice.
SIZES = (60, 33, 7, 64, 1, 33, 16)


def patients(n, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, WIDTH)).astype(dtype)
    return x, (x[:, 0] + rng.normal(size=n) > 0).astype(dtype)


def drawn_network(model, dtype=torch.float64):
    network = first_network(model, WIDTH, seed=3).to(dtype)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=dtype))
    return network


def job(network, weights, training, site, *, dtype=np.float64, **more):
    x, y = patients(SIZES[site], site, dtype)
    return FitJob(network, weights, x, y, training, np.random.default_rng(site), **more)


def by(engine, jobs):
    """What the engine makes of the jobs, none of which the native one leaves to the other."""
    jobs = list(jobs)
    assert not isinstance(engine, Native) or not any(map(native.why_not, jobs))
    return engine.fit_all(jobs)


def by_plain(job):
    load_weights(job.network, job.weights)
    loss, steps = Plain().fit(job.network, job.x, job.y, job.training, job.rng, pull=job.pull, only=job.only)
    return weights_of(job.network), loss, steps


def pulls(weights, site):
    return Pull(
        strength=0.3,
        anchor={name: array + 0.1 for name, array in weights.items()},
        shift={name: np.full_like(array, 0.01 * site) for name, array in weights.items()},
    )


def hooked(network, training, hook):
    """A job a hospital, with what else moves or holds its weights."""
    weights = weights_of(network)
    for site in range(len(SIZES)):
        more = {"pull": pulls(weights, site)} if hook == "pull" else {}
        more |= {"only": frozenset(list(weights)[-1:])} if hook == "only" else {}
        yield job(network, weights, training, site, **more)


@cache
def each_by_plain(model, training, hook):
    """What the plain engine makes of each hospital: the same for both engines."""
    return [by_plain(one) for one in hooked(drawn_network(model), training, hook)]


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: f"{t.optimiser} {t.batch_size}")
@pytest.mark.parametrize(("engine", "model", "hook"), HOOKED, ids=str)
def test_whole_trainings_of_ragged_hospitals_are_the_plain_engines(engine, model, training, hook):
    found = by(engine, hooked(drawn_network(model), training, hook))
    for own, (expected, loss, steps) in zip(found, each_by_plain(model, training, hook), strict=True):
        assert own.steps == steps
        assert own.loss == pytest.approx(loss, abs=1e-12)
        for name, array in expected.items():
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("engine", "model"), BOTH, ids=str)
def test_one_float32_step_is_the_plain_engines(engine, model):
    network = drawn_network(model, torch.float32)
    weights = weights_of(network)
    training = LocalTraining(steps=1, batch_size=32, learning_rate=0.5)
    found = by(engine, [job(network, weights, training, s, dtype=np.float32) for s in range(len(SIZES))])
    for site, own in enumerate(found):
        expected, _, _ = by_plain(job(network, weights, training, site, dtype=np.float32))
        for name, array in expected.items():
            assert own.weights[name].dtype == np.float32
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: f"{t.optimiser} {t.batch_size}")
@pytest.mark.parametrize(("engine", "model"), BOTH, ids=str)
def test_a_hospital_gets_the_same_bits_alone_and_in_any_company(engine, model, training, dtype):
    network = drawn_network(model, torch.float32 if dtype == np.float32 else torch.float64)
    weights = weights_of(network)
    orders = [range(len(SIZES)), reversed(range(len(SIZES)))]
    together, backwards = (
        dict(zip(o, by(engine, [job(network, weights, training, s, dtype=dtype) for s in o]), strict=True))
        for o in map(list, orders)
    )  # fmt: skip
    for site in range(len(SIZES)):
        (alone,) = by(engine, [job(network, weights, training, site, dtype=dtype)])
        for other in (together[site], backwards[site]):
            assert other.loss == alone.loss
            assert all(np.array_equal(other.weights[name], array) for name, array in alone.weights.items())


def test_stacks_of_another_height_give_the_same_bits(monkeypatch):
    network = drawn_network(MODELS[1])
    weights, training = weights_of(network), TRAININGS[0]

    def trained():
        return Batched().fit_all([job(network, weights, training, site) for site in range(len(SIZES))])

    high = trained()
    monkeypatch.setattr("fedhealth.site.kernels.fit.height", lambda *_: 2)
    for one, two in zip(high, trained(), strict=True):
        assert all(np.array_equal(one.weights[name], two.weights[name]) for name in weights)


@pytest.mark.parametrize("engine", [Batched(), Native()], ids=str)
def test_hospitals_that_start_from_weights_of_their_own_keep_them_apart(engine):
    network = drawn_network(MODELS[1])
    starts = [{name: array + site for name, array in weights_of(network).items()} for site in range(3)]
    kept = {name: array.copy() for name, array in starts[0].items()}
    found = by(engine, [job(network, start, TRAININGS[0], site) for site, start in enumerate(starts)])
    assert all(np.array_equal(starts[0][name], array) for name, array in kept.items())
    for site, own in enumerate(found):
        expected, _, _ = by_plain(job(network, starts[site], TRAININGS[0], site))
        np.testing.assert_allclose(own.weights["0.weight"], expected["0.weight"], atol=1e-12)


@pytest.mark.parametrize("engine", [Batched(), Native()], ids=str)
def test_no_later_training_writes_into_a_result(engine):
    network = drawn_network(MODELS[1])
    weights = weights_of(network)
    first = by(engine, [job(network, weights, TRAININGS[0], site) for site in range(3)])
    kept = [{name: array.copy() for name, array in own.weights.items()} for own in first]
    by(engine, [job(network, weights, TRAININGS[1], site) for site in range(3)])
    assert all(
        np.array_equal(own.weights[name], old[name]) for own, old in zip(first, kept, strict=True) for name in old
    )


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_scores_are_the_plain_engines_and_the_same_bits_in_any_company(model):
    network = drawn_network(model)
    weights, other = weights_of(network), {n: a + 0.1 for n, a in weights_of(network).items()}
    jobs = [ScoreJob(network, (weights, other)[s % 2], patients(n, s)[0]) for s, n in enumerate((1, 40, 64, 33, 0))]
    for own, found in zip(jobs, Batched().score_all(jobs), strict=True):
        load_weights(network, own.weights)
        np.testing.assert_allclose(found.probability, Plain().predict(network, own.x), atol=1e-14)
        np.testing.assert_allclose(found.score, Plain().score(network, own.x), atol=1e-13)
        (alone,) = Batched().score_all([own])
        assert np.array_equal(alone.probability, found.probability)


def test_what_no_kernel_knows_is_trained_one_after_the_other_with_the_plain_bits(caplog):
    network = first_network(Mlp(hidden=(4,), normalisation="batch"), WIDTH, seed=3)
    weights = weights_of(network)
    assert "BatchNorm1d, which no kernel knows" in why_not(network)
    jobs = [job(network, weights, TRAININGS[0], site, dtype=np.float32) for site in (0, 3)]
    found = Batched().fit_all(jobs)
    for site, own in zip((0, 3), found, strict=True):
        expected, loss, _ = by_plain(job(network, weights, TRAININGS[0], site, dtype=np.float32))
        assert own.loss == loss
        assert all(np.array_equal(own.weights[name], array) for name, array in expected.items())


def test_steps_that_share_the_greatest_value_share_its_gradient():
    network = drawn_network(Cnn(steps=8, hidden=4, kernel=3))
    weights, x = weights_of(network), np.repeat(patients(40, 1)[0][:, :1], WIDTH, axis=1)  # still, but for the edges
    y = patients(40, 1)[1]
    made = FitJob(network, weights, x, y, TRAININGS[0], np.random.default_rng(1))
    (found,) = Batched().fit_all([made])
    expected, _, _ = by_plain(FitJob(network, weights, x, y, TRAININGS[0], np.random.default_rng(1)))
    for name, array in expected.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-10)


def test_a_network_that_drops_units_at_random_is_not_stacked():
    for model in (Gru(steps=4, dropout=0.1), Cnn(steps=4, dropout=0.1)):
        assert "drops units at random" in why_not(first_network(model, WIDTH, seed=1))
    assert not why_not(first_network(Gru(steps=4), WIDTH, seed=1))


def test_the_working_space_of_networks_over_time_bounds_a_stack():
    networks = [Gru(steps=48, hidden=32).network(576), Gru(steps=480, hidden=320).network(5760), Cnn(steps=48).network(576)]  # fmt: skip
    assert [height(network, 32) for network in networks] == [9, 1, 8]


def test_the_engine_of_one_hospital_changes_its_network_as_plain_does():
    one, two = drawn_network(MODELS[1]), drawn_network(MODELS[1])
    x, y = patients(50, 1)
    Batched().fit(one, x, y, TRAININGS[0], np.random.default_rng(1))
    Plain().fit(two, x, y, TRAININGS[0], np.random.default_rng(1))
    for name, array in weights_of(one).items():
        np.testing.assert_allclose(array, weights_of(two)[name], atol=1e-13)


def test_a_stack_is_as_high_as_its_weights_fit_a_megabyte():
    wide = [Mlp(hidden=hidden).network(30) for hidden in ((1,), (64, 32), (160, 220), (4000, 2500))]
    assert [sum(w.numel() for w in network.parameters()) for network in wide] == [33, 4097, 40_601, 10_129_001]
    assert [height(network, 32) for network in wide] == [64, 64, 6, 1]
