"""A study over hourly series, from the hospitals' records to the report."""

import numpy as np
import pytest

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import SettingError
from fedhealth.simulate import checked, open_run, run

WORDS = ["experiment=sepsis", "sites=smoke", "rounds=2", "run.report=false", "run.baselines=[]", "model.hidden=8"]


def ran(folder, *words):
    simulation = checked(resolved(composed([*WORDS, f"run.folder={folder}", *words])))
    store = open_run(simulation)
    run(simulation, store, lambda _: None)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gru", "cnn"])
def test_a_network_over_hours_learns_and_gives_the_same_masked(tmp_path, model):
    words = ["model=cnn", "model.steps=24", "model.static=4"] if model == "cnn" else []
    plain, masked = ran(tmp_path / "plain", *words), ran(tmp_path / "masked", *words, "secagg=masked")
    history = plain.read_history()
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    one, two = plain.load(2).model, masked.load(2).model
    assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gru", "cnn"])
def test_a_network_over_hours_is_trained_privately_stacked_as_one_hospital_after_the_other(tmp_path, model):
    words = ["model=cnn", "model.steps=24", "model.static=4"] if model == "cnn" else []
    words += ["privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1.1", "privacy.insecure_seed=5"]
    stacked, single = (ran(tmp_path / engine, *words, f"engine={engine}") for engine in ("batched", "plain"))
    one, two = stacked.load(2).model, single.load(2).model
    assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-6
    assert any(np.abs(one[name] - stacked.load(1).model[name]).max() > 1e-4 for name in one)


def test_units_dropped_at_random_are_refused_by_name_in_a_private_study(tmp_path):
    with pytest.raises(SettingError, match="Set model.dropout=0"):
        ran(tmp_path / "run", "privacy=dp_sgd", "privacy.epsilon=4", "model.dropout=0.5")


def test_steps_that_do_not_fit_the_series_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        SettingError, match=r"`model.static` and `model.steps` must divide a row of 580 columns, found 5 and 24"
    ):
        ran(tmp_path / "run", "model.static=5")
