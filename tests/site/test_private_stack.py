"""Private training of many hospitals at once, by torch and in C, against the private engine of each, its oracle, and against Opacus."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from marks import slow
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.errors import DataError, Refused, SettingError
from fedhealth.core.pull import Pull
from fedhealth.core.training import LocalTraining
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.patient_level import Course
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.exact_sums import onto
from fedhealth.site.kernels.exact import ExactStack
from fedhealth.site.kernels.private import PrivateJob
from fedhealth.site.kernels.score import ScoreJob
from fedhealth.site.patient_gradients import clipped_sum
from fedhealth.site.private_engine import PrivateEngine, exact_risks, exact_scores

WIDTH = 5
LAYERED = [Logistic(), Mlp(hidden=(8,)), Mlp(hidden=(7, 4), normalisation="layer")]
OVER_TIME = [Gru(steps=2, static=1, hidden=4), Cnn(steps=2, static=1, hidden=4, kernel=3)]
MODELS = LAYERED + OVER_TIME
#: Ragged, one and nobody among them; and equally many twice.
SIZES = (60, 33, 7, 64, 1, 33, 0, 16)
TRAININGS = [
    LocalTraining(epochs=2, batch_size=16, learning_rate=0.5, momentum=0.9, weight_decay=0.1),
    LocalTraining(steps=6, batch_size=16, optimiser="adamw", learning_rate=0.01, weight_decay=0.1),
]
#: Ways to clip, and what else moves or holds the weights.
EACH_ONCE = [("flat", "none"), ("per_layer", "only"), ("adaptive", "pull")]
OTHER_PAIRS = sorted({*product(*zip(*EACH_ONCE, strict=True))} - {*EACH_ONCE})


@pytest.fixture(params=[Batched(), Native()], ids=lambda engine: type(engine).__name__)
def engine(request):
    return request.param


def patients(n, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, WIDTH)).astype(np.float32), (rng.random(n) < 0.4).astype(np.float32)


def network_of(model, dtype=torch.float64, spread=0.3):
    network = first_network(model, WIDTH, seed=3).to(dtype)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=dtype))
    return network


def job(network, weights, site, training, *, left=10_000, rate=None, noise=0.8, clipping="flat", **more):
    x, y = patients(SIZES[site], site)
    size = SIZES[site] + 2  # as it was told, with noise
    course = Course(rate or min(16 / size, 1.0), left, noise)
    engine = PrivateEngine(
        mechanism=DpSgd(epsilon=None, noise_multiplier=noise, max_grad_norm=0.7, clipping=clipping),
        course=course, size=size, left=left, bound=0.7, source=NoiseSource(insecure_seed=site),
    )  # fmt: skip
    return PrivateJob(network, weights, x, y, training, np.random.default_rng(0), engine=engine, **more)


def alone(one):
    load_weights(one.network, one.weights)
    _, steps = one.engine.fit(one.network, one.x, one.y, one.training, one.rng, pull=one.pull, only=one.only)
    return weights_of(one.network), steps


def pulls(weights, site):
    return Pull(
        strength=0.3,
        anchor={name: array + 0.1 for name, array in weights.items()},
        shift={name: np.full_like(array, 0.01 * site) for name, array in weights.items()},
    )


def hooked(network, training, clipping, hook):
    """A job a hospital, with what else moves or holds its weights."""
    weights = weights_of(network)
    for site in range(len(SIZES)):
        more = {"pull": pulls(weights, site)} if hook == "pull" else {}
        more |= {"only": frozenset(list(weights)[-1:])} if hook == "only" else {}
        yield job(network, weights, site, training, clipping=clipping, **more)


@cache
def each_alone(model, training, clipping, hook):
    """What the private engine makes of each hospital, with its state after that: the same for both engines."""
    return [(*alone(one), one.engine) for one in hooked(network_of(model), training, clipping, hook)]


@pytest.mark.parametrize(("clipping", "hook"), [*EACH_ONCE, *slow(*OTHER_PAIRS)])
@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.optimiser)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_whole_private_trainings_of_ragged_hospitals_are_the_private_engines(model, training, clipping, hook, engine):
    jobs = list(hooked(network_of(model), training, clipping, hook))
    oracle = each_alone(model, training, clipping, hook)
    for one, (expected, steps, alone_engine), found in zip(jobs, oracle, engine.fit_private(jobs), strict=True):
        assert found.steps == steps
        assert np.isnan(found.loss)
        for name, array in expected.items():
            np.testing.assert_allclose(found.weights[name], array, rtol=0, atol=1e-8)
        assert one.engine.bound == pytest.approx(alone_engine.bound, rel=1e-12)
        assert one.engine.left == alone_engine.left


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_float32_weights_leave_a_stack_with_the_private_engines_bits(model, engine):
    network = network_of(model, torch.float32)
    weights = weights_of(network)
    found = engine.fit_private([job(network, weights, site, TRAININGS[0]) for site in range(len(SIZES))])
    for site, own in enumerate(found):
        expected, _ = alone(job(network, weights, site, TRAININGS[0]))
        for name, array in expected.items():
            assert own.weights[name].dtype == np.float32
            np.testing.assert_array_equal(own.weights[name], array)


def test_a_step_that_draws_nobody_anywhere_gets_its_noise_and_no_two_hospitals_the_same(engine):
    network = network_of(Logistic())
    weights = weights_of(network)
    training = LocalTraining(steps=1, learning_rate=1.0)
    found = engine.fit_private([job(network, weights, site, training, rate=1e-9) for site in range(3)])
    moved = [own.weights["weight"] - weights["weight"] for own in found]
    assert all(np.all(np.abs(each) > 0) for each in moved)
    assert not np.allclose(moved[0] * SIZES[0], moved[1] * SIZES[1])


def test_a_secure_source_never_repeats_a_stacks_noise(engine):
    network = network_of(Logistic())
    one, two = (
        engine.fit_private([replace(each, engine=replace(each.engine, source=NoiseSource())) for each in jobs])
        for jobs in [[job(network, weights_of(network), site, TRAININGS[0]) for site in (0, 1)] for _ in range(2)]
    )
    assert all(not np.array_equal(a.weights["weight"], b.weights["weight"]) for a, b in zip(one, two, strict=True))


def test_each_hospital_that_refuses_does_so_alone(engine):
    network = network_of(Mlp(hidden=(8,)))
    weights, wild = weights_of(network), {name: 1e9 * array for name, array in weights_of(network).items()}
    infinite = {name: np.full_like(array, np.inf) for name, array in weights.items()}
    jobs = [
        job(network, weights, 0, TRAININGS[0]),
        job(network, wild, 1, TRAININGS[0]),
        job(network, weights, 3, TRAININGS[0], left=1),
        job(network, infinite, 5, TRAININGS[0]),
        # So little noise that the sum is beyond any lattice.
        job(network, weights, 7, TRAININGS[0], noise=1e-12),
    ]
    good, large, spent, endless, silent = engine.fit_private(jobs)
    expected, _ = alone(job(network, weights, 0, TRAININGS[0]))
    assert all(np.array_equal(good.weights[name], array) for name, array in expected.items())
    assert [(type(each), getattr(each, "code", "")) for each in (large, spent, endless, silent)] == [
        (Refused, "weights_too_large"), (Refused, "budget_spent"), (Refused, "weights_not_finite"), (DataError, ""),
    ]  # fmt: skip


@pytest.mark.parametrize("scale", [1e300, 1e301, 1e307])
def test_weights_near_the_end_of_float64_are_refused_and_leave_the_neighbour_its_bits(scale, engine):
    network = network_of(Mlp(hidden=(8,)))
    weights = weights_of(network)
    good, wild = engine.fit_private(
        [
            job(network, weights, 0, TRAININGS[0]),
            job(network, {n: scale * a for n, a in weights.items()}, 1, TRAININGS[0]),
        ]
    )
    expected, _ = alone(job(network, weights, 0, TRAININGS[0]))
    assert all(np.array_equal(good.weights[name], array) for name, array in expected.items())
    assert isinstance(wild, Refused)
    with pytest.raises(Refused) as found:
        alone(job(network, {n: scale * a for n, a in weights.items()}, 1, TRAININGS[0]))
    assert found.value.code == wild.code


def test_a_refused_hospital_whose_weights_grow_without_end_costs_no_other_its_round(engine):
    network = network_of(Mlp(hidden=(8,)))
    weights = weights_of(network)
    # By weight decay alone weights grow fivefold a step, past the end of float64 after some 430 more.
    training = LocalTraining(steps=450, batch_size=16, learning_rate=1.0, weight_decay=6.0)
    nothing = {name: 0 * array for name, array in weights.items()}
    short = replace(training, steps=3)
    fine, wild = engine.fit_private([job(network, nothing, 0, short), job(network, weights, 1, training)])
    assert not isinstance(fine, Exception)
    assert wild.code == "weights_too_large"


def test_a_hospital_whose_count_of_clipped_patients_gets_no_noise_is_refused_alone(engine):
    network = network_of(Mlp(hidden=(8,)))
    weights = weights_of(network)

    def small():
        return job(network, weights, 0, TRAININGS[0], clipping="adaptive")

    # So many patients were told that the noise on a count of them is wider than any lattice.
    vast = job(network, weights, 1, TRAININGS[0], rate=1.0, clipping="adaptive")
    vast = replace(vast, engine=replace(vast.engine, size=5_000_000))
    one, other = small(), small()
    found, refused = engine.fit_private([one, vast])
    expected, _ = alone(other)
    assert all(np.array_equal(found.weights[name], array) for name, array in expected.items())
    assert one.engine.bound == other.engine.bound
    assert isinstance(refused, SettingError)
    assert "Use less noise or a smaller model" in str(refused)


def test_a_network_that_drops_units_is_refused_by_name_and_its_neighbour_is_not(engine):
    network = network_of(Mlp(hidden=(8,)))
    weights, over_time = weights_of(network), first_network(Gru(steps=WIDTH, dropout=0.5), WIDTH, seed=3)
    ours, theirs = engine.fit_private(
        [job(network, weights, 0, TRAININGS[0]), job(over_time, weights_of(over_time), 1, TRAININGS[0])]
    )
    assert not isinstance(ours, Exception)
    assert isinstance(theirs, SettingError)
    assert "Set model.dropout=0" in str(theirs)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_rounding_of_each_network_of_a_stack_is_bounded_as_alone(model):
    networks = [network_of(model, spread=spread) for spread in (0.1, 5.0)]
    arrays = [dict(network.named_parameters()) for network in networks]
    weights = {name: torch.stack([own[name].detach() for own in arrays]) for name in arrays[0]}
    alone_ = [ExactNetwork(network).rounding() for network in networks]
    np.testing.assert_allclose(ExactStack(networks[0], weights, 2).rounding(), alone_, rtol=1e-12)


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
def test_patients_without_a_number_count_for_nothing_and_leave_the_neighbour_its_bits(clipping, engine):
    network = network_of(Mlp(hidden=(8,)))
    weights = weights_of(network)

    def jobs():
        found = [job(network, weights, site, TRAININGS[0], clipping=clipping) for site in (0, 1)]
        found[0].x[::3] = np.nan
        return found

    for one, own, other in zip(stacked := jobs(), engine.fit_private(stacked), jobs(), strict=True):
        expected, _ = alone(other)
        for name, array in expected.items():
            np.testing.assert_allclose(own.weights[name], array, rtol=0, atol=1e-8)
        assert one.engine.bound == pytest.approx(other.engine.bound, rel=1e-12)


def on_lattice(layer, inputs):
    (x,) = inputs
    return (x + ((x * 2**20).round() / 2**20 - x).detach(),)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("model", LAYERED, ids=str)
def test_the_norms_and_clipped_sums_of_a_stack_are_those_of_opacus_gradients_by_patient(model, per_layer):
    from opacus import GradSampleModule

    sizes, bounds = (40, 1, 17), (0.5, 0.02, 3.0)
    networks = [network_of(model, spread=0.1 * (1 + place)) for place in range(3)]
    for network in networks:
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_((weight * 2**16).round() / 2**16)
    names = [name for name, _ in networks[0].named_parameters()]
    weights = {name: torch.stack([dict(n.named_parameters())[name].detach() for n in networks]) for name in names}
    x, y, is_in = torch.zeros(3, 40, WIDTH).double(), torch.zeros(3, 40).double(), torch.zeros(3, 40).double()
    for place, n in enumerate(sizes):
        own, outcome = patients(n, place)
        x[place, :n], y[place, :n], is_in[place, :n] = torch.from_numpy(own), torch.from_numpy(outcome), 1
    x = onto(x)
    stack = ExactStack(networks[0], weights, 3)
    found, norms = stack.clipped(x, y, is_in, names, torch.tensor(bounds, dtype=torch.float64), per_layer=per_layer)
    assert float(norms[:, 1, 1:].abs().max()) == 0
    for place, (n, bound) in enumerate(zip(sizes, bounds, strict=True)):
        for layer in networks[place].modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(on_lattice)
        theirs = GradSampleModule(networks[place], loss_reduction="sum")
        binary_cross_entropy_with_logits(theirs(x[place, :n]).squeeze(1), y[place, :n], reduction="sum").backward()
        samples = [weight.grad_sample.flatten(1) for weight in theirs.parameters()]
        squares = torch.stack([sample.square().sum(1) for sample in samples])
        norm = squares.sqrt() if per_layer else squares.sum(0, keepdim=True).sqrt()
        np.testing.assert_allclose(norms[:, place, :n], norm, rtol=1e-12, atol=1e-12)
        most = bound / len(names) ** 0.5 if per_layer else bound
        scales = (most / norm.clamp_min(most)).expand(len(names), -1)
        for one, sample, scale in zip(found, samples, scales, strict=True):
            np.testing.assert_allclose(one[place].ravel(), scale @ sample, rtol=0, atol=1e-12)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("model", OVER_TIME, ids=str)
def test_the_norms_of_a_stack_over_time_have_the_bits_of_each_hospital_alone_and_places_without_a_patient_none(
    model, per_layer
):
    networks = [network_of(model, spread=0.3 * (1 + 1e6 * place)) for place in range(3)]
    names = [name for name, _ in networks[0].named_parameters()]
    weights = {name: torch.stack([dict(n.named_parameters())[name].detach() for n in networks]) for name in names}
    x, y = torch.zeros(3, 40, WIDTH).double(), torch.zeros(3, 40).double()
    sizes, is_in = (40, 1, 17), torch.zeros(3, 40).double()
    for place, n in enumerate(sizes):
        own, outcome = patients(n, place)
        x[place, :n], y[place, :n], is_in[place, :n] = torch.from_numpy(own), torch.from_numpy(outcome), 1
    found, norms = ExactStack(networks[0], weights, 3).clipped(
        onto(x), y, is_in, names, torch.full((3,), 0.5).double(), per_layer=per_layer
    )
    for place, n in enumerate(sizes):
        gradients = ExactNetwork(networks[place]).gradients(x[place, :n], y[place, :n], names)
        sums, alone_ = clipped_sum(gradients, 0.5, per_layer=per_layer)
        np.testing.assert_allclose(norms[:, place, :n], alone_, rtol=1e-14)
        assert not norms[:, place, n:].any()
        for one, other in zip(found, sums, strict=True):
            np.testing.assert_allclose(one[place].ravel(), other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, 2.0**401])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_network_whose_weights_are_no_numbers_or_past_all_lattices_is_refused_and_leaves_the_neighbour_its_bits(
    model, value, engine
):
    network = network_of(model)
    weights = weights_of(network)
    layers = dict(network.named_modules())
    expected, _ = alone(job(network, weights, 0, TRAININGS[0]))
    for name in weights:
        if value > 1 and isinstance(layers[name.rpartition(".")[0]], torch.nn.LayerNorm):
            continue  # It needs no lattice.
        broken = {key: array.copy() for key, array in weights.items()}
        broken[name].flat[0] = value
        good, bad = engine.fit_private([job(network, weights, 0, TRAININGS[0]), job(network, broken, 1, TRAININGS[0])])
        assert isinstance(bad, Refused)
        assert bad.code == "weights_not_finite"
        assert all(np.array_equal(good.weights[key], array) for key, array in expected.items())


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_exact_scores_of_many_hospitals_have_the_bits_of_each_alone(model):
    network = network_of(model, torch.float32)
    weights, other = weights_of(network), {name: array + 0.1 for name, array in weights_of(network).items()}
    jobs = [
        ScoreJob(network, (weights, other)[s % 2], patients(n, s)[0], is_exact=True)
        for s, n in enumerate((1, 40, 0, 33))
    ]
    for own, found in zip(jobs, Batched().score_all(jobs), strict=True):
        load_weights(network, own.weights)
        np.testing.assert_array_equal(found.score, exact_scores(network, own.x))
        np.testing.assert_array_equal(found.probability, exact_risks(network, own.x))
