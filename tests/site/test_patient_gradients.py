"""Clipped sums by patient against Opacus, and against a loop over patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.errors import SettingError
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network
from fedhealth.site.exact_network import ExactNetwork, check_layers
from fedhealth.site.patient_gradients import clipped_sum

MODELS = {
    "logistic": Logistic(),
    "mlp": Mlp(hidden=(16, 8)),
    "mlp with layer normalisation": Mlp(hidden=(16, 8), normalisation="layer"),
}


def rows(n, d=7, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(3 * rng.normal(size=(n, d))), torch.from_numpy((rng.random(n) < 0.4).astype(float))


def network(model, d=7):
    """With weights of 16 binary digits behind the point, which no rounding to 26 bits changes."""
    made = first_network(model, d, seed=2).double()
    with torch.no_grad():
        for k, weight in enumerate(made.parameters()):
            weight.add_(torch.from_numpy(np.random.default_rng(k).normal(size=tuple(weight.shape))) * 0.3)
            weight.copy_((weight * 2**16).round() / 2**16)
    return made


def on_lattice(layer, inputs):
    """What goes into a layer as the exact network rounds it, with the gradient passed on as if it did not."""
    (x,) = inputs
    capped = x.clamp(-64, 64)
    return (capped + ((capped * 2**20).round() / 2**20 - capped).detach(),)


def by_hand(made, x, y, whose, bound, *, per_layer=False):
    """Patient by patient: the gradient of the mean loss of a patient's rows, clipped, added up."""
    weights, total = list(made.parameters()), None
    for layer in made.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(on_lattice)
    for patient in np.unique(whose):
        own = torch.from_numpy(whose == patient)
        loss = binary_cross_entropy_with_logits(made(x[own]).squeeze(1), y[own])
        found = torch.autograd.grad(loss, weights)
        whole = torch.sqrt(sum((g**2).sum() for g in found))
        each = bound / len(found) ** 0.5
        scales = [min(1, float(each / g.norm())) if per_layer else min(1, float(bound / whole)) for g in found]
        clipped = [g * scale for g, scale in zip(found, scales, strict=True)]
        total = clipped if total is None else [a + b for a, b in zip(total, clipped, strict=True)]
    return total


def ours(made, x, y, whose, bound, *, per_layer=False):
    names = [name for name, _ in made.named_parameters()]
    found = ExactNetwork(made).gradients(x, y, names)
    if whose is not None:
        found = [each.by_patient(torch.from_numpy(whose), len(np.unique(whose))) for each in found]
    return clipped_sum(found, bound, per_layer=per_layer)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("bound", [0.05, 1.0, 1e3])
def test_the_sum_of_clipped_gradients_is_that_of_a_loop_over_patients(model, per_layer, bound):
    x, y = rows(40)
    expected = by_hand(network(MODELS[model]), x, y, np.arange(40), bound, per_layer=per_layer)
    found, _ = ours(network(MODELS[model]), x, y, None, bound, per_layer=per_layer)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.detach(), other.ravel(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("per_layer", [False, True])
def test_the_sum_of_clipped_gradients_is_that_of_opacus(model, per_layer):
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer, DPPerLayerOptimizer

    x, y = (part.float() for part in rows(40))
    theirs = GradSampleModule(network(MODELS[model]).float(), loss_reduction="sum")
    inner = torch.optim.SGD(theirs.parameters(), lr=0.1)
    weights = list(theirs.parameters())
    settings = {"noise_multiplier": 0.0, "expected_batch_size": 1, "loss_reduction": "sum"}
    if per_layer:
        optimiser = DPPerLayerOptimizer(inner, max_grad_norm=[0.5 / len(weights) ** 0.5] * len(weights), **settings)
    else:
        optimiser = DPOptimizer(inner, max_grad_norm=0.5, **settings)
    binary_cross_entropy_with_logits(theirs(x).squeeze(1), y, reduction="sum").backward()
    optimiser.pre_step()
    found, _ = ours(network(MODELS[model]), x.double(), y.double(), None, 0.5, per_layer=per_layer)
    for one, weight in zip(found, weights, strict=True):
        np.testing.assert_allclose(one.detach(), weight.summed_grad.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_patient_with_eight_records_counts_as_one_patient(model):
    x, y = rows(80)
    whose = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 8))
    expected = by_hand(network(MODELS[model]), x, y, whose, 0.2)
    found, _ = ours(network(MODELS[model]), x, y, whose, 0.2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.detach(), other.ravel(), rtol=1e-9, atol=1e-12)


def test_clipping_by_record_in_place_of_by_patient_would_show():
    """Eight records that pull one way: clipped one by one they move the sum eight times as far as a patient may."""
    x = torch.full((8, 7), 50.0, dtype=torch.float64)
    y = torch.ones(8, dtype=torch.float64)
    made = first_network(Logistic(), 7, seed=0).double()
    by_patient, _ = ours(made, x, y, np.zeros(8, dtype=np.int64), 1.0)
    assert torch.cat(by_patient).norm() == pytest.approx(1.0)
    by_record, _ = ours(first_network(Logistic(), 7, seed=0).double(), x, y, None, 1.0)
    assert torch.cat(by_record).norm() == pytest.approx(8.0)


def test_norms_are_told_as_they_were_and_a_gradient_that_is_no_number_counts_for_nothing():
    made = first_network(Logistic(), 2, seed=0).double()
    # At weights of 0 a gradient is (1/2 - y) times the row and 1: norms 0.5 sqrt(1 + |x|²).
    x = torch.tensor([[0.0, 0.0], [0.0, 3.0], [np.nan, 0.0]], dtype=torch.float64)
    found, norms = ours(made, x, torch.ones(3, dtype=torch.float64), None, 0.6)
    long = 0.5 * np.sqrt(10)
    np.testing.assert_allclose(norms, [[0.5, long, np.inf]])
    np.testing.assert_allclose(found[0], [0.0, -1.5 * 0.6 / long])
    np.testing.assert_allclose(found[1], [-0.5 - 0.5 * 0.6 / long])


def test_batch_normalisation_is_refused_by_name_with_what_to_use_in_its_place():
    with pytest.raises(SettingError, match="BatchNorm1d.*model.normalisation=layer"):
        check_layers(first_network(Mlp(normalisation="batch"), 3, seed=0))


def test_a_layer_of_another_kind_is_refused_by_name():
    with pytest.raises(SettingError, match="found Conv1d"):
        check_layers(torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1)))


def test_a_layer_that_is_used_twice_is_refused():
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(SettingError, match="each layer used once"):
        ExactNetwork(torch.nn.Sequential(layer, layer))
