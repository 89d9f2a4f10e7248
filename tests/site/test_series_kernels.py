"""Bodies over time in a stack: their gradients by autograd, and that nothing of one hospital gets into another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedhealth.core.training import LocalTraining
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.plain import Plain
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.kernels.stack import Stack, blank_for

ROWS = 32
#: One of everything; as many columns as fit a cache line, with and without the ones; a filter wider than the series.
SHAPES = [
    (Gru(steps=1, hidden=1), 1), (Gru(steps=3, hidden=7), 8), (Gru(steps=5, static=3, hidden=8), 3), (Gru(steps=4, static=1, hidden=9), 7),
    (Cnn(steps=1, hidden=1, kernel=1), 1), (Cnn(steps=2, hidden=3, kernel=7), 2), (Cnn(steps=6, static=3, hidden=8, kernel=3), 4),
    (Cnn(steps=9, static=1, hidden=5, kernel=5), 3),
]  # fmt: skip
MODELS = [(Gru(steps=4, static=2, hidden=5), 2), (Cnn(steps=4, static=2, hidden=5, kernel=3), 2)]
TRAINING = LocalTraining(epochs=2, batch_size=16, learning_rate=0.1, momentum=0.9)
#: Fewer patients than a mini-batch among them, so that some places of every stack are nobody's.
SIZES = (70, 33, 7, 1)


def width_of(model, across):
    return model.static + model.steps * across


def networks_of(model, across, many, dtype=torch.float64):
    found = []
    for seed in range(many):
        network = first_network(model, width_of(model, across), seed=seed).to(dtype)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))
        found.append(network)
    return found


def drawn(n, width, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)).astype(dtype), (rng.random(n) < 0.4).astype(dtype)


def rows_of(network, width, many):
    """[many, ROWS, columns] as a stack takes them."""
    x = np.stack([blank_for(network, ROWS, np.dtype(np.float64)) for _ in range(many)])
    for seed, own in enumerate(x):
        own[:, :width] = drawn(ROWS, width, seed)[0]
    return torch.from_numpy(x)


def stacked(networks, x):
    """The gradients of sum of squared scores, by parameter [networks, …], and the scores [networks, ROWS]."""
    stack = Stack(networks[0], len(networks), ROWS, x)
    stack.load([weights_of(network) for network in networks])
    score = stack.forward(x).clone()
    stack.backward(2 * score)
    return {name: slot.gradient.clone() for name, slot in stack.slots.items()}, score[..., 0]


@pytest.mark.parametrize(("model", "across"), SHAPES, ids=str)
def test_scores_and_gradients_of_a_stack_are_those_of_autograd_for_each_network(model, across):
    width, networks = width_of(model, across), networks_of(model, across, 3)
    x = rows_of(networks[0], width, 3)
    gradients, scores = stacked(networks, x)
    for place, network in enumerate(networks):
        expected = network(x[place, :, :width])[:, 0]
        expected.square().sum().backward()
        np.testing.assert_allclose(scores[place], expected.detach(), rtol=0, atol=1e-12)
        for name, weight in network.named_parameters():
            np.testing.assert_allclose(gradients[name][place], weight.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_no_number_of_the_working_space_is_read_before_it_is_written(model, across, monkeypatch):
    (network,) = networks_of(model, across, 1, torch.float32)
    plain, made = trained(network, model, across), torch.Tensor.new_empty

    def poisoned(like, *shape, **more):
        found = made(like, *shape, **more)
        return found.fill_(torch.nan) if found.is_floating_point() else found

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_same_bits(trained(network, model, across), plain)


@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_a_hospital_of_enormous_values_leaves_its_neighbours_their_bits(model, across):
    (network,) = networks_of(model, across, 1, torch.float32)
    quiet = trained(network, model, across)
    for place in range(len(SIZES)):
        loud = trained(network, model, across, {place: 1e12})
        others = [k for k in range(len(SIZES)) if k != place]
        assert_same_bits([loud[k] for k in others], [quiet[k] for k in others])
        assert any(not np.array_equal(loud[place][name], array) for name, array in quiet[place].items())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_a_hospital_with_a_patient_who_is_no_number_leaves_its_neighbours_their_bits(model, across, bad):
    (network,) = networks_of(model, across, 1, torch.float32)
    weights = weights_of(network)
    jobs = [job(network, weights, k, model, across) for k in range(len(SIZES))]
    jobs[0].x[0] = bad
    assert_same_bits([own.weights for own in Batched().fit_all(jobs)[1:]], trained(network, model, across)[1:])


@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_a_network_without_numbers_stays_by_itself(model, across):
    networks = networks_of(model, across, 3)
    x = rows_of(networks[0], width_of(model, across), 3)
    expected, scores = stacked(networks, x)
    x[1, 5, 3] = torch.nan
    found, after = stacked(networks, x)
    assert torch.isnan(after[1, 5])
    assert torch.equal(after[[0, 2]], scores[[0, 2]])
    # Nor do a network's other patients hear of it.
    assert torch.equal(after[1, :5], scores[1, :5])
    for name, gradient in found.items():
        assert torch.isnan(gradient[1]).any()
        assert torch.equal(gradient[[0, 2]], expected[name][[0, 2]])


@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_a_stack_that_grows_narrower_works_on_with_those_who_are_left(model, across):
    width, networks = width_of(model, across), networks_of(model, across, 3)
    x = rows_of(networks[0], width, 3)
    stack = Stack(networks[0], 3, ROWS, x)
    stack.load([weights_of(network) for network in networks])
    for k in (3, 2, 1):
        stack.backward(2 * stack.forward(x[:k] + k))
        found = {name: slot.gradient.clone() for name, slot in stack.slots.items()}
        expected, _ = stacked(networks[:k], x[:k] + k)
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name][:k], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("model", "across"), MODELS, ids=str)
def test_whole_trainings_from_starts_of_their_own_are_the_plain_engines(model, across):
    networks = networks_of(model, across, len(SIZES))
    jobs = [job(networks[0], weights_of(network), k, model, across) for k, network in enumerate(networks)]
    for k, own in enumerate(Batched().fit_all(jobs)):
        same = job(networks[0], weights_of(networks[k]), k, model, across)
        load_weights(networks[k], same.weights)
        loss, _ = Plain().fit(networks[k], same.x, same.y, TRAINING, same.rng)
        assert own.loss == pytest.approx(loss, abs=1e-12)
        for name, array in weights_of(networks[k]).items():
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=1e-8)


def job(network, weights, place, model, across, scale=1.0):
    x, y = drawn(SIZES[place], width_of(model, across), place, next(iter(weights.values())).dtype)
    return FitJob(network, weights, x * x.dtype.type(scale), y, TRAINING, np.random.default_rng(place))


def trained(network, model, across, scales=()):
    weights, scales = weights_of(network), dict(scales)
    jobs = [job(network, weights, k, model, across, scales.get(k, 1.0)) for k in range(len(SIZES))]
    return [fitted.weights for fitted in Batched().fit_all(jobs)]


def assert_same_bits(found, expected):
    for own, other in zip(found, expected, strict=True):
        assert all(np.array_equal(own[name], array) for name, array in other.items())
