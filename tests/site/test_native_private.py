"""What is the private kernel's alone: a patient's part depends on nobody, its noise has the sampler's bits, its memory is its own.

Whole private trainings by it are held to the private engine in `test_private_stack`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_private_stack import SIZES, TRAININGS, WIDTH, alone, job, network_of
from torch import nn

from fedhealth.core.errors import DataError, SettingError
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import weights_of
from fedhealth.privacy import noise
from fedhealth.privacy.noise import BLOCK, NoiseSource
from fedhealth.site.engines import native
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.kernels.native_private import InC, noisy_rows, why_not
from fedhealth.site.kernels.private import Stacked
from fedhealth.site.private_engine import bears, exact_scores

MODELS = [Logistic(), Mlp(hidden=(9,)), Mlp(hidden=(7, 4))]


def in_c(network, x, y, drawn, *, clipping="flat", bound=0.7):
    """The sums by parameter, the norms and the bounds on rounding of one step of hospitals with these weights and patients."""
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    one = replace(job(network, weights_of(network), 0, TRAININGS[0], clipping=clipping), x=x, y=y)
    k, size = len(drawn), sum(weight.numel() for weight in weights.values())
    flat = torch.cat([weight.double().ravel() for weight in weights.values()]).repeat(k, 1)
    gradient = torch.full((k, size), 7.0, dtype=torch.float64)
    ends = np.cumsum([weight.numel() for weight in weights.values()])
    stack = Stacked([one] * k, [[np.asarray(own, dtype=np.int64)] for own in drawn], flat, weights, gradient, {})
    roundings, norms = InC(stack).work_out(0, k, [bound] * k)
    return np.split(gradient.numpy(), ends[:-1], axis=1), norms.numpy(), roundings


def people(n, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(n, WIDTH))).astype(np.float32), (rng.random(n) < 0.4).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 60.0], ids=["scaled", "past the cap"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_patients_norm_has_the_same_bits_alone_in_company_and_at_every_place(model, scale):
    network = network_of(model)
    x, y = people(37, scale)
    single = np.array([in_c(network, x, y, [[who]])[1][0, 0] for who in range(37)])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(37)[: 37 - seed]
        (norms,) = in_c(network, x, y, [order])[1]
        np.testing.assert_array_equal(norms, single[order])


@pytest.mark.parametrize("spread", [0.3, 1e4], ids=["near 0", "far apart"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_patients_score_has_the_bits_that_the_private_engine_gives_it(model, spread):
    network = network_of(model, spread=spread)
    x, y = people(20, 1 / spread)
    scores = exact_scores(network, x).tolist()
    for who, score in enumerate(scores):
        # Unclipped and alone, the gradient of the last bias is the risk less the outcome.
        parts, _, _ = in_c(network, x, y, [[who]], bound=1e30)
        assert parts[-1].tolist() == [[1 / (1 + math.exp(-score)) - float(y[who])]]


def test_a_unit_at_its_kink_and_one_at_the_cap_are_shut_as_by_torch():
    network = network_of(Mlp(hidden=(1,)))
    with torch.no_grad():
        for weight, value in zip(network.parameters(), (1.0, 0.0, 0.125, 0.0), strict=True):
            weight.fill_(value)
    x = np.zeros((4, WIDTH), dtype=np.float32)
    x[:, 0] = [-0.5, 0.0, 63.5, 64.0]
    slopes = in_c(network, x, np.ones(4, dtype=np.float32), [[who] for who in range(4)], bound=1e30)[0][1].ravel()
    # Of a score of 63.5 / 8 the risk of what did not happen, times the weight.
    np.testing.assert_allclose(slopes, [0.0, 0.0, -0.125 / (1 + math.exp(63.5 / 8)), 0.0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("scale", [1.0, 60.0], ids=["scaled", "past the cap"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_clipped_sums_are_those_of_gradients_by_autograd_patient_by_patient(model, scale, per_layer):
    network = network_of(model)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_((weight * 2**16).round() / 2**16)
    x, y = people(19, scale)
    parts, norms, _ = in_c(network, x, y, [range(19), [4]], clipping="per_layer" if per_layer else "flat", bound=0.5)
    for place, own in enumerate([range(19), [4]]):
        total = [0.0 for _ in network.parameters()]
        for at, who in enumerate(own):
            each = by_autograd(network, x[who], y[who])
            norm = np.sqrt(sum(float(g @ g) for g in each))
            assert norms[place, at] == pytest.approx(norm, rel=1e-12)
            most = 0.5 / np.sqrt(len(each)) if per_layer else 0.5
            lengths = [float(np.sqrt(g @ g)) if per_layer else norm for g in each]
            total = [t + g * min(1.0, most / length) for t, g, length in zip(total, each, lengths, strict=True)]
        for found, expected in zip(parts, total, strict=True):
            np.testing.assert_allclose(found[place], expected, rtol=0, atol=1e-12)


def by_autograd(network, row, outcome):
    """The gradient of one patient's log loss, array by array, what goes into a layer being capped at 64 and on its lattice."""
    value = torch.from_numpy(row).double()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            capped = value.clamp(-64, 64)
            value = layer(capped + ((capped * 2**20).round() / 2**20 - capped).detach())
        elif isinstance(layer, nn.ReLU):
            value = value.relu()
    loss = nn.functional.binary_cross_entropy_with_logits(value[0], torch.tensor(float(outcome)).double())
    return [found.numpy().ravel() for found in torch.autograd.grad(loss, list(network.parameters()))]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 5.0, 1e5])
def test_the_bound_on_rounding_is_the_private_engines_and_never_less(model, spread):
    network = network_of(model, spread=spread)
    _, _, (found,) = in_c(network, *people(5), [range(5)])
    expected = ExactNetwork(network).rounding()
    assert expected <= found <= expected * (1 + 1e-8)


def test_weights_that_only_the_closer_bound_bears_are_trained_with_as_the_private_engine_does():
    network = network_of(Mlp(hidden=(24, 24)))
    most = job(network, weights_of(network), 0, TRAININGS[0]).engine.most
    while bears(ExactNetwork(network).rounding(), patients=most, bound=0.7):
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1.1)
    assert bears(ExactNetwork(network).rounding(closely=True), patients=most, bound=0.7)
    one = job(network, weights_of(network), 0, TRAININGS[0])
    (found,) = Native().fit_private([one])
    expected, _ = alone(job(network, weights_of(network), 0, TRAININGS[0]))
    for name, array in expected.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-8)


def test_a_layer_without_bias_is_the_private_engines():
    network = nn.Sequential(nn.Linear(WIDTH, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False)).double()
    (found,) = Native().fit_private([job(network, weights_of(network), 0, TRAININGS[0])])
    expected, _ = alone(job(network, weights_of(network), 0, TRAININGS[0]))
    for name, array in expected.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-8)


def rows_of(size, count=3):
    totals = np.random.default_rng(size).normal(size=(count, size))
    multipliers, sensitivities = [0.5, 1.1, 3.0][:count], [1.0, 0.2, 7.0][:count]
    return totals, {"noise_multipliers": multipliers, "sensitivities": sensitivities}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 31, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_noise_in_c_has_the_samplers_bits(size):
    totals, settings = rows_of(size)
    ours, theirs = (
        way(totals, sources=[NoiseSource(insecure_seed=s) for s in range(3)], **settings)
        for way in (noisy_rows, noise.noisy_rows)
    )
    assert ours.tobytes() == theirs.tobytes()


def test_draws_that_the_tables_first_bits_leave_open_are_decided_by_the_streams_next_words(monkeypatch):
    decided = []

    def watched(word, words):
        decided.append(settled(word, words))
        return decided[-1]

    settled = noise.settled
    monkeypatch.setattr("fedhealth.site.kernels.native_private.settled", watched)
    totals, settings = rows_of(8 * BLOCK, count=1)
    ours, theirs = (
        way(totals, sources=[NoiseSource(insecure_seed=2)], **settings) for way in (noisy_rows, noise.noisy_rows)
    )
    # Of half a million words some four.
    assert decided
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    ("totals", "multiplier", "error"),
    [([np.nan, 1.0], 1.0, DataError), ([1e300, 1.0], 1.0, DataError), ([0.0, 1.0], 0.0, SettingError)],
    ids=["no number", "too large", "no noise"],
)
def test_noise_in_c_refuses_what_the_sampler_refuses_and_draws_nothing(totals, multiplier, error):
    source = NoiseSource(insecure_seed=0)
    with pytest.raises(error):
        noisy_rows(np.array([totals]), noise_multipliers=[multiplier], sensitivities=[1.0], sources=[source])
    assert source.key() == NoiseSource(insecure_seed=0).key()


@pytest.mark.parametrize(
    ("model", "only", "said"),
    [
        (Mlp(hidden=(6,), normalisation="layer"), None, "not of linear layers"),
        (Mlp(hidden=(4,)), frozenset({"2.bias"}), "only some of the weights move"),
    ],
    ids=["layer norm", "only the last bias"],
)
def test_what_the_private_kernel_does_not_know_goes_by_torch_and_the_log_says_why(caplog, model, only, said):
    network = network_of(model)
    native.say_once.cache_clear()
    jobs = [[job(network, weights_of(network), 0, TRAININGS[0], only=only)] for _ in range(2)]
    with caplog.at_level(logging.INFO):
        (found,) = Native().fit_private(jobs[0])
    (expected,) = Batched().fit_private(jobs[1])
    assert all(np.array_equal(found.weights[name], array) for name, array in expected.weights.items())
    assert said in caplog.text


def test_patients_of_another_width_and_layers_that_do_not_fit_are_never_handed_to_c():
    network = network_of(Mlp(hidden=(4,)))
    one = job(network, weights_of(network), 0, TRAININGS[0])
    assert "do not fit the network" in why_not(replace(one, x=one.x[:, :-1]))
    assert "do not fit the network" in why_not(replace(one, x=one.x[:-1]))
    unfit = nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(3, 1))
    assert "do not fit one another" in why_not(replace(one, network=unfit))
    assert "more than one number" in why_not(replace(one, network=nn.Sequential(nn.Linear(WIDTH, 2))))


def test_a_patient_with_several_rows_and_a_layer_used_twice_are_not_the_kernels():
    network = network_of(Mlp(hidden=(4,)))
    one = job(network, weights_of(network), 0, TRAININGS[0])
    assert not why_not(one)
    one.engine.patients = np.arange(SIZES[0]) // 2
    assert "several rows" in why_not(one)
    layer = nn.Linear(WIDTH, WIDTH)
    twice = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(WIDTH, 1))
    assert "used twice" in why_not(job(twice, {}, 0, TRAININGS[0]))
