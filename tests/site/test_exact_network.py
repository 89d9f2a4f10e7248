"""The exact network: a row's outcome is its own, whoever lies beside it and whatever the weights are."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.core.errors import Refused, SettingError
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.exact_sums import CAP
from fedhealth.site.patient_gradients import clipped_sum

MODELS = {
    "logistic": Logistic(),
    "mlp": Mlp(hidden=(40, 23)),
    "mlp with layer normalisation": Mlp(hidden=(40, 23), normalisation="layer"),
}


def network(model, d, *, scale=1.0, seed=0):
    made = first_network(model, d, seed=2).double()
    with torch.no_grad():
        for k, weight in enumerate(made.parameters()):
            weight.copy_(torch.from_numpy(np.random.default_rng([seed, k, 7]).normal(size=tuple(weight.shape))) * scale)
    return made


def rows(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) * 4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e9])
def test_a_rows_score_is_the_same_bit_for_bit_alone_and_anywhere_among_others(model, scale):
    x, exact = rows(203, 54), ExactNetwork(network(MODELS[model], 54, scale=scale))
    together = exact.scores(x)
    rng = np.random.default_rng(1)
    for size in (1, 2, 3, 7, 64, 100, 202):
        chosen = torch.from_numpy(rng.permutation(203)[:size])
        assert torch.equal(exact.scores(x[chosen]), together[chosen])


def test_plain_floating_point_would_not_do():
    """The reason for it all: the same network as torch runs it, on the same rows."""
    x, made = rows(203, 54), network(MODELS["mlp"], 54)
    with torch.no_grad():
        together = made(x)[:, 0]
        alone = torch.cat([made(x[i : i + 1])[:, 0] for i in range(203)])
    assert not torch.equal(alone, together)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([1e-30, 1e-4, 1.0, 1e5, 1e30]))
@settings(max_examples=40, deadline=None)
def test_a_linear_layers_sums_are_those_of_fractions(seed, d, scale):
    made = network(Logistic(), d, scale=scale, seed=seed)
    x = rows(3, d, seed=seed) * 10
    found = ExactNetwork(made).scores(x).tolist()
    weight, bias = (part.detach().numpy().ravel() for part in (made.weight, made.bias))
    step = Fraction(2) ** (math.frexp(float(d * np.abs(weight).max() + np.abs(bias).max()))[1] - 26)

    def onto(value, lattice):
        return round(Fraction(float(value)) / lattice) * lattice

    for row, score in zip(x.numpy().clip(-CAP, CAP), found, strict=True):
        whole = sum(onto(a, Fraction(1, 2**20)) * onto(w, step) for a, w in zip(row, weight, strict=True))
        assert Fraction(score) == whole + onto(bias[0], step)


@pytest.mark.parametrize("model", MODELS)
def test_it_gives_what_the_network_gives_but_for_the_rounding(model):
    x, made = rows(50, 9) / 4, network(MODELS[model], 9, scale=0.3)
    with torch.no_grad():
        torch.testing.assert_close(ExactNetwork(made).scores(x), made(x)[:, 0], rtol=1e-5, atol=1e-5)


def test_units_at_their_kink_open_for_a_row_alone_as_they_do_among_others():
    """Each unit's bias is set so that some row stands at its kink, as a coordinator might."""
    made, x = network(MODELS["mlp"], 30, scale=0.2), rows(60, 30)
    with torch.no_grad():
        made[0].bias.copy_(-(made[0].weight @ x[:40].T).diagonal())
    exact, names = ExactNetwork(made), [name for name, _ in made.named_parameters()]
    y = (exact.scores(x) < 0).double()  # so that nobody's gradient vanishes
    together, opened = exact.gradients(x, y, names), 0
    for i in range(40):
        alone = exact.gradients(x[i : i + 1], y[i : i + 1], names)
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one.left[0], all_.left[i], rtol=1e-9, atol=1e-9)
            assert torch.equal(one.left[0] != 0, all_.left[i] != 0)
        opened += int((alone[0].left != 0).sum())
    assert 40 < opened < 40 * 40


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_a_rows_gradient_beside_others_lies_within_the_rounding_that_is_said(model, scale):
    made = network(MODELS[model], 54, scale=scale)
    exact, names = ExactNetwork(made), [name for name, _ in made.named_parameters()]
    x, y = rows(120, 54), torch.from_numpy(np.random.default_rng(3).integers(0, 2, 120)).double()
    together = exact.gradients(x, y, names)
    for i in range(0, 120, 17):
        alone = exact.gradients(x[i : i + 1], y[i : i + 1], names)
        square = sum(
            float(((_written_out(one, 0) - _written_out(all_, i)) ** 2).sum())
            for one, all_ in zip(alone, together, strict=True)
        )
        assert math.sqrt(square) <= exact.rounding()


def _written_out(gradients, i):
    left = gradients.left[i]
    return left if gradients.right is None else torch.outer(left, gradients.right[i])


@pytest.mark.parametrize("model", MODELS)
def test_one_patient_more_moves_the_clipped_sum_by_the_clip_and_no_more(model):
    made = network(MODELS[model], 54, scale=3.0)
    exact, names = ExactNetwork(made), [name for name, _ in made.named_parameters()]
    x, y = rows(300, 54), torch.from_numpy(np.random.default_rng(3).integers(0, 2, 300)).double()
    sums = [torch.cat(clipped_sum(exact.gradients(x[:n], y[:n], names), 0.5)[0]) for n in (299, 300)]
    assert float((sums[1] - sums[0]).norm()) <= 0.5 * (1 + 1e-9) + 300 * exact.rounding()


def test_rounding_that_is_said_grows_with_the_weights():
    small, large = (ExactNetwork(network(MODELS["mlp"], 5, scale=scale)).rounding() for scale in (1.0, 100.0))
    # Two layers above the first: 100 times 100.
    assert large == pytest.approx(1e4 * small, rel=0.2)


def test_the_closer_bound_lies_between_the_largest_singular_values_and_the_looser_one():
    made = network(MODELS["mlp"], 30)
    exact = ExactNetwork(made)
    with torch.no_grad():
        for layer in made:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.div_(torch.linalg.matrix_norm(layer.weight, 2))
    # All singular values are at most 1 now, so no layer stretches. What sums of 1 and of 23 products round off adds up.
    length = float(torch.linalg.vector_norm(made[2].weight.detach()))
    units = [8, 8 + 3, 8 + 3 + 25 * length]
    flat = 2 * 2**-53 * sum(k * (64 * n**0.5 + 1) for k, n in zip(units, (23, 40, 30), strict=True))
    assert flat * (1 - 1e-6) <= exact.rounding(closely=True) <= 1.5**2 * flat
    assert exact.rounding(closely=True) < 0.9 * exact.rounding()


@pytest.mark.parametrize("small", [1e-30, 1e-36, 3e-42])
def test_the_closer_bound_does_not_lose_a_layer_whose_weights_are_next_to_nothing(small):
    """One layer of float32's smallest numbers, and large ones beside it that make its gradients large again."""
    made = network(Mlp(hidden=(16, 16, 16)), 8)
    with torch.no_grad():
        made[2].weight.div_(torch.linalg.matrix_norm(made[2].weight, 2)).mul_(1e20)
        made[4].weight.div_(torch.linalg.matrix_norm(made[4].weight, 2)).mul_(1e20)
        made[6].weight.mul_(small)
        for layer in (made[2], made[4], made[6]):
            layer.bias.zero_()
        whole = float(torch.linalg.matrix_norm(made[6].weight, 2)) * 1e40
    # One unit in the last place of the largest gradient that reaches the first layer is less than what is said.
    assert 2**-53 * whole <= ExactNetwork(made).rounding(closely=True) <= ExactNetwork(made).rounding()


def test_what_is_next_to_nothing_on_its_way_back_is_taken_to_be_rounded_to_float64s_smallest_steps():
    """Steps of 2^-1074, of which a sum's order moves several, and which an earlier layer stretches 2^1020 times."""
    made = network(Mlp(hidden=(64, 64), normalisation="layer"), 4)
    with torch.no_grad():
        made[1].weight.fill_(2.0**1020)
        made[4].weight.fill_(2.0**-1070)
    assert ExactNetwork(made).rounding() >= 2.0 ** (1020 - 1074)


def test_the_bound_is_of_the_weights_as_they_are_worked_with():
    """A large bias makes the lattice so coarse that each weight becomes nearly twice what it was."""
    made = network(Mlp(hidden=(16,)), 8)
    with torch.no_grad():
        made[2].bias.fill_(2.0**26)
        made[2].weight.fill_(1.01)
    said = ExactNetwork(made).rounding()
    with torch.no_grad():
        made[2].weight.fill_(2.0)
    assert said == pytest.approx(ExactNetwork(made).rounding())


@pytest.mark.parametrize("far", [0.0, 1e4, 1e6, 1e7, 1e8])
def test_rows_far_from_zero_are_normalised_and_gone_back_through_as_exactly_as_any(far):
    """Biases that put a layer's units far from 0 beside how they differ, as a coordinator might."""
    made = network(Mlp(hidden=(16, 16), normalisation="layer"), 8, scale=0.3)
    rng = np.random.default_rng(5)
    with torch.no_grad():
        made[0].bias.add_(far)
        lattice = 2.0 ** (math.frexp(float(far or 1.0))[1] - 25)
        made[0].weight.copy_(torch.from_numpy(rng.integers(-1, 2, size=(16, 8)) * max(lattice, 2.0**-3)))
    exact, names = ExactNetwork(made), [name for name, _ in made.named_parameters()]
    x, y = rows(301, 8) / 100, torch.from_numpy(rng.integers(0, 2, 301)).double()
    together = exact.gradients(x, y, names)
    for n in (300, 299, 7, 1):
        beside = exact.gradients(x[-n:], y[-n:], names)
        for i in range(min(n, 8)):
            square = sum(
                float(((_written_out(one, n - 1 - i) - _written_out(all_, 300 - i)) ** 2).sum())
                for one, all_ in zip(beside, together, strict=True)
            )
            assert math.sqrt(square) <= exact.rounding(closely=True) / 1000


def test_layer_normalisation_is_torchs_own_forward_and_back():
    made = network(Mlp(hidden=(13,), normalisation="layer"), 5, scale=0.5)
    x, y = (rows(40, 5) / 4).clamp(-8, 8), torch.from_numpy(np.random.default_rng(1).integers(0, 2, 40)).double()
    names = [name for name, _ in made.named_parameters()]
    found = ExactNetwork(made).gradients(x, y, names)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(made(x)[:, 0], y, reduction="sum")
    expected = torch.autograd.grad(loss, list(made.parameters()))
    for one, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(one.total(torch.ones(40).double()).view_as(whole), whole, rtol=1e-5, atol=1e-5)


def test_what_goes_into_a_layer_is_capped():
    exact = ExactNetwork(network(Logistic(), 1))
    x = torch.tensor([[CAP], [1e30], [torch.inf]], dtype=torch.float64)
    assert len(set(exact.scores(x).tolist())) == 1


def test_no_gradient_goes_back_through_the_cap():
    made = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1)).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(2.0)
    x = torch.tensor([[1.0], [40.0]], dtype=torch.float64)
    (found,) = ExactNetwork(made).gradients(x, torch.zeros(2).double(), ["0.bias"])
    assert found.left[0] > 1.9
    assert found.left[1] == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_is_no_number_has_a_gradient_that_is_none_at_every_place(model):
    made = network(MODELS[model], 5)
    exact, names = ExactNetwork(made), [name for name, _ in made.named_parameters()]
    x = torch.full((19, 5), math.nan).double()
    for n in (1, 8, 19):
        for one in exact.gradients(x[:n], torch.zeros(n).double(), names):
            assert bool(one.left.isnan().all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("model", MODELS)
def test_weights_that_are_no_numbers_are_refused(model, value):
    for part in range(len(list(network(MODELS[model], 2).parameters()))):
        made = network(MODELS[model], 2)
        with torch.no_grad():
            list(made.parameters())[part].view(-1)[0] = value
        for asked in (lambda made=made: ExactNetwork(made).scores(rows(3, 2)), ExactNetwork(made).rounding):
            with pytest.raises(Refused, match="must be finite") as refused:
                asked()
            assert refused.value.code == "weights_not_finite"


def test_another_activation_is_refused_by_name():
    with pytest.raises(SettingError, match="found Tanh"):
        ExactNetwork(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh()))
