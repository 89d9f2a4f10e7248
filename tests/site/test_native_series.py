"""Networks over time in C: a patient's part depends on nobody, and sums are those of the way by torch and of a loop by autograd.

Whole private trainings are held to the private engine in `test_private_stack`, for GRUs and convolutions too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_exact_series import MODELS, STATIC, STEPS, WIDTH, by_hand, network, patients
from test_private_stack import TRAININGS, job
from torch import nn

from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.row_of_steps import Convolved, OverTime
from fedhealth.models.weights import first_network, weights_of
from fedhealth.site.bends import logistic
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.kernels import native_series
from fedhealth.site.kernels.compiling import compiled
from fedhealth.site.kernels.native_private import InC, why_not
from fedhealth.site.kernels.private import ByTorch, Stacked
from fedhealth.site.private_engine import exact_scores

#: Of one step and of two days, of channels and units that fill no vector, of more channels than units, and without columns
#: beside the series.
SHAPES = [
    (Gru(steps=1, static=3, hidden=1), 4), (Gru(steps=9, hidden=13), 45), (Gru(steps=48, hidden=32), 576), (Gru(steps=2, hidden=2), 18),
    (Cnn(steps=1, static=3, hidden=1, kernel=1), 4), (Cnn(steps=3, hidden=13, kernel=7), 15), (Cnn(steps=48, hidden=32), 576),
    (Cnn(steps=2, hidden=3, kernel=3), 22),
]  # fmt: skip


def sums_by(way, made, x, y, drawn, *, clipping="flat", bound=0.7):
    """[k, weights] the sums of one step of hospitals with these weights and patients, the norms, and the bounds on rounding."""
    weights = {name: weight.detach() for name, weight in made.named_parameters()}
    one = replace(job(made, weights_of(made), 0, TRAININGS[0], clipping=clipping), x=x, y=y)
    k, ends = len(drawn), np.cumsum([0, *(weight.numel() for weight in weights.values())])
    flat = torch.cat([weight.ravel() for weight in weights.values()]).repeat(k, 1)
    gradient = torch.full_like(flat, 7.0)
    of_flat, of_gradient = (
        {
            name: array[:, start:end].view(k, *weight.shape)
            for (name, weight), start, end in zip(weights.items(), ends, ends[1:], strict=False)
        }
        for array in (flat, gradient)
    )
    batches = [[np.asarray(own, dtype=np.int64)] for own in drawn]
    roundings, norms = way(Stacked([one] * k, batches, flat, of_flat, gradient, of_gradient)).work_out(
        0, k, [bound] * k
    )
    return gradient.numpy(), norms.numpy(), roundings


def people(n, *, width=WIDTH, scale=1.0, seed=0):
    if width == WIDTH:
        x, y = patients(n, seed)
        return (scale * x).float().numpy(), y.float().numpy()
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(n, width))).astype(np.float32), (rng.random(n) < 0.4).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("of_weights", "of_patients"), [(0.3, 1.0), (1.0, 60.0), (1e6, 1.0), (1e-60, 1.0)])
def test_a_patients_norm_has_the_same_bits_alone_in_company_and_at_every_place(name, of_weights, of_patients):
    made = network(name, scale=of_weights)
    x, y = people(23, scale=of_patients)
    single = sums_by(InC, made, x, y, [[who] for who in range(23)])[1][:, 0]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(23)[: 23 - seed]
        (norms,) = sums_by(InC, made, x, y, [order])[1]
        np.testing.assert_array_equal(norms, single[order])


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_patients_gradient_has_the_same_bits_beside_others_who_count_for_nothing(name):
    made = network(name, scale=0.5)
    x, y = people(9)
    x[1:] = np.nan
    alone, _, _ = sums_by(InC, made, x, y, [[0]])
    assert np.all(alone[:, -1] != 0)
    for place in range(9):
        beside, _, _ = sums_by(InC, made, x, y, [np.roll(np.arange(9), place)])
        np.testing.assert_array_equal(beside, alone)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1e-30, 0.3, 3.0, 1e3])
def test_a_patients_score_has_the_bits_that_the_private_engine_gives_it(name, scale):
    made = network(name, scale=scale)
    x, y = people(21)
    risks = logistic(torch.from_numpy(exact_scores(made, x))).numpy()
    sums, _, _ = sums_by(InC, made, x, y, [[who] for who in range(21)], bound=1e30)
    # Unclipped and alone, the gradient of the last bias is the risk less the outcome.
    np.testing.assert_array_equal(sums[:, -1], risks - y)


@pytest.mark.parametrize("name", MODELS)
def test_a_build_without_the_processors_fused_sums_and_without_optimisation_gives_the_same_bits(monkeypatch, name):
    made, (x, y) = network(name), people(9)
    ours = sums_by(InC, made, x, y, [range(9), [4]])
    plain = native_series.declare(compiled("native_series.c", ["-ffp-contract=off", "-O0", "-U__FMA__"]))
    monkeypatch.setattr(native_series, "library", lambda: plain)
    for one, other in zip(ours, sums_by(InC, made, x, y, [range(9), [4]]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("part", range(6))
def test_scores_have_the_private_engines_bits_whichever_weight_of_an_array_is_the_largest(name, part, place):
    """The largest says which lattice a layer's weights are rounded to."""
    made = network(name, scale=0.1)
    with torch.no_grad():
        list(made.parameters())[part].view(-1)[place] = 17.0
    x, y = people(5)
    risks = logistic(torch.from_numpy(exact_scores(made, x))).numpy()
    sums, _, _ = sums_by(InC, made, x, y, [[who] for who in range(5)], bound=1e30)
    np.testing.assert_array_equal(sums[:, -1], risks - y)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("bound", [0.05, 1.0, 1e3])
@pytest.mark.parametrize(("of_weights", "of_patients"), [(0.25, 1.0), (1.0, 10.0)], ids=["scaled", "past the cap"])
def test_norms_and_clipped_sums_are_those_of_a_loop_over_patients_by_autograd(
    name, of_weights, of_patients, per_layer, bound
):
    made = network(name, scale=of_weights)
    x, y = people(22, scale=of_patients)
    clipping = "per_layer" if per_layer else "flat"
    sums, norms, _ = sums_by(InC, made, x, y, [range(22), [4]], clipping=clipping, bound=bound)
    for place, own in enumerate(([*range(22)], [4])):
        rows, outcomes = torch.from_numpy(x[own]).double(), torch.from_numpy(y[own]).double()
        total, lengths = by_hand(made, rows, outcomes, np.arange(len(own)), bound, per_layer=per_layer)
        # A risk close to its outcome is off by some 1e-14.
        np.testing.assert_allclose(norms[place, : len(own)], np.sqrt((lengths**2).sum(0)), rtol=1e-11, atol=1e-11)
        expected = torch.cat([array.ravel() for array in total])
        np.testing.assert_allclose(sums[place], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
@pytest.mark.parametrize(("model", "width"), SHAPES, ids=str)
def test_sums_of_every_shape_and_batch_are_those_by_torch(model, width, clipping):
    made = first_network(model, width, seed=1).double()
    x, y = people(11, width=width, scale=1.5)
    drawn = [range(11), [], [3], [5, 2, 7, 1]]
    for bound in (0.1, 1e9):
        (sums, norms, roundings), (expected, theirs, _) = (
            sums_by(way, made, x, y, drawn, clipping=clipping, bound=bound) for way in (InC, ByTorch)
        )
        assert np.isfinite(roundings).all()
        assert not sums[1].any()
        largest = max(float(abs(expected).max()), bound if bound < 1 else 0.0)
        np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-11 * largest)
        if clipping != "per_layer":
            for found, other, own in zip(norms, theirs, drawn, strict=True):
                np.testing.assert_allclose(found[: len(own)], other[: len(own)], rtol=1e-11)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, STATIC, WIDTH - 1])
def test_a_patient_without_a_number_counts_as_by_torch_and_leaves_the_others_their_sum(name, value, column):
    made = network(name, scale=0.5)
    x, y = people(10)
    x[3, column] = value
    (sums, norms, _), (expected, theirs, _) = (sums_by(way, made, x, y, [range(10)]) for way in (InC, ByTorch))
    # What is infinite is capped; what is no number counts for nothing.
    assert np.isinf(norms[0, 3]) == np.isinf(theirs[0, 3]) == np.isnan(value)
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-11)
    if np.isnan(value):
        rest, _, _ = sums_by(InC, made, x, y, [[i for i in range(10) if i != 3]])
        np.testing.assert_allclose(sums, rest, rtol=0, atol=1e-14)


def gradients_of_one(made, x, y):
    """By parameter the gradient of one patient."""
    (sums,), _, _ = sums_by(InC, made, x, y, [[0]], bound=1e200)
    sizes = [weight.numel() for weight in made.parameters()]
    names = [name for name, _ in made.named_parameters()]
    return dict(zip(names, np.split(sums, np.cumsum(sizes)[:-1]), strict=True))


def test_steps_that_share_the_greatest_value_share_its_gradient():
    made, (x, y) = network("cnn", scale=0.25), people(6)
    series = x[:, STATIC:].reshape(6, STEPS, -1)
    series[:] = series[:, :1]  # the same at every step: all but the ends give the same
    total, _ = by_hand(
        made, torch.from_numpy(x).double(), torch.from_numpy(y).double(), np.arange(6), 1e9, per_layer=False
    )
    sums, _, _ = sums_by(InC, made, x, y, [range(6)], bound=1e9)
    np.testing.assert_allclose(sums[0], torch.cat([array.ravel() for array in total]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("layer", [0, 2], ids=["between the convolutions", "before the head"])
def test_what_stands_at_the_cap_is_shut_and_what_is_just_below_is_not(layer):
    """Filters whose bias alone gives 64 and 63.5, at every step: each step's gradient is a share of the whole."""
    made = network("cnn", scale=0.0)
    with torch.no_grad():
        made.body.layers[layer].bias[:2] = torch.tensor([64.0, 63.5])
        made.body.layers[2].weight[[0, 1], [0, 1], 1] = 2.0**-6 if layer == 0 else 0.0
        made.head.weight[0, :10] = 1.0 if layer == 0 else 2.0**-8
    # Either way the mean and the greatest add up to this, and each has half a filter's gradient.
    score = 2 * 127.5 * (2.0**-6 if layer == 0 else 2.0**-8)
    found = gradients_of_one(made, np.zeros((1, WIDTH), np.float32), np.ones(1, np.float32))
    slope = (1 / (1 + np.exp(-score)) - 1) * 2 * (2.0**-6 if layer == 0 else 2.0**-8)
    np.testing.assert_allclose(found[f"body.layers.{layer}.bias"], [0, slope, 0, 0, 0], rtol=1e-10, atol=0)


def test_a_patient_without_a_number_whose_units_are_all_shut_counts_for_nothing_too():
    """Nothing goes back through shut units; the head's own gradient is no number."""
    made, (x, y) = network("cnn", scale=0.5), people(6)
    with torch.no_grad():
        made.body.layers[2].bias.fill_(-1e3)
    x[2, 0] = np.nan
    for way in (InC, ByTorch):
        sums, norms, _ = sums_by(way, made, x, y, [range(6)])
        assert np.isinf(norms[0, :6]).tolist() == [i == 2 for i in range(6)]
        assert np.isfinite(sums).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("largest", "is_kept"), [(1e-130, False), (1e-110, True)])
def test_weights_too_small_for_any_lattice_are_zeros(name, largest, is_kept):
    made, (x, y) = network(name, scale=0.5), people(1)
    with torch.no_grad():
        made.head.weight.fill_(largest)
        made.head.bias.fill_(0.0)
    found = gradients_of_one(made, x, y)
    assert any(array.any() for key, array in found.items() if key.startswith("body")) is is_kept


def reaching(gate, power):
    """A GRU in which one gate's gradient alone is 2 to this power for either outcome; states, and so scores, are 0.

    Half of the head's 2^300 comes back to one unit's state. A gate that nothing opens or shuts stands at 1/2.
    """
    made = network("gru", scale=0.0)
    cell = made.body.cell
    with torch.no_grad():
        if gate == "reset":
            # What the reset lets through is taken off again, so that the new gate stands at 0, where it is steepest.
            made.head.weight[0, 0] = 2.0**300
            cell.bias_hh_l0[10] = 2.0 ** (power - 296)
            cell.bias_ih_l0[10] = -(2.0 ** (power - 297))
            return made
        # The head asks the second unit alone, which keeps nothing. Its new gate passes 2^298 on to the first, by a weight
        # that meets a state of 0, and only from the last step.
        made.head.weight[0, 1], cell.bias_ih_l0[6] = 2.0**300, -60.0
        if gate == "new":
            cell.bias_ih_l0[0] = -60.0  # The reset is shut, so that nothing comes to the state's own gate.
            cell.weight_hh_l0[11, 0] = 2.0 ** (power - 297)
        else:
            cell.bias_ih_l0[5], cell.bias_ih_l0[10] = 20.0, 60.0  # It keeps its state, and its new gate is flat.
            shut = 1 - float(logistic(torch.tensor([20.0]).double()))
            # Half a power more: weights have 26 bits.
            cell.weight_hh_l0[11, 0] = 2.0 ** (power + 0.5 - 298) / shut
    return made


@pytest.mark.parametrize("gate", ["reset", "update", "new"])
def test_one_gate_alone_past_all_bounds_is_enough_for_a_patient_to_count_for_nothing(gate):
    x, y = np.zeros((2, WIDTH), np.float32), np.array([0, 1], np.float32)
    for power, counts in ((400, True), (401, False)):
        for way in (InC, ByTorch):
            sums, norms, _ = sums_by(way, reaching(gate, power), x, y, [[0], [1]])
            assert bool(np.isfinite(norms[:, 0]).all()) is bool(sums.any()) is counts, (way, power)


def exploding(power):
    """A GRU of which each of five steps back multiplies by half of 10 to this power: states of 0, updates almost shut.

    Past 2^401, some 5e120, nobody counts, though squares are numbers up to 1e154.
    """
    made = network("gru", scale=0.0)
    cell = made.body.cell
    with torch.no_grad():
        made.head.weight.fill_(1.0)
        cell.weight_hh_l0[10:] = torch.eye(5).double() * 10.0**power
        cell.bias_ih_l0[5:10] = -30.0
    return made


@pytest.mark.parametrize(("power", "counts"), [(20, True), (24, True), (27, False), (100, False)])
def test_a_patient_whose_gradient_explodes_counts_for_nothing_as_by_torch(power, counts):
    x, y = people(6)
    for drawn in ([0], range(6)):
        (sums, norms, _), (expected, theirs, _) = (
            sums_by(way, exploding(power), x, y, [drawn]) for way in (InC, ByTorch)
        )
        assert bool(np.isfinite(norms[0]).all()) is bool(np.isfinite(theirs[0, : len(drawn)]).all()) is counts
        assert bool(sums.any()) is counts
        np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-11)


def test_a_patient_whose_gradient_is_past_all_bounds_between_convolutions_counts_for_nothing_as_by_torch():
    x, y = people(16, scale=1e-3)
    counted = set()
    for power in range(5):
        made = network("cnn", scale=0.3)
        with torch.no_grad():
            made.body.layers[0].bias.mul_(1e-3)
            made.body.layers[2].weight.mul_(10.0**power)
            made.head.weight.mul_(1e118)
        (sums, norms, _), (expected, theirs, _) = (sums_by(way, made, x, y, [range(16)]) for way in (InC, ByTorch))
        np.testing.assert_array_equal(np.isinf(norms[0]), np.isinf(theirs[0, :16]))
        np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-11)
        counted |= {bool(norm < np.inf) for norm in norms[0] if norm}
    assert counted == {True, False}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**401])
def test_no_bound_is_given_for_weights_that_are_no_numbers_or_past_all_lattices(name, value):
    for part in range(6):
        made = network(name)
        with torch.no_grad():
            list(made.parameters())[part].view(-1)[0] = value
        assert np.isnan(sums_by(InC, made, *people(3), [range(3)])[2][0])
    found, expected = sums_by(InC, network(name), *people(3), [range(3)])[2][0], ExactNetwork(network(name)).rounding()
    assert expected <= found <= expected * (1 + 1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("share", "is_borne"), [(0.999, True), (1.001, False)])
def test_weights_are_borne_until_a_row_of_them_adds_up_to_2_to_the_400(name, share, is_borne):
    made = network(name, scale=0.0)
    with torch.no_grad():
        made.head.weight[0, 0] = share * 2.0**400 / made.head.in_features
    for way in (InC, ByTorch):
        assert np.isfinite(sums_by(way, made, *people(3), [range(3)])[2][0]) == is_borne


@pytest.mark.parametrize(
    ("body", "summary", "said"),
    [
        (lambda across: Convolved(across, 4, 2, 0.0), 8, "other weights"),
        (lambda across: Convolved(across, 4, 3, 0.5), 8, "drops units"),
        (lambda across: Convolved(across, 200, 5, 0.0), 400, "more than 65,536 weights"),
        (lambda _: nn.Flatten(), 18, "no kernel knows"),
    ],
    ids=["an even number of steps seen", "dropout", "too large", "another body"],
)
def test_networks_over_time_that_the_kernel_does_not_know_are_never_handed_to_it(body, summary, said):
    made = OverTime(WIDTH, STATIC, 6, body, summary).double()
    x, y = people(3)
    assert said in why_not(replace(job(network("gru"), {}, 0, TRAININGS[0]), network=made, x=x, y=y))


def test_gates_and_heads_of_other_shapes_and_rows_of_another_width_are_never_handed_to_c():
    made, (x, y) = network("gru"), people(3)
    one = replace(job(made, {}, 0, TRAININGS[0]), x=x, y=y)
    assert not why_not(one)
    assert "do not fit the network" in why_not(replace(one, x=x[:, :-1]))
    for key, other in (
        ("cell", nn.GRU(3, 5, num_layers=2)),
        ("cell", nn.GRU(4, 5)),
        ("cell", nn.GRU(3, 5, bias=False)),
        ("head", nn.Linear(7, 2)),
    ):
        unfit = network("gru")
        setattr(unfit if key == "head" else unfit.body, key, other)
        assert "other weights" in why_not(replace(one, network=unfit))
