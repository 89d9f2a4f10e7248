"""The contract of every model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import yaml

from fedhealth.compose import options
from fedhealth.core.errors import SettingError
from fedhealth.core.parts import build
from fedhealth.models import least_width
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.places import configs_folder


@pytest.fixture(params=options("model"))
def model(request):
    spec = yaml.safe_load((configs_folder() / "model" / f"{request.param}.yaml").read_text())
    return build(spec, where="model", room="fedhealth.models")


def test_a_row_of_features_becomes_one_logit(model):
    assert model.network(7)(torch.zeros(5, 7)).shape == (5, 1)


def test_the_same_seed_gives_the_same_first_weights(model):
    one, two = (weights_of(first_network(model, 7, seed=3)) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_threads_that_make_networks_at_once_give_each_the_same_first_weights(model):
    alone = weights_of(first_network(model, 7, seed=3))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: weights_of(first_network(model, 7, seed=3)), range(200)))
    assert all(np.array_equal(each[name], alone[name]) for each in found for name in alone)


def test_first_weights_leave_the_global_generator_as_it_was(model):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first_network(model, 7, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_survive_a_round_trip(model):
    network = first_network(model, 7, seed=3)
    changed = {name: array + 1 for name, array in weights_of(network).items()}
    load_weights(network, changed)
    assert all(np.array_equal(array, changed[name]) for name, array in weights_of(network).items())


def test_weights_of_another_shape_are_refused(model):
    with pytest.raises(SettingError, match="must fit the model"):
        load_weights(model.network(7), weights_of(model.network(8)))


def test_every_patient_has_a_gradient_of_its_own(model):
    # The gradient of a sum over patients is the sum of theirs: no layer mixes patients.
    network, x = first_network(model, 4, seed=3), torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    whole = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    each = [torch.autograd.grad(network(x[i : i + 1]).sum(), list(network.parameters())) for i in range(6)]
    for place, gradient in enumerate(whole):
        torch.testing.assert_close(gradient, sum(one[place] for one in each))


@pytest.mark.parametrize("name", ["gru", "cnn"])
def test_a_model_of_time_reads_a_row_as_its_static_columns_and_its_steps(name):
    spec = yaml.safe_load((configs_folder() / "model" / f"{name}.yaml").read_text()) | {"steps": 4, "static": 2}
    made = build(spec, where="model", room="fedhealth.models")
    network = first_network(made, 2 + 4 * 3, seed=3).eval()
    x = torch.randn(5, 14, generator=torch.Generator().manual_seed(1))
    assert network(x).shape == (5, 1)
    assert least_width(made) == 6
    # The columns that have no time reach the head alone, whose last two weights are theirs.
    moved = x.clone()
    moved[:, 1] += 1.0
    torch.testing.assert_close(network(moved) - network(x), network.head.weight[:, -1:].expand(5, 1))
    for width in (13, 2, 1):
        with pytest.raises(SettingError, match="must divide a row of"):
            made.network(width)
