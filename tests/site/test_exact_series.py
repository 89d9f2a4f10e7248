"""Networks over time in fixed point: what they give, and each gradient, is a patient's own to the last bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.errors import Refused, SettingError
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.weights import first_network
from fedhealth.privacy.patient_level import SLACK
from fedhealth.site.exact_network import ROWS, VANISHING, ExactNetwork, check_layers
from fedhealth.site.exact_series import bits_back
from fedhealth.site.exact_sums import bits_for, rounded, split
from fedhealth.site.patient_gradients import clipped_sum
from fedhealth.site.private_engine import check_rounding

STEPS, CHANNELS, STATIC = 6, 3, 2
WIDTH = STATIC + STEPS * CHANNELS
MODELS = {
    "gru": Gru(steps=STEPS, static=STATIC, hidden=5),
    "cnn": Cnn(steps=STEPS, static=STATIC, hidden=5, kernel=3),
}


def network(name, *, scale=1.0, seed=0):
    """Random weights on a lattice of 2^-16, of about `scale`."""
    made = first_network(MODELS[name], WIDTH, seed=2).double()
    with torch.no_grad():
        for k, weight in enumerate(made.parameters()):
            drawn = np.random.default_rng([seed, k]).normal(size=tuple(weight.shape))
            weight.copy_(torch.from_numpy(np.round(drawn * 2**16) / 2**16) * scale)
    return made


def patients(n, seed=0):
    """Rows of which some lack steps, as a patient does who was not measured: zeros in every channel."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=(n, WIDTH))
    series = x[:, STATIC:].reshape(n, STEPS, CHANNELS)
    series[rng.random((n, STEPS)) < 0.3] = 0.0
    return torch.from_numpy(x), torch.from_numpy((rng.random(n) < 0.4).astype(float))


def names_of(made):
    return [name for name, _ in made.named_parameters()]


def written_out(gradients, i):
    left = gradients.left[i]
    return left if gradients.right is None else torch.outer(left, gradients.right[i])


def same_bits(one, other):
    """Also where both are not numbers."""
    return np.array_equal(one.numpy(), other.numpy(), equal_nan=True)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e-30, 1e-3, 0.3, 1.0, 1e3, 1e9, 1e30])
def test_a_rows_score_and_gradient_are_the_same_bit_for_bit_alone_and_anywhere_among_others(name, scale):
    made = network(name, scale=scale)
    (x, y), exact, names = patients(67), ExactNetwork(made), names_of(made)
    scores, together = exact.scores(x), exact.gradients(x, y, names)
    rng = np.random.default_rng(1)
    for size in (1, 2, 3, 7, 32, 66):
        chosen = rng.permutation(67)[:size]
        assert torch.equal(exact.scores(x[chosen]), scores[chosen])
        found = exact.gradients(x[chosen], y[chosen], names)
        for place, i in enumerate(chosen.tolist()):
            for one, all_ in zip(found, together, strict=True):
                assert same_bits(written_out(one, place), written_out(all_, i))


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(MODELS)), st.integers(1, 40), st.floats(-20, 20))
@settings(max_examples=40, deadline=None)
def test_no_weights_and_no_companions_move_a_bit_of_a_patient(seed, name, companions, power):
    """Among the weights are some that cancel: of each array, one half is the other's with its sign turned."""
    made = network(name, scale=10.0**power, seed=seed)
    with torch.no_grad():
        for weight in made.parameters():
            flat = weight.view(-1)
            flat[: len(flat) // 2] = -flat[len(flat) - len(flat) // 2 :] * (1 + 2.0**-20)
    x, y = patients(companions + 1, seed)
    x[1:] *= 10.0 ** np.random.default_rng(seed).integers(-9, 9)
    exact, names = ExactNetwork(made), names_of(made)
    assert torch.equal(exact.scores(x)[:1], exact.scores(x[:1]))
    together, alone = (exact.gradients(x[:n], y[:n], names) for n in (companions + 1, 1))
    for one, all_ in zip(alone, together, strict=True):
        assert same_bits(written_out(one, 0), written_out(all_, 0))


@pytest.mark.parametrize("model", [Gru(steps=48, hidden=32), Cnn(steps=48, hidden=32)], ids=["gru", "cnn"])
def test_two_days_by_the_hour_through_networks_of_ordinary_size_are_a_patients_own_as_well(model):
    made = first_network(model, 48 * 12, seed=1).double()
    exact, names, rng = ExactNetwork(made), names_of(made), np.random.default_rng(3)
    x, y = torch.from_numpy(rng.normal(size=(41, 48 * 12))), torch.from_numpy((rng.random(41) < 0.4).astype(float))
    scores, together = exact.scores(x), exact.gradients(x, y, names)
    assert len(set(scores.tolist())) == 41
    for i in (0, 31, 32, 40):
        assert torch.equal(exact.scores(x[i : i + 1])[0], scores[i])
        for one, all_ in zip(exact.gradients(x[i : i + 1], y[i : i + 1], names), together, strict=True):
            assert torch.equal(written_out(one, 0), written_out(all_, i))


@pytest.mark.parametrize("name", MODELS)
def test_plain_floating_point_would_not_do(name):
    """The reason for it all: the same network as torch runs it, on the same rows."""
    made, (x, _) = network(name), patients(67)
    with torch.no_grad():
        together = made(x)[:, 0]
        alone = torch.cat([made(x[i : i + 1])[:, 0] for i in range(67)])
    assert not torch.equal(alone, together)


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_what_the_network_gives_but_for_the_rounding(name):
    made, (x, y) = network(name, scale=0.3), patients(40)
    names = names_of(made)
    exact = ExactNetwork(made)
    given_ = made(x)[:, 0]
    torch.testing.assert_close(exact.scores(x), given_.detach(), rtol=1e-5, atol=1e-5)
    loss = binary_cross_entropy_with_logits(given_, y, reduction="sum")
    for one, whole in zip(
        exact.gradients(x, y, names), torch.autograd.grad(loss, list(made.parameters())), strict=True
    ):
        torch.testing.assert_close(one.total(torch.ones(40).double()).view_as(whole), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_more_rows_than_are_scored_at_once_have_the_bits_of_fewer(name):
    exact, (x, _) = ExactNetwork(network(name)), patients(ROWS + 3)
    assert torch.equal(exact.scores(x)[ROWS:], exact.scores(x[ROWS:]))
    assert exact.scores(x[:0]).shape == (0,)


# --- the oracle: torch's own gradient, patient by patient, of the network with its roundings passed on through ---


def on_lattice(x, bits=20, cap=64.0):
    capped = x.clamp(-cap, cap)
    return capped + ((capped * 2**bits).round() / 2**bits - capped).detach()


def logits(made, x):
    """The network written down once more, for one patient's row."""
    series = on_lattice(x[:, STATIC:].reshape(len(x), STEPS, CHANNELS))
    if hasattr(made.body, "cell"):
        cell, state = made.body.cell, torch.zeros(len(x), made.body.cell.hidden_size).double()
        for t in range(STEPS):
            of_input = series[:, t] @ cell.weight_ih_l0.T + cell.bias_ih_l0
            of_state = state @ cell.weight_hh_l0.T + cell.bias_hh_l0
            (r, z, n), (hr, hz, hn) = of_input.chunk(3, dim=1), of_state.chunk(3, dim=1)
            reset, update = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            state = on_lattice((1 - update) * torch.tanh(n + reset * hn) + update * state, bits=26, cap=2.0)
        summary = state
    else:
        first, second = made.body.layers[0], made.body.layers[2]
        found = torch.relu(first(series.transpose(1, 2)))
        found = torch.relu(second(on_lattice(found)))
        summary = torch.cat([found.mean(dim=2), found.amax(dim=2)], dim=1)
    return made.head(on_lattice(torch.cat([summary, x[:, :STATIC]], dim=1)))[:, 0]


def by_hand(made, x, y, whose, bound, *, per_layer):
    """Patient by patient: the gradient of the mean loss of a patient's rows, clipped, added up; and the norms."""
    weights, total, norms = list(made.parameters()), None, []
    for patient in np.unique(whose):
        own = torch.from_numpy(whose == patient)
        found = torch.autograd.grad(binary_cross_entropy_with_logits(logits(made, x[own]), y[own]), weights)
        whole = torch.sqrt(sum((g**2).sum() for g in found))
        each = bound / len(found) ** 0.5
        scales = [min(1, float(each / g.norm())) if per_layer else min(1, float(bound / whole)) for g in found]
        clipped = [g * scale for g, scale in zip(found, scales, strict=True)]
        total = clipped if total is None else [a + b for a, b in zip(total, clipped, strict=True)]
        norms.append([float(g.norm()) for g in found] if per_layer else [float(whole)])
    return total, np.array(norms).T


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("bound", [0.05, 1.0, 1e3])
@pytest.mark.parametrize("rows_each", [1, 4])
def test_norms_and_clipped_sums_are_those_of_a_loop_over_patients(name, per_layer, bound, rows_each):
    made, (x, y) = network(name, scale=0.25), patients(24)
    whose = np.random.default_rng(5).permutation(np.repeat(np.arange(24 // rows_each), rows_each))
    expected, norms = by_hand(made, x, y, whose, bound, per_layer=per_layer)
    found = ExactNetwork(made).gradients(x, y, names_of(made))
    if rows_each > 1:
        found = [each.by_patient(torch.from_numpy(whose), 24 // rows_each) for each in found]
    sums, told = clipped_sum(found, bound, per_layer=per_layer)
    order = np.argsort(whose) if rows_each == 1 else slice(None)
    np.testing.assert_allclose(told.numpy()[:, order], norms, rtol=1e-11)
    for one, other in zip(sums, expected, strict=True):
        np.testing.assert_allclose(one, other.ravel(), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_sum_of_clipped_gradients_is_that_of_opacus(name):
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

    made, (x, y) = network(name, scale=0.25).float(), patients(40)
    theirs = GradSampleModule(ModuleValidator.fix(made) if name == "gru" else made, loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=0.1), noise_multiplier=0.0, max_grad_norm=0.5,
        expected_batch_size=1, loss_reduction="sum",
    )  # fmt: skip
    binary_cross_entropy_with_logits(theirs(x.float()).squeeze(1), y.float(), reduction="sum").backward()
    optimiser.pre_step()
    ours = network(name, scale=0.25)
    found, _ = clipped_sum(ExactNetwork(ours).gradients(x, y, names_of(ours)), 0.5)
    summed = {n.removeprefix("_module."): weight.summed_grad.double() for n, weight in theirs.named_parameters()}
    # Its own GRU names its arrays otherwise; put together they are as long, and as one each has its place.
    kinds = {"weight_ih_l0": "l0.ih.weight", "weight_hh_l0": "l0.hh.weight", "bias_ih_l0": "l0.ih.bias", "bias_hh_l0": "l0.hh.bias"}  # fmt: skip
    for key, one in zip(names_of(ours), found, strict=True):
        head, _, kind = key.rpartition(".")
        other = summed.get(key, summed.get(f"{head}.{kinds.get(kind)}"))
        np.testing.assert_allclose(one, other.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0, 1e6, 1e20])
def test_one_patient_more_moves_the_clipped_sum_by_the_clip_and_no_more_whatever_the_weights(name, scale):
    made, (x, y) = network(name, scale=scale), patients(130)
    exact, names = ExactNetwork(made), names_of(made)
    assert exact.rounding() == VANISHING
    for left_out in (0, 64, 129):
        kept = np.delete(np.arange(130), left_out)
        sums = [
            torch.cat(clipped_sum(exact.gradients(x[own], y[own], names), 0.5)[0]) for own in (kept, np.arange(130))
        ]
        assert float((sums[1] - sums[0]).norm()) <= 0.5 * (1 + SLACK / 1000)


@pytest.mark.parametrize("name", MODELS)
def test_a_clip_so_small_that_squares_vanish_is_refused_though_nothing_is_rounded(name):
    """Adaptive clipping may bring it there; a norm below 2^-537 squares to nothing, and its gradient would pass unclipped."""
    exact = ExactNetwork(network(name))
    check_rounding(exact, patients=1e4, bound=1e-100)
    with pytest.raises(Refused, match="rounding must move"):
        check_rounding(exact, patients=1e4, bound=1e-160)


def test_a_patient_whose_gradient_explodes_counts_for_nothing_alone_and_among_others():
    """States of 1 at an open reset gate and a shut update gate: each step back multiplies by some 1e100."""
    made = network("gru", scale=0.0)
    hidden, cell = 5, made.body.cell
    with torch.no_grad():
        made.head.weight.fill_(1.0)
        cell.weight_hh_l0[2 * hidden :] = torch.eye(5).double() * 1e100
        cell.bias_ih_l0[hidden : 2 * hidden] = -30.0
    (x, y), names, exact = patients(9), names_of(made), ExactNetwork(made)
    # Nobody's state moves from 0, where a hyperbolic tangent is steepest, so everybody's gradient is past 2^400.
    for own in (slice(0, 1), slice(0, 9)):
        sums, norms = clipped_sum(exact.gradients(x[own], y[own], names), 1.0)
        assert bool(norms.isinf().all())
        assert not torch.cat(sums).any()


@pytest.mark.parametrize("name", MODELS)
def test_a_row_that_is_no_number_counts_for_nothing_and_leaves_the_others_their_bits(name):
    made, (x, y) = network(name), patients(12)
    exact, names = ExactNetwork(made), names_of(made)
    whole = exact.gradients(x, y, names)
    x[3, STATIC + 1] = math.nan
    found = exact.gradients(x, y, names)
    for one, other in zip(found, whole, strict=True):
        assert all(same_bits(written_out(one, i), written_out(other, i)) for i in range(12) if i != 3)
    sums, norms = clipped_sum(found, 1.0)
    others = [i for i in range(12) if i != 3]
    rest, _ = clipped_sum(exact.gradients(x[others], y[others], names), 1.0)
    assert norms[0, 3] == math.inf
    torch.testing.assert_close(torch.cat(sums), torch.cat(rest), rtol=1e-12, atol=1e-12)


def test_a_row_that_is_no_number_has_the_same_gradient_at_every_place():
    made, (x, y) = network("cnn"), patients(13)
    with torch.no_grad():
        made.body.layers[0].bias.fill_(-1e3)  # so that units are shut at each step but those that are none
    x[:, STATIC + 1] = math.nan
    x[:], y[:] = x[0].clone(), 0.0
    exact, names = ExactNetwork(made), names_of(made)
    for n in (1, 5, 13):
        for alone, beside in zip(
            exact.gradients(x[:1], y[:1], names), exact.gradients(x[:n], y[:n], names), strict=True
        ):
            assert all(same_bits(written_out(alone, 0), written_out(beside, i)) for i in range(n))


def test_steps_that_share_the_greatest_value_share_its_gradient():
    made, (x, y) = network("cnn", scale=0.25), patients(6)
    series = x[:, STATIC:].reshape(6, STEPS, CHANNELS)
    series[:] = series[:, :1]  # the same at every step: all but the ends give the same
    found = ExactNetwork(made).gradients(x, y, names_of(made))
    expected, _ = by_hand(made, x, y, np.arange(6), 1e9, per_layer=False)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.total(torch.ones(6).double()), other.ravel(), rtol=0, atol=1e-11)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(-100, 100))
@settings(max_examples=60, deadline=None)
def test_both_parts_of_a_split_add_up_with_whole_numbers_of_26_bits_without_rounding(seed, terms, power):
    rng = np.random.default_rng(seed)
    back = torch.from_numpy(rng.normal(size=(1, terms)) * 2.0 ** (power + rng.integers(-30, 1, size=(1, terms))))
    whole = torch.from_numpy(rng.integers(-(2**26), 2**26 + 1, size=(terms, 1)).astype(float))
    whole[:] = whole.sign() * 2.0**26 if seed % 3 == 0 else whole  # as large as they get
    bits = bits_for(terms, 26)
    high, low = torch.empty_like(back), torch.empty_like(back)
    split(back.numpy(), bits, (1,), high.numpy(), low.numpy())
    for part in (high, low):
        exact = sum(Fraction(a) * int(b) for a, b in zip(part[0].tolist(), whole[:, 0].tolist(), strict=True))
        assert Fraction(float(part @ whole)) == exact
        assert Fraction(math.fsum(a * b for a, b in zip(part[0].tolist(), whole[:, 0].tolist(), strict=True))) == exact
    largest = float(back.abs().max())
    assert float((back - high - low).abs().max()) <= largest * 2.0 ** (1 - 2 * bits)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_what_goes_back_through_weights_as_large_as_they_get_adds_up_without_rounding(seed, inputs, outputs):
    rng = np.random.default_rng(seed)
    almost = (rng.choice([-1.0, 1.0], size=(1, outputs, inputs)) * rng.uniform(0.99, 1.0)).astype(float)
    weight = rounded(torch.from_numpy(almost - almost * 2.0 ** -rng.uniform(10, 25, size=almost.shape)))[0][0]
    back = weight[:, 0].sign().numpy()[None] * rng.uniform(0.99, 1.0, size=(1, outputs))
    high, low = np.empty_like(back), np.empty_like(back)
    split(back, bits_back(inputs, outputs), (1,), high, low)
    for part in (high, low):
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(part[0].tolist(), weight[:, 0].tolist(), strict=True))
        assert Fraction(float((torch.from_numpy(part) @ weight)[0, 0])) == exact


def last_bit(x, axis):
    """The exponent of the last bit that is set in any of the numbers along an axis."""
    part, exponent = np.frexp(x)
    whole = (part * 2.0**53).astype(np.int64)
    return np.where(x == 0, 2000, exponent - 53 + np.log2(np.maximum(whole & -whole, 1))).min(axis, keepdims=True)


@pytest.mark.parametrize(
    "model",
    [
        Gru(steps=6, hidden=4),
        Gru(steps=1, hidden=1),
        Cnn(steps=6, hidden=4, kernel=3),
        Cnn(steps=1, hidden=4, kernel=1),
    ],
    ids=str,
)
def test_every_product_has_room_for_terms_that_are_all_as_large_as_the_largest_and_none_wants_rounding(
    monkeypatch, model
):
    """By the bits of the very numbers: weights are alike and fill their lattice, and some inputs stand at the cap."""
    width, rng, full = 3 * model.steps, np.random.default_rng(0), []

    def watched(product):
        def checked(a, b, **more):
            one, other = (each.numpy().copy() for each in (a, b))
            found = product(a, b, **more)
            largest = np.abs(one).max(-1, keepdims=True) * np.abs(other).max(-2, keepdims=True)
            room = 53.0 + last_bit(one, -1) + last_bit(other, -2)
            bits = np.log2(np.maximum(one.shape[-1] * largest, 2.0**-900)) - room + 53
            full.append(bits.max())
            return found

        return checked

    made = first_network(model, width, seed=0).double()
    with torch.no_grad():
        for weight in made.parameters():
            across = weight[0].numel() if weight.ndim > 1 else 2**30
            sign = torch.from_numpy(rng.choice([-1.0, 1.0], size=tuple(weight.shape)))
            weight.copy_(sign * (0.999 + 1e-6 * torch.from_numpy(rng.random(tuple(weight.shape)))) / across)
        # A filter of the second convolution counts far less than another, and so does what goes back to it.
        made.head.weight[0, 0] *= 2.0**-20
    x = torch.from_numpy(rng.choice([0.3, 1.7, 64.0], size=(60, width)) * rng.choice([-1, 1], size=(60, width)))
    for name in ("mm", "bmm"):
        monkeypatch.setattr(torch, name, watched(getattr(torch, name)))
    ExactNetwork(made).gradients(x, torch.from_numpy(rng.integers(0, 2, 60)).double(), names_of(made))
    assert 52 < max(full) <= 53


@pytest.mark.parametrize(("value", "is_number"), [(2.0**400, True), (2.0**402, False), (math.inf, False), (math.nan, False), (0.0, True), (1e-320, True)])  # fmt: skip
def test_a_row_is_split_unless_it_is_past_what_products_bear(value, is_number):
    back = torch.tensor([[value, 0.0], [1.0, -0.5]], dtype=torch.float64)
    high, low = torch.empty_like(back), torch.empty_like(back)
    with np.errstate(all="ignore"):
        split(back.numpy(), 21, (1,), high.numpy(), low.numpy())
    assert bool((high + low)[0].isfinite().all()) is is_number
    assert (high + low)[1].tolist() == [1.0, -0.5]


def test_what_is_too_small_for_products_without_rounding_is_cut_off_beforehand():
    """Below 2^-1022 a float64 has fewer digits, and a product would be rounded."""
    back, high, low = np.full((1, 2), 1e-170), np.empty((1, 2)), np.empty((1, 2))
    split(back, 21, (1,), high, low)
    assert not (high + low).any()
    assert not rounded(torch.full((1, 1, 2), 1e-130, dtype=torch.float64))[0].any()
    assert bool((rounded(torch.full((1, 1, 2), 1e-110, dtype=torch.float64))[0] > 0).all())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0**401])
def test_weights_that_are_no_numbers_or_past_all_lattices_are_refused(name, value):
    for part in range(len(names_of(network(name)))):
        made = network(name)
        with torch.no_grad():
            list(made.parameters())[part].view(-1)[0] = value
        for asked in (lambda made=made: ExactNetwork(made).scores(patients(3)[0]), lambda made=made: ExactNetwork(made).rounding()):  # fmt: skip
            with pytest.raises(Refused, match="must be finite") as refused:
                asked()
            assert refused.value.code == "weights_not_finite"


@pytest.mark.parametrize("model", [Gru(steps=STEPS, dropout=0.5), Cnn(steps=STEPS, dropout=0.5)])
def test_dropout_is_refused_by_name(model):
    with pytest.raises(SettingError, match="Set model.dropout=0"):
        check_layers(first_network(model, STEPS, seed=0))


def test_every_step_counts_and_so_does_what_has_no_time():
    made, (x, y) = network("gru", scale=0.3), patients(4)
    exact, names = ExactNetwork(made), names_of(made)
    norms = clipped_sum(exact.gradients(x, y, names), 1.0)[1]
    for column in range(0, WIDTH, 2):
        other = x.clone()
        other[:, column] += 1.0
        assert bool((exact.scores(other) != exact.scores(x)).all())
        assert bool((clipped_sum(exact.gradients(other, y, names), 1.0)[1] != norms).all())
