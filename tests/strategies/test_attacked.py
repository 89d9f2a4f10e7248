"""What an attack on the update does to a whole round, whatever the method sends."""

import numpy as np
import pytest
from federation import Bench, Federation, benches, population

from fedhealth.core.training import LocalTraining
from fedhealth.models.mlp import Mlp
from fedhealth.site.attacks.scaled import Scaled
from fedhealth.site.attacks.sign_flip import SignFlip

#: Whose new model is linear in what the hospitals learned, from the same start.
LINEAR = ["fedavg", "fedprox", "scaffold", "fednova", "feddyn", "afl", "ditto", "apfl", "finetune", "newton"]


def step(stem: str, attack=None) -> dict[str, np.ndarray]:
    """How far the model moves in its first round, where every hospital attacks or none does."""
    found = Federation(stem, benches())
    before = found.weights
    work = None if attack is None else lambda *half: attack.train(found.method, *half)
    return {name: array - before[name] for name, array in found.run(work=work).items()}


@pytest.mark.parametrize("stem", LINEAR)
@pytest.mark.parametrize(
    ("attack", "times"), [(SignFlip(factor=1), -1), (SignFlip(factor=2), -2), (Scaled(factor=3), 3)]
)
def test_where_every_hospital_attacks_the_model_goes_that_many_times_as_far(stem, attack, times):
    honest, attacked = step(stem), step(stem, attack)
    assert all(np.abs(array).max() > 1e-3 for array in honest.values())
    for name, array in honest.items():
        np.testing.assert_allclose(attacked[name], times * array, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("stem", ["fedavg", "fednova", "scaffold"])
def test_as_many_times_the_opposite_as_there_are_patients_elsewhere_holds_the_model_still(stem):
    # Every hospital has the same patients, the attacker each twice: it learns what both others learn together.
    (x, y), *_ = population((20,))
    training = LocalTraining(batch_size=1000, learning_rate=0.2)
    found = Federation(stem, [Bench(np.tile(x, (n, 1)), np.tile(y, n), training) for n in (2, 1, 1)])
    before = {name: array.copy() for name, array in found.weights.items()}

    def work(bench, received, memory):
        if bench is found.benches[0]:
            return SignFlip(factor=1).train(found.method, bench, received, memory)
        return found.method.train(bench, received, memory)

    for name, array in found.run(work=work).items():
        np.testing.assert_allclose(array, before[name], atol=1e-12)


def honest_and_flipped(stem: str, factor: float, **how):
    """One hospital's arrays in the second round, honest and by a sign flip."""
    found = Federation(stem, benches(**how))
    found.run()
    message, memories = found.asked()[0], list(found.memories)
    sent = []
    for work in (None, lambda *half: SignFlip(factor=factor).train(found.method, *half)):
        found.memories = list(memories)
        arrays = found.answered(message, work).content["arrays"]
        sent.append({name: array.numpy() for name, array in arrays.items()})
    return (found, *sent)


def test_scaffolds_control_variate_is_turned_round_with_the_weights():
    _, honest, flipped = honest_and_flipped("scaffold", factor=2)
    for name in ("control:weight", "control:bias"):
        np.testing.assert_allclose(flipped[name], -2 * honest[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("stem", "true"),
    [("newton", ["newton:hessian", "newton:loss"]), ("fednova", ["reach:steps"]), ("afl", ["tilt:own"])],
)
def test_what_says_nothing_of_learning_stays_true(stem, true):
    _, honest, flipped = honest_and_flipped(stem, factor=2)
    for name, array in honest.items():
        assert np.array_equal(flipped[name], array) == (name in true), name


def test_running_statistics_stay_true():
    found, honest, flipped = honest_and_flipped("fedavg", 50, model=Mlp(hidden=(4,), normalisation="batch"))
    untrained = set(honest) - set(found.benches[0].names.trained)
    assert untrained == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(np.array_equal(flipped[name], honest[name]) for name in untrained)
    assert not np.array_equal(flipped["0.weight"], honest["0.weight"])
