"""Which parts a study with the coordinator's noise may have, said before anything runs."""

from __future__ import annotations

import pytest
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fedhealth.core.errors import SettingError
from fedhealth.server.noised_mean import FLOWERS_OWN, NoisedMean
from fedhealth.server.plan import plan_for
from fedhealth.simulate import checked


class OfAUser(DifferentialPrivacyServerSideFixedClipping):
    """A wrapper of Flower's under another name."""

    def __init__(self):
        super().__init__(FedAvg(), 1.0, 1.0, 3)


class Loyal(FedAvg):
    """A strategy of a user's, of which nobody knows what else it does."""

    def __init__(self):
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["secagg=masked"], "found secagg=masked, which shows it none"),
        *[
            ([f"strategy={stem}"], "found strategy .*Use fedavg or fedprox")
            for stem in ("fedavgm", "fedadam", "qfedavg", "fedmedian", "scaffold", "newton", "ditto", "afl")
        ],
        (["rules.quorum=2"], "found rules.quorum=2.*Set rules.quorum=null"),
        (["rules.fraction=0.5"], "found rules.fraction=0.5"),
        (["rules.patience=2"], "`rules.patience` lets validation results choose a round"),
        (["privacy.delta=0.4"], "below one over the number of hospitals 3, found 0.4"),
        (["model=mlp", "model.normalisation=batch"], "found 1.running_mean.*Use model.normalisation=layer"),
        (["privacy.epsilon=null", "privacy.noise_multiplier=1e6"], "Use less noise or a smaller model"),
        (
            ["privacy.epsilon=null", "privacy.noise_multiplier=1e-3"],
            "must be enough for a bound over 3 rounds, found 0.001",
        ),
        (["+privacy.sampling_rate=0.1"], "sampling_rate"),
    ],
)
def test_what_the_noise_does_not_cover_is_refused_by_name(smoke, words, found):
    with pytest.raises(SettingError, match=found):
        checked(smoke("privacy=central", *words))


def test_a_strategy_that_nobody_here_knows_is_refused(smoke):
    config = smoke("privacy=central")
    config["strategy"] = {"_target_": f"{__name__}.Loyal"}
    with pytest.raises(SettingError, match="found strategy Loyal"):
        checked(config)


@pytest.mark.parametrize(
    "name", [*(f"flwr.serverapp.strategy.{cls.__name__}" for cls in FLOWERS_OWN), f"{__name__}.OfAUser"]
)
@pytest.mark.parametrize("privacy", ["plain", "central"])
def test_flowers_wrappers_for_privacy_are_refused_by_name(smoke, name, privacy):
    config = smoke(f"privacy={privacy}")
    config["strategy"] = {"_target_": name}
    with pytest.raises(SettingError, match=f"found {name.rpartition('.')[2]}, which does not keep what it promises"):
        checked(config)


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=fedavg"],
        ["strategy=fedprox"],
        ["server_optimiser=adam"],
        ["model=mlp", "model.normalisation=layer"],
        ["task=survival", "model=cox"],
    ],
)
def test_what_it_covers_is_wrapped_and_needs_every_hospital(smoke, words):
    plan = plan_for(checked(smoke("privacy=central", *words)).study)
    assert isinstance(plan.strategy, NoisedMean)
    assert plan.strategy.num_sampled_clients == len(plan.study.roster)
