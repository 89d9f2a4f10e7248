import numpy as np
import pytest
import torch

from fedhealth.core.errors import SettingError
from fedhealth.core.pull import Pull
from fedhealth.core.training import LocalTraining
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, weights_of
from fedhealth.site.engines.plain import Plain


def patients(n=50, d=4):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, (x[:, 0] + rng.normal(size=n) > 0).astype(np.float32)


def by_torch_optim(training: LocalTraining, rng: np.random.Generator):
    """The same training written with torch's own optimiser."""
    x, y = patients()
    network = first_network(Mlp(hidden=(8,)), 4, seed=3)
    settings = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimiser == "adamw":
        settings["betas"] = (training.beta1, training.beta2)
        optimiser = torch.optim.AdamW(network.parameters(), **settings)
    else:
        optimiser = torch.optim.SGD(network.parameters(), momentum=training.momentum, **settings)
    for _ in range(training.epochs):
        order = rng.permutation(len(y))
        for start in range(0, len(y), training.batch_size):
            rows = order[start : start + training.batch_size]
            optimiser.zero_grad()
            logits = network(torch.from_numpy(x[rows])).squeeze(1)
            torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y[rows])).backward()
            if training.clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
            optimiser.step()
    return weights_of(network)


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(epochs=2, batch_size=16, learning_rate=0.1),
        LocalTraining(epochs=3, batch_size=16, learning_rate=0.1, momentum=0.9),
        LocalTraining(epochs=1, batch_size=64, learning_rate=0.1, weight_decay=0.1),
        LocalTraining(epochs=3, batch_size=16, learning_rate=0.1, clip_norm=0.05),
        LocalTraining(epochs=3, batch_size=16, optimiser="adamw", learning_rate=0.01),
        LocalTraining(epochs=3, batch_size=16, optimiser="adamw", learning_rate=0.01, weight_decay=0.2, beta1=0.8),
    ],
)
def test_the_plain_engine_takes_the_steps_of_torchs_optimiser(training):
    x, y = patients()
    network = first_network(Mlp(hidden=(8,)), 4, seed=3)
    Plain().fit(network, x, y, training, np.random.default_rng(5))
    expected = by_torch_optim(training, np.random.default_rng(5))
    for name, array in weights_of(network).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


def test_steps_run_on_through_fresh_passes():
    x, y = patients(n=20)
    by_steps, by_epochs = (first_network(Logistic(), 4, seed=3) for _ in range(2))
    Plain().fit(by_steps, x, y, LocalTraining(steps=6, batch_size=10), np.random.default_rng(5))
    Plain().fit(by_epochs, x, y, LocalTraining(epochs=3, batch_size=10), np.random.default_rng(5))
    assert all(
        np.array_equal(a, b) for a, b in zip(weights_of(by_steps).values(), weights_of(by_epochs).values(), strict=True)
    )


def test_predictions_are_probabilities_of_the_logit():
    network = first_network(Logistic(), 4, seed=3)
    torch.nn.init.constant_(network.bias, np.log(3))
    np.testing.assert_allclose(Plain().predict(network, np.zeros((2, 4), dtype=np.float32)), [0.75, 0.75], rtol=1e-6)


def test_an_unknown_device_is_refused():
    with pytest.raises(SettingError, match="must be auto, cpu, cuda or cuda:N, found 'gpu'"):
        Plain(device="gpu")


def test_only_the_named_parameters_move():
    x, y = patients()
    network = first_network(Mlp(hidden=(8,)), 4, seed=3)
    before = weights_of(network)
    Plain().fit(network, x, y, LocalTraining(), np.random.default_rng(5), only={"2.weight"})
    moved = {name for name, array in weights_of(network).items() if not np.array_equal(array, before[name])}
    assert moved == {"2.weight"}


def test_the_gradient_is_torchs_and_changes_nothing():
    x, y = patients()
    network = first_network(Mlp(hidden=(8,)), 4, seed=3)
    before = weights_of(network)
    loss, found = Plain().gradient(network, x, y)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        network(torch.from_numpy(x)).squeeze(1), torch.from_numpy(y)
    )
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    for name, weight in network.named_parameters():
        np.testing.assert_allclose(found[name], weight.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert all(np.array_equal(array, before[name]) for name, array in weights_of(network).items())


def test_a_last_batch_of_one_patient_is_left_out_where_a_layer_normalises_over_patients():
    x, y = patients(n=33)
    network = first_network(Mlp(hidden=(4,), normalisation="batch"), 4, seed=3)
    loss, steps = Plain().fit(network, x, y, LocalTraining(batch_size=16), np.random.default_rng(5))
    assert np.isfinite(loss)
    assert int(network.state_dict()["1.num_batches_tracked"]) == steps == 2


def test_clipping_does_not_see_a_pull():
    x, y = patients()
    network = first_network(Logistic(), 4, seed=3)
    training = LocalTraining(batch_size=1000, learning_rate=1.0, clip_norm=1e-9)
    shift = {"weight": np.full((1, 4), 2.0), "bias": np.full(1, 3.0)}
    Plain().fit(network, x, y, training, np.random.default_rng(5), pull=Pull(shift=shift))
    found = weights_of(network)
    np.testing.assert_allclose(found["weight"], -shift["weight"], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], -shift["bias"], rtol=1e-5)
