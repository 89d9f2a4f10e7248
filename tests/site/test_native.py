"""What is the native engine's alone: its edges, what it leaves to the batched one, and its compiler."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from test_batched import TRAININGS, WIDTH, by, by_plain, drawn_network, job, patients
from torch import nn

from fedhealth.core.errors import SettingError
from fedhealth.core.training import LocalTraining
from fedhealth.models.gru import Gru
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import weights_of
from fedhealth.site.engines import native
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.kernels import native as kernel
from fedhealth.site.kernels.fit import FitJob


def assert_trained_as_by_plain(network, training):
    weights = weights_of(network)
    (found,) = by(Native(), [job(network, weights, training, 0)])
    expected, loss, _ = by_plain(job(network, weights, training, 0))
    assert found.loss == pytest.approx(loss, abs=1e-12)
    for name, array in expected.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-10)


def test_a_layer_without_bias_is_the_plain_engines():
    network = nn.Sequential(nn.Linear(WIDTH, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False)).double()
    assert_trained_as_by_plain(network, TRAININGS[0])


@pytest.mark.parametrize("biased", [(True, False, True), (False, True, False)], ids=str)
def test_layers_with_and_without_bias_beside_each_other_are_the_plain_engines(biased):
    first, second, last = biased
    network = nn.Sequential(
        nn.Linear(WIDTH, 6, bias=first), nn.ReLU(), nn.Linear(6, 8, bias=second), nn.ReLU(), nn.Linear(8, 1, bias=last)
    ).double()
    assert_trained_as_by_plain(network, TRAININGS[1])


@pytest.mark.parametrize("site", [2, 4], ids=["of seven", "of one"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_hospital_whose_rows_are_no_numbers_leaves_the_next_its_bits(value, site):
    """Where patients do not fill whole vectors of rows, nobody's rows stand, and not those of the hospital before."""
    network = drawn_network(Mlp(hidden=(7, 4)))
    weights = weights_of(network)
    bad, good, alone = (job(network, weights, TRAININGS[0], s) for s in (0, site, site))
    bad.x[:] = value
    (_, found), (expected,) = by(Native(), [bad, good]), by(Native(), [alone])
    assert all(np.array_equal(found.weights[name], array) for name, array in expected.weights.items())


@pytest.mark.parametrize("training", [TRAININGS[0], TRAININGS[3]], ids=["as it is", "clipped"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_no_numbers_or_far_too_large_end_as_the_plain_engines(value, training):
    """Nothing that is not finite is made a number again, and a neighbour in the call does not feel it."""
    network = drawn_network(Mlp(hidden=(7, 4)))
    weights = weights_of(network)
    spoilt = {name: np.full_like(array, value) if name == "2.weight" else array for name, array in weights.items()}
    bad, good = by(Native(), [job(network, spoilt, training, 0), job(network, weights, training, 1)])
    expected, _, _ = by_plain(job(network, spoilt, training, 0))
    for name, array in expected.items():
        assert np.array_equal(np.isfinite(bad.weights[name]), np.isfinite(array))
    (alone,) = by(Native(), [job(network, weights, training, 1)])
    assert all(np.array_equal(good.weights[name], array) for name, array in alone.weights.items())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hidden", [(6,), (7, 4), (5, 3)], ids=str)
def test_a_hospital_whose_weights_become_no_numbers_leaves_the_next_its_bits_where_gradients_are_clipped(hidden, dtype):
    """The zeros that pad its weights to whole vectors become no numbers as well, and a clip adds up the squares of all."""
    network = drawn_network(Mlp(hidden=hidden), torch.float32 if dtype == np.float32 else torch.float64)
    weights, training = weights_of(network), TRAININGS[3]
    spoilt = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    _, good = by(Native(), [job(network, w, training, s, dtype=dtype) for s, w in enumerate((spoilt, weights))])
    (alone,) = by(Native(), [job(network, weights, training, 1, dtype=dtype)])
    assert good.loss == alone.loss
    assert all(np.array_equal(good.weights[name], array) for name, array in alone.weights.items())


def test_a_mini_batch_larger_than_any_memory_is_all_patients():
    network = drawn_network(Mlp(hidden=(8,)))
    weights, training = weights_of(network), LocalTraining(epochs=2, batch_size=10**15)
    (found,) = by(Native(), [job(network, weights, training, 0)])
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
    network = drawn_network(Mlp(hidden=(8,)))
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
