"""What a method asks of a hospital's trainer is what its engine does, in the round that it is asked in."""

from __future__ import annotations

import numpy as np
import pytest

from fedhealth.core.pull import Pull
from fedhealth.simulate import checked, clients
from fedhealth.site.trainer import SiteTrainer

#: One step on all patients at once.
WHOLE = ("training.batch_size=100000", "training.learning_rate=0.4")


@pytest.fixture
def trainer(smoke, scaling):
    """The trainer of a hospital in a round of the smoke study with some overrides."""

    def made(*words: str, round_: int = 1) -> SiteTrainer:
        simulation = checked(smoke("run.folder=null", *words))
        client = clients(simulation)["galen-heart"]
        return SiteTrainer(
            simulation.study,
            client.cohort.part("train"),
            scaling(simulation.study, client),
            client.manifest.name,
            round_,
        )

    return made


def slope(x, y, weights) -> dict[str, np.ndarray]:
    """The gradient of the mean log loss of a linear model, written out."""
    away = 1 / (1 + np.exp(-(x @ weights["weight"][0] + weights["bias"]))) - y
    return {"weight": (x.T @ away / len(y))[None], "bias": np.array([away.mean()])}


def test_a_pull_is_added_to_the_gradient(trainer):
    found = trainer(*WHOLE)
    rng = np.random.default_rng(1)
    start, anchor, shift = (
        {name: rng.normal(size=array.shape).astype(np.float32) for name, array in found.first_weights().items()}
        for _ in range(3)
    )
    ended = found.fit(start, pull=Pull(strength=0.7, anchor=anchor, shift=shift))
    down = slope(found.x, found.y, start)
    for name, array in start.items():
        step = down[name] + 0.7 * (array - anchor[name]) + shift[name]
        np.testing.assert_allclose(ended.weights[name], array - 0.4 * step, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_is_that_of_the_round(trainer):
    falling = ("schedule=exponential", "training.schedule.factor=0.5")
    moved = [
        found.fit(found.first_weights()).weights["weight"]
        for found in (trainer(*WHOLE, *falling, round_=round_) for round_ in (1, 3))
    ]
    # From weights of 0, a step is the rate times the same gradient.
    assert np.abs(moved[0]).max() > 0.01
    np.testing.assert_allclose(moved[1], moved[0] / 4, rtol=1e-4, atol=1e-7)


def test_only_the_named_weights_move_and_passes_are_counted_in_place_of_the_studys(trainer):
    found = trainer("model=mlp", "model.hidden=[4]", "training.steps=7", "training.batch_size=32")
    ended = found.fit(found.first_weights(), only=["2.weight"], epochs=2)
    moved = {name for name, array in ended.weights.items() if not np.array_equal(array, found.first_weights()[name])}
    assert moved == {"2.weight"}
    assert ended.steps == 2 * -(-len(found.y) // 32)
    assert found.fit(found.first_weights()).steps == 7


def test_each_purpose_and_each_round_shuffles_the_patients_by_itself(trainer):
    first, second = trainer(round_=1), trainer(round_=2)
    order = [
        np.concatenate(list(rows))
        for rows in (first.batches(), first.batches(), first.batches("personal batches"), second.batches())
    ]
    np.testing.assert_array_equal(order[0], order[1])
    assert not np.array_equal(order[0], order[2])
    assert not np.array_equal(order[0], order[3])
    fitted = [first.fit(first.first_weights(), purpose=name).weights["weight"] for name in ("batches", "other")]
    assert not np.array_equal(*fitted)
