"""Each method against an independent oracle: a closed form, the pooled fit, or a short reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from federation import Bench, Federation, Still, benches, failed, flat, pooled_fit, population
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.training import LocalTraining
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.strategies.fednova import reach
from fedhealth.strategies.method import Received
from fedhealth.strategies.newton import GRADIENT, HESSIAN, LOSS, NewtonServer

#: Whole-batch steps: the hospital's half is then plain gradient descent on its mean loss.
STEPS = LocalTraining(batch_size=1000, epochs=5, learning_rate=0.3)
SIZES = (30, 80, 50)


def slope(x, y, w) -> np.ndarray:
    """The gradient of the mean log loss at (coefficients, intercept), written out."""
    design = np.hstack([x, np.ones((len(x), 1))])
    return design.T @ (1 / (1 + np.exp(-design @ w)) - y) / len(y)


def shares(sizes=SIZES) -> np.ndarray:
    return np.array(sizes) / sum(sizes)


def far(weights, found) -> float:
    """How far the largest coefficient is from the pooled maximum likelihood."""
    return float(np.abs(flat(weights) - pooled_fit(found)).max())


def test_a_method_that_puts_other_weights_among_those_it_received_changes_its_neighbours_nothing():
    received = Received({"head": np.ones(2), "fit:level": np.zeros(1)})
    received.weights["head"] = np.zeros(2)
    assert {name: array.tolist() for name, array in received.weights.items()} == {"head": [1.0, 1.0]}


def test_fedprox_hospitals_descend_the_proximal_loss():
    (x, y), *_ = population(SIZES)
    training = LocalTraining(batch_size=1000, epochs=20, learning_rate=0.2)
    found = Federation("fedprox", [Bench(x, y, training)], proximal_mu=0.7).run(2)
    w, steps = np.zeros(4), 20
    for _ in range(2):
        anchor = w.copy()
        for _ in range(steps):
            w = w - 0.2 * (slope(x, y, w) + 0.7 * (w - anchor))
    np.testing.assert_allclose(flat(found), w, rtol=1e-6)


def scaffold(found, rounds: int, rate: float, steps: int, option: str) -> np.ndarray:
    """Algorithm 1 of arXiv:1910.06378 with hospitals weighted by patients."""
    p = shares()
    w, c, own = np.zeros(4), np.zeros(4), [np.zeros(4) for _ in found]
    for _ in range(rounds):
        ends, renewed = [], []
        for k, (x, y) in enumerate(found):
            v = w.copy()
            for _ in range(steps):
                v = v - rate * (slope(x, y, v) - own[k] + c)
            ends.append(v)
            renewed.append(slope(x, y, w) if option == "I" else own[k] - c + (w - v) / (steps * rate))
        w = sum(s * v for s, v in zip(p, ends, strict=True))
        c = c + sum(s * (new - old) for s, new, old in zip(p, renewed, own, strict=True))
        own = renewed
    return w


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_is_its_algorithm(option):
    found = Federation("scaffold", benches(SIZES, STEPS), option=option).run(4)
    np.testing.assert_allclose(flat(found), scaffold(population(SIZES), 4, 0.3, 5, option), rtol=1e-5)


@pytest.mark.parametrize(("stem", "held"), [("scaffold", "control"), ("feddyn", "h")])
def test_what_the_server_holds_is_the_mean_of_what_all_hospitals_keep_whoever_took_part(stem, held):
    # Algorithm 1 of either paper moves c, or h, by the share of the patients that a round had.
    found = Federation(stem, benches(SIZES, STEPS))
    for hospitals in ([0, 1], [2], [0, 2], [1]):
        found.run(hospitals=hospitals)
    for name in found.weights:
        expected = sum(share * memory[name] for share, memory in zip(shares(), found.memories, strict=True))
        np.testing.assert_allclose(getattr(found.strategy, held)[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["scaffold", "feddyn"])
def test_it_reaches_the_pooled_fit_where_fedavg_stays_short(stem):
    training = LocalTraining(batch_size=1000, epochs=10, learning_rate=0.3)
    how = {"alpha": 0.3} if stem == "feddyn" else {}
    people = population(SIZES, drift=1.5)
    # All three stand still well before the hundredth round.
    corrected = Federation(stem, benches(SIZES, training, drift=1.5), **how).run(100)
    plain = Federation("fedavg", benches(SIZES, training, drift=1.5)).run(100)
    assert far(corrected, people) < 1e-3
    assert far(plain, people) > 20 * far(corrected, people)


@pytest.mark.slow
def test_fednova_stays_at_the_pooled_fit_where_uneven_steps_pull_fedavg_away():
    # Mini-batches of equal size: the larger hospital takes more steps, and FedAvg leans to it.
    sizes, training = (20, 200), LocalTraining(batch_size=20, epochs=1, learning_rate=0.02)
    people = population(sizes, drift=1.5)
    fit = pooled_fit(people)
    start = {"weight": fit[None, :-1], "bias": fit[-1:]}
    nova, average = (
        Federation(stem, benches(sizes, training, drift=1.5), weights=start).run(200) for stem in ("fednova", "fedavg")
    )
    assert far(nova, people) < far(average, people) / 5


def test_fednova_walks_the_mean_reach_along_the_mean_direction():
    found = benches(SIZES, STEPS)
    steps = (5, 2, 9)
    for bench, epochs in zip(found, steps, strict=True):
        bench.training = replace(STEPS, epochs=epochs)
    weights = Federation("fednova", found).run()
    ends, people = [], population(SIZES)
    for (x, y), k in zip(people, steps, strict=True):
        v = np.zeros(4)
        for _ in range(k):
            v = v - 0.3 * slope(x, y, v)
        ends.append(-v / k)
    walked = shares() @ np.array(steps)
    np.testing.assert_allclose(flat(weights), -walked * (shares() @ np.array(ends)), rtol=1e-6)


def carried(gradient, steps: int, momentum: float, mu: float, rate: float = 0.1):
    """Where the local optimiser ends from 0 under this gradient, step by step."""
    w = velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + (gradient(w) + mu * w)
        w = w - rate * velocity
    return w


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.4)])
def test_the_reach_is_how_far_unit_gradients_carry(momentum, mu):
    assert reach(7, 0.1, momentum, mu) == pytest.approx(-carried(lambda _: 1.0, 7, momentum, mu) / 0.1, rel=1e-9)


@pytest.mark.parametrize(("momentum", "mu"), [(0.9, 0.0), (0.0, 0.4)])
def test_fednova_divides_each_hospitals_change_by_what_its_own_optimiser_reaches(momentum, mu):
    steps = (5, 2, 9)
    found = Federation("fednova", benches(SIZES, replace(STEPS, learning_rate=0.1, momentum=momentum)), mu=mu)
    for bench, epochs in zip(found.benches, steps, strict=True):
        bench.training = replace(bench.training, epochs=epochs)
    ends, reaches = [], []
    for (x, y), k in zip(population(SIZES), steps, strict=True):
        ends.append(carried(lambda w, x=x, y=y: slope(x, y, np.zeros(4) + w), k, momentum, mu))
        reaches.append(-carried(lambda _: 1.0, k, momentum, mu) / 0.1)
    expected = (shares() @ reaches) * sum(s * e / r for s, e, r in zip(shares(), ends, reaches, strict=True))
    np.testing.assert_allclose(flat(found.run()), expected, rtol=1e-6)


def test_feddyn_is_its_algorithm():
    alpha, people = 0.2, population(SIZES)
    found = Federation("feddyn", benches(SIZES, STEPS), alpha=alpha).run(3)
    w, h, own = np.zeros(4), np.zeros(4), [np.zeros(4) for _ in people]
    for _ in range(3):
        ends = []
        for k, (x, y) in enumerate(people):
            v = w.copy()
            for _ in range(5):
                v = v - 0.3 * (slope(x, y, v) - own[k] + alpha * (v - w))
            own[k] = own[k] - alpha * (v - w)
            ends.append(v)
        mean = shares() @ np.array(ends)
        h = h - alpha * (mean - w)
        w = mean - h / alpha
    np.testing.assert_allclose(flat(found), w, rtol=1e-5)


@pytest.mark.slow
def test_afl_serves_the_worst_hospital_better_than_the_mean_does():
    training = LocalTraining(batch_size=1000, epochs=1, learning_rate=1.0)
    people = population(SIZES, drift=1.2)

    def worst(weights) -> float:
        w = flat(weights)
        logit = [np.hstack([x, np.ones((len(x), 1))]) @ w for x, _ in people]
        return max(float(np.mean(np.logaddexp(0, z) - y * z)) for z, (_, y) in zip(logit, people, strict=True))

    fair = Federation("afl", benches(SIZES, training, drift=1.2), rate=0.2).run(150)
    mean = Federation("fedavg", benches(SIZES, training, drift=1.2)).run(150)
    # The minimax by a central reference: the subgradient of the worst hospital's loss.
    w, best = np.zeros(4), np.inf
    for k in range(6000):
        losses = []
        for x, y in people:
            z = np.hstack([x, np.ones((len(x), 1))]) @ w
            losses.append(float(np.mean(np.logaddexp(0, z) - y * z)))
        best = min(best, max(losses))
        x, y = people[int(np.argmax(losses))]
        w = w - 0.5 / np.sqrt(k + 1) * slope(x, y, w)
    assert worst(fair) < worst(mean) - 0.01
    assert worst(fair) == pytest.approx(best, abs=0.01)


def test_afl_weights_are_the_exponentiated_losses():
    training = LocalTraining(batch_size=1000, epochs=1, learning_rate=0.3)
    found = Federation("afl", benches(SIZES, training), rate=0.5)
    people, w, tilt = population(SIZES), np.zeros(4), np.zeros(3)
    for _ in range(3):
        losses = []
        for x, y in people:
            z = np.hstack([x, np.ones((len(x), 1))]) @ w
            losses.append(np.mean(np.logaddexp(0, z) - y * z))
        tilt = tilt + 0.5 * np.array(losses)
        mixture = np.exp(tilt) / np.exp(tilt).sum()
        w = sum(m * (w - 0.3 * slope(x, y, w)) for m, (x, y) in zip(mixture, people, strict=True))
    np.testing.assert_allclose(flat(found.run(3)), w, rtol=1e-5)


def test_afl_does_not_lean_to_the_hospital_that_is_asked_most():
    # Two hospitals with the same patients fare alike, though one is asked every other round.
    found = Federation("afl", benches((60, 60), STEPS), rate=0.1)
    found.benches[1].x, found.benches[1].y = found.benches[0].x, found.benches[0].y
    for _ in range(50):
        found.run(hospitals=[0])
        found.run()
    often, seldom = (float(memory["tilt"][0]) for memory in found.memories)
    assert np.exp(often - seldom) == pytest.approx(1, abs=0.1)


def test_afl_counts_a_round_it_missed_by_the_loss_it_finds_on_its_return():
    # Worked by hand: at weights of 0 every loss is log 2. The third round is the hospital's second.
    found = Federation("afl", [Still(), Still()], rate=0.5)
    found.benches[0].gradient = found.benches[1].gradient = lambda weights, rows=None: (np.log(2), {})
    for hospitals in ([0, 1], [0], [0, 1]):
        found.run(hospitals=hospitals)
    assert [memory["tilt"][0] for memory in found.memories] == pytest.approx([1.5 * np.log(2)] * 2)


def test_afls_share_is_the_exponential_even_far_above_the_level():
    found = Federation("afl", [Still()], rate=0.5)
    found.benches[0].gradient = lambda weights, rows=None: (np.log(2), {})
    found.memories[0] = {"tilt": np.array([10.0]), "round": np.array([0])}
    (answer,) = (found.answered(message) for message in found.asked())
    assert answer.content["metrics"]["num-examples"] == pytest.approx(np.exp(10 + 0.5 * np.log(2)))


def test_qfedavg_hears_the_loss_of_the_model_that_came_and_not_of_the_trained_one():
    found = Federation("qfedavg", benches(SIZES, STEPS))
    for message in found.asked():
        # All weights are 0, so every probability is a half.
        assert found.answered(message).content["metrics"]["first_loss"] == pytest.approx(np.log(2))


# --- personal models ---

DEEP = Mlp(hidden=(5,))


def by_torch(bench, weights, only=None, pull=None, epochs=None) -> dict[str, np.ndarray]:
    """Whole-batch steps by autograd on a loss with its terms written out."""
    network = DEEP.network(bench.x.shape[1]).double()
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    for _ in range(epochs or bench.training.epochs):
        loss = binary_cross_entropy_with_logits(network(torch.tensor(bench.x)).squeeze(1), torch.tensor(bench.y))
        if pull:
            strength, anchor = pull
            loss = loss + strength / 2 * sum(
                ((weight - torch.tensor(anchor[name])) ** 2).sum() for name, weight in network.named_parameters()
            )
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if only is None or name in only:
                    parameter.sub_(bench.training.learning_rate * parameter.grad)
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def assert_same(found, expected, names=None):
    for name in names or expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9)


def test_fedper_averages_the_body_and_keeps_each_head():
    found = Federation("fedper", benches(SIZES, STEPS, model=DEEP))
    body, head = {"0.weight", "0.bias"}, {"2.weight", "2.bias"}
    ends = [by_torch(bench, bench.first_weights()) for bench in found.benches]
    found.run()
    assert set(found.weights) == body
    for name in body:
        mean = sum(s * end[name] for s, end in zip(shares(), ends, strict=True))
        np.testing.assert_allclose(found.weights[name], mean, rtol=1e-6)
    for k, end in enumerate(ends):
        assert_same(found.personal(k), end, head)
    # The next round starts from the shared body and the own head.
    starts = [found.personal(k) for k in range(3)]
    found.run()
    assert_same(found.personal(1), by_torch(found.benches[1], starts[1]), head)


def test_fedrep_fits_the_head_first_and_then_the_body():
    found = Federation("fedrep", benches(SIZES, STEPS, model=DEEP), head_epochs=3)
    bench, head = found.benches[2], {"2.weight", "2.bias"}
    fitted = by_torch(bench, bench.first_weights(), only=head, epochs=3)
    both = by_torch(bench, fitted, only={"0.weight", "0.bias"})
    sent = found.answered(found.asked()[2]).content["arrays"]
    assert_same({name: array.numpy() for name, array in sent.items()}, both, {"0.weight", "0.bias"})
    assert_same(found.memories[2], fitted, head)


def test_fedbn_shares_neither_the_scale_nor_the_statistics_of_a_normalising_layer():
    model = Mlp(hidden=(4,), normalisation="batch")
    found = Federation("fedbn", benches(SIZES, model=model))
    found.run(2)
    kept = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not kept & set(found.weights)
    assert set(found.memories[0]) == kept
    assert not np.allclose(found.personal(0)["1.running_mean"], found.personal(1)["1.running_mean"])
    assert_same(found.personal(0), found.weights)


def test_ditto_holds_the_personal_model_to_the_global_one():
    found = Federation("ditto", benches(SIZES, STEPS, model=DEEP), strength=0.8)
    first = dict(found.weights)
    found.run()
    second = dict(found.weights)
    own = by_torch(found.benches[0], first, pull=(0.8, first))
    assert_same(found.personal(0), own)
    found.run()
    assert_same(found.personal(0), by_torch(found.benches[0], own, pull=(0.8, second)))


def test_ditto_without_a_pull_is_training_alone_and_its_global_model_is_fedavgs():
    found, plain = (Federation(s, benches(SIZES, STEPS, model=DEEP), **how) for s, how in (("ditto", {"strength": 0.0}), ("fedavg", {})))  # fmt: skip
    assert_same(found.run(3), plain.run(3))
    bench = found.benches[1]
    assert_same(found.personal(1), by_torch(bench, bench.first_weights(), epochs=15))


def test_ditto_keeps_the_named_layers_and_takes_the_others_as_they_come():
    found = Federation("ditto", benches(SIZES, STEPS, model=DEEP), strength=0.8, personal_layers=["2.*"])
    first, head = dict(found.weights), {"2.weight", "2.bias"}
    found.run()
    own = by_torch(found.benches[0], first, only=head, pull=(0.8, first))
    assert set(found.memories[0]) == head
    assert_same(found.personal(0), own, head)
    assert_same(found.personal(0), found.weights, {"0.weight", "0.bias"})


def apfl(people, rounds: int, rate: float, steps: int, share: float, *, learns: bool):
    """Algorithm 1 of arXiv:2003.13461, the mixture's share moved once a round."""
    w = np.zeros(4)
    own, mix = [np.zeros(4) for _ in people], [share] * len(people)
    for number in range(rounds):
        ends = []
        for k, (x, y) in enumerate(people):
            u, v = w.copy(), own[k]
            if learns and number:
                at = mix[k] * v + (1 - mix[k]) * u
                mix[k] = float(np.clip(mix[k] - rate * (v - u) @ slope(x, y, at), 0, 1))
            for _ in range(steps):
                at = mix[k] * v + (1 - mix[k]) * u
                u, v = u - rate * slope(x, y, u), v - rate * mix[k] * slope(x, y, at)
            own[k] = v
            ends.append(u)
        w = shares() @ np.array(ends)
    return w, [m * v + (1 - m) * w for m, v in zip(mix, own, strict=True)], mix


@pytest.mark.parametrize("learns", [True, False])
def test_apfl_is_its_algorithm(learns):
    found = Federation("apfl", benches(SIZES, STEPS), share=0.4, learns_share=learns)
    w, personal, mix = apfl(population(SIZES), 3, 0.3, 5, 0.4, learns=learns)
    np.testing.assert_allclose(flat(found.run(3)), w, rtol=1e-5)
    for k in range(3):
        np.testing.assert_allclose(flat(found.personal(k)), personal[k], rtol=1e-5)
        assert found.memories[k]["share"][0] == pytest.approx(mix[k], rel=1e-5)


@pytest.mark.parametrize(("turn", "end"), [(1, 0.0), (-1, 1.0)])
def test_apfls_share_stays_between_0_and_1(turn, end):
    # One step down a slope of 100 leaves v above w; the next round's slope drives the share far out.
    found = Federation("apfl", [Still(), Still()])
    for bench in found.benches:
        bench.gradient = lambda weights, rows=None: (0.5, {n: np.full_like(a, 100.0) for n, a in weights.items()})
    found.run()
    for bench in found.benches:
        bench.gradient = lambda weights, rows=None: (
            0.5,
            {n: np.full_like(a, turn * 100.0) for n, a in weights.items()},
        )
    found.run()
    assert [memory["share"][0] for memory in found.memories] == [end, end]


def test_finetuning_trains_the_global_model_further_and_leaves_it_as_it_is():
    found, plain = (Federation(s, benches(SIZES, STEPS, model=DEEP)) for s in ("finetune", "fedavg"))
    assert_same(found.run(2), plain.run(2))
    before = {name: array.copy() for name, array in found.weights.items()}
    assert_same(found.personal(0), by_torch(found.benches[0], found.weights, epochs=1))
    assert_same(found.weights, before)


def test_finetuning_some_layers_leaves_the_others():
    found = Federation("finetune", benches(SIZES, STEPS, model=DEEP), layers=["2.*"], epochs=4)
    assert_same(found.personal(0), by_torch(found.benches[0], found.weights, only={"2.weight", "2.bias"}, epochs=4))


# --- Newton ---


def test_newton_equals_the_pooled_fit_in_a_handful_of_rounds_where_fedavg_stays_short():
    people = population((60, 200, 90), d=6, drift=1.0)
    x, y = (np.concatenate(part) for part in zip(*people, strict=True))
    oracle = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, y)
    found = Federation("newton", benches((60, 200, 90), d=6, drift=1.0)).run(8)
    np.testing.assert_allclose(found["weight"][0], oracle.coef_[0], atol=1e-6)
    np.testing.assert_allclose(found["bias"], oracle.intercept_, atol=1e-6)
    training = LocalTraining(batch_size=32, epochs=3, learning_rate=0.1)
    average = Federation("fedavg", benches((60, 200, 90), training, d=6, drift=1.0)).run(60)
    assert np.abs(average["weight"][0] - oracle.coef_[0]).max() > 1e-2


def test_newton_with_a_ridge_equals_the_pooled_penalised_fit():
    people = population(SIZES)
    x, y = (np.concatenate(part) for part in zip(*people, strict=True))
    # scikit-learn penalises the summed loss by |w|^2 / (2 C), so C = 1 / (n ridge).
    oracle = LogisticRegression(C=1 / (len(y) * 0.05), solver="newton-cholesky", tol=1e-12).fit(x, y)
    found = Federation("newton", benches(SIZES), ridge=0.05).run(8)
    np.testing.assert_allclose(found["weight"][0], oracle.coef_[0], atol=1e-6)


def test_newton_takes_the_shortest_step_where_columns_depend_on_each_other():
    people = [(np.hstack([x, x[:, :1], np.zeros((len(x), 1))]), y) for x, y in population(SIZES)]
    found = Federation("newton", [Bench(x, y, STEPS) for x, y in people]).run(8)
    expected = pooled_fit(population(SIZES))
    weight = found["weight"][0]
    np.testing.assert_allclose(weight[0], weight[3], rtol=1e-6)
    np.testing.assert_allclose(weight[0] + weight[3], expected[0], rtol=1e-5)
    assert weight[4] == 0


def test_newton_halves_a_step_that_raised_the_loss():
    # From far out the full step overshoots; without halving the iteration diverges.
    people = population(SIZES)
    start = {"weight": np.array([[9.0, -9.0, 9.0]]), "bias": np.array([9.0])}
    found = Federation("newton", [Bench(x, y, STEPS) for x, y in people], weights=start).run(60)
    np.testing.assert_allclose(flat(found), pooled_fit(people), atol=1e-5)


def test_newton_counts_the_ridge_in_the_loss_that_a_step_may_raise():
    # By hand: the step is 10 / (1 + ridge) = 5; there the loss fell by 0.19, and the penalty rose by 5 ** 2 / 2.
    server = NewtonServer(ridge=1.0)
    server.weights = {"weight": np.zeros((1, 1)), "bias": np.zeros(1)}
    mean = {GRADIENT: np.array([-10.0, 0.0]), HESSIAN: np.eye(2), LOSS: np.array([0.69])}
    server.weights = server.update(mean, 100.0)
    assert server.weights["weight"] == pytest.approx(np.array([[5.0]]))
    halved = server.update({**mean, LOSS: np.array([0.5])}, 100.0)
    assert halved["weight"] == pytest.approx(np.array([[2.5]]))


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_newton_goes_on_to_the_fit_of_those_who_answer_when_a_hospital_falls_out(gone):
    # Without it the loss may be higher for good, which is no fault of the step.
    found, people = Federation("newton", benches(SIZES)), population(SIZES)
    found.run(3)
    found.run(8, mend=lambda replies: [failed(r) if k == gone else r for k, r in enumerate(replies)])
    left = [hospital for k, hospital in enumerate(people) if k != gone]
    np.testing.assert_allclose(flat(found.weights), pooled_fit(left), atol=1e-6)


def test_a_method_never_asks_the_network_for_what_was_not_sent():
    # A hospital that joins late has no memory: it begins as everybody did.
    for stem in ("fedper", "fedrep", "ditto", "apfl", "scaffold", "feddyn", "afl"):
        model = DEEP if stem in ("fedper", "fedrep") else Logistic()
        found = Federation(stem, benches(SIZES, STEPS, model=model))
        found.run(3)
        found.memories[0] = None
        assert set(found.personal(0)) == set(found.benches[0].first_weights())
        assert np.isfinite(flat(found.run(1)) if model is not DEEP else found.run(1)["0.weight"]).all()
        assert isinstance(Received(found.weights).weights, dict)


# --- running statistics ---

NORMALISED = Mlp(hidden=(4,), normalisation="batch")


@pytest.mark.parametrize("stem", ["fedavg", "scaffold", "fedper", "fedmedian"])
def test_a_count_of_batches_travels_as_the_single_number_it_is(stem):
    found = Federation(stem, benches(SIZES, STEPS, model=NORMALISED))
    found.run(3)
    assert found.weights["1.num_batches_tracked"].shape == ()
    # Whole batches and five passes a round: each hospital counts five, and so does their mean.
    assert found.weights["1.num_batches_tracked"] == 15
