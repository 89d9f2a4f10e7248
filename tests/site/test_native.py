"""The native engine against the plain one, its oracle, and against itself in other company."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from test_batched import SIZES, TRAININGS, WIDTH, by_plain, drawn_network, job, patients, pulls
from torch import nn

from fedhealth.core.errors import SettingError
from fedhealth.core.training import LocalTraining
from fedhealth.models.gru import Gru
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import weights_of
from fedhealth.site.engines import native
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.kernels import native as kernel
from fedhealth.site.kernels.fit import FitJob

MODELS = [Logistic(), Mlp(hidden=(8,)), Mlp(hidden=(7, 4)), Mlp(hidden=(1, 17, 3)), Mlp(hidden=(32, 16))]


@pytest.fixture
def nothing_falls_back(monkeypatch):
    """A job that went by another engine would agree with it, and prove nothing."""

    def none(_, jobs):
        assert not jobs
        return []

    monkeypatch.setattr(Batched, "fit_all", none)


alone_in_c = pytest.mark.usefixtures("nothing_falls_back")


@alone_in_c
@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: f"{t.optimiser} {t.batch_size}")
@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("is_pulled", [False, True])
def test_whole_trainings_of_ragged_hospitals_are_the_plain_engines(model, training, is_pulled):
    network = drawn_network(model)
    weights = weights_of(network)

    def jobs():
        for site in range(len(SIZES)):
            more = {"pull": pulls(weights, site)} if is_pulled else {}
            yield job(network, weights, training, site, **more)

    found = Native().fit_all(list(jobs()))
    for own, (expected, loss, steps) in zip(found, map(by_plain, jobs()), strict=True):
        assert own.steps == steps
        assert own.loss == pytest.approx(loss, abs=1e-12)
        for name, array in expected.items():
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=1e-8)


@alone_in_c
def test_a_layer_without_bias_is_the_plain_engines():
    network = nn.Sequential(nn.Linear(WIDTH, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False)).double()
    weights = weights_of(network)
    (found,) = Native().fit_all([job(network, weights, TRAININGS[0], 0)])
    expected, loss, _ = by_plain(job(network, weights, TRAININGS[0], 0))
    assert found.loss == pytest.approx(loss, abs=1e-12)
    for name, array in expected.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-10)


@alone_in_c
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_one_float32_step_is_the_plain_engines(model):
    network = drawn_network(model, torch.float32)
    weights = weights_of(network)
    training = LocalTraining(steps=1, batch_size=32, learning_rate=0.5)
    found = Native().fit_all([job(network, weights, training, s, dtype=np.float32) for s in range(len(SIZES))])
    for site, own in enumerate(found):
        expected, _, _ = by_plain(job(network, weights, training, site, dtype=np.float32))
        for name, array in expected.items():
            assert own.weights[name].dtype == np.float32
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=2e-6)


@alone_in_c
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: f"{t.optimiser} {t.batch_size}")
@pytest.mark.parametrize("model", MODELS[1:3], ids=str)
def test_a_hospital_gets_the_same_bits_alone_and_in_any_company(model, training, dtype):
    network = drawn_network(model, torch.float32 if dtype == np.float32 else torch.float64)
    weights = weights_of(network)
    sites = range(len(SIZES))
    together = Native().fit_all([job(network, weights, training, s, dtype=dtype) for s in sites])
    backwards = Native().fit_all([job(network, weights, training, s, dtype=dtype) for s in reversed(sites)])[::-1]
    for site in sites:
        (alone,) = Native().fit_all([job(network, weights, training, site, dtype=dtype)])
        for other in (together[site], backwards[site]):
            assert other.loss == alone.loss
            assert all(np.array_equal(other.weights[name], array) for name, array in alone.weights.items())


@alone_in_c
def test_hospitals_that_start_from_weights_of_their_own_keep_them_apart_and_nobody_writes_into_a_result():
    network = drawn_network(MODELS[1])
    starts = [{name: array + site for name, array in weights_of(network).items()} for site in range(3)]
    first = {name: array.copy() for name, array in starts[0].items()}
    found = Native().fit_all([job(network, start, TRAININGS[0], site) for site, start in enumerate(starts)])
    kept = [{name: array.copy() for name, array in own.weights.items()} for own in found]
    Native().fit_all([job(network, start, TRAININGS[1], site) for site, start in enumerate(starts)])
    for site, own in enumerate(found):
        expected, _, _ = by_plain(job(network, starts[site], TRAININGS[0], site))
        np.testing.assert_allclose(own.weights["0.weight"], expected["0.weight"], atol=1e-12)
        assert all(np.array_equal(own.weights[name], array) for name, array in kept[site].items())
    assert all(np.array_equal(starts[0][name], array) for name, array in first.items())


@alone_in_c
@pytest.mark.parametrize("training", [TRAININGS[0], TRAININGS[3]], ids=["as it is", "clipped"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_no_numbers_or_far_too_large_end_as_the_plain_engines(value, training):
    """Nothing that is not finite is made a number again, and a neighbour in the call does not feel it."""
    network = drawn_network(MODELS[2])
    weights = weights_of(network)
    spoilt = {name: np.full_like(array, value) if name == "2.weight" else array for name, array in weights.items()}
    bad, good = Native().fit_all([job(network, spoilt, training, 0), job(network, weights, training, 1)])
    expected, _, _ = by_plain(job(network, spoilt, training, 0))
    for name, array in expected.items():
        assert np.array_equal(np.isfinite(bad.weights[name]), np.isfinite(array))
    (alone,) = Native().fit_all([job(network, weights, training, 1)])
    assert all(np.array_equal(good.weights[name], array) for name, array in alone.weights.items())


@alone_in_c
def test_a_mini_batch_larger_than_any_memory_is_all_patients():
    network = drawn_network(MODELS[1])
    weights, training = weights_of(network), LocalTraining(epochs=2, batch_size=10**15)
    (found,) = Native().fit_all([job(network, weights, training, 0)])
    expected, _, _ = by_plain(job(network, weights, training, 0))
    np.testing.assert_allclose(found.weights["0.weight"], expected["0.weight"], atol=1e-12)


@pytest.mark.parametrize(
    ("model", "only", "said"),
    [
        (Mlp(hidden=(6,), normalisation="layer"), None, "not of linear layers"),
        (Gru(steps=8, hidden=8), None, "not of linear layers"),
        (Mlp(hidden=(300, 220)), None, "more than 65,536 weights"),
        (Mlp(hidden=(2,) * 17), None, "more than 16 linear layers"),
        (Mlp(hidden=(4,)), frozenset({"2.bias"}), "some of the weights"),
    ],
    ids=["layer norm", "gru", "large", "deep", "only the last bias"],
)
def test_what_the_kernel_does_not_know_goes_by_the_batched_engine_and_the_log_says_why(caplog, model, only, said):
    network = drawn_network(model)
    weights = weights_of(network)
    native.say_once.cache_clear()
    with caplog.at_level(logging.INFO):
        (found,) = Native().fit_all([job(network, weights, TRAININGS[0], 0, only=only)])
    (expected,) = Batched().fit_all([job(network, weights, TRAININGS[0], 0, only=only)])
    assert all(np.array_equal(found.weights[name], array) for name, array in expected.weights.items())
    assert said in caplog.text


def test_a_hospital_without_patients_costs_the_others_nothing():
    network = drawn_network(MODELS[1])
    x, y = patients(5, 1)
    empty = FitJob(network, weights_of(network), x[:0], y[:0], TRAININGS[0], np.random.default_rng(0))
    assert kernel.why_not(empty)


def test_without_a_compiler_or_with_a_broken_one_the_engine_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(SettingError, match=r"needs a C compiler, found none\. Install gcc or clang") as none:
        Native()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(SettingError, match="whose kernel can be loaded, found: no word of it") as broken:
        kernel._library.__wrapped__(np.dtype(np.float32))
    assert "\n" not in str(none.value) + str(broken.value)
