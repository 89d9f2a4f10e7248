"""The plan of a study with the coordinator's noise: which parts it holds with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flwr.serverapp.strategy import FedAvg, FedProx

from fedhealth.core.errors import SettingError
from fedhealth.core.parts import TARGET
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.models.weights import first_network, names_of, weights_of
from fedhealth.privacy.noise import step_of
from fedhealth.server.noised_mean import FLOWERS_OWN
from fedhealth.strategies.method import Method

if TYPE_CHECKING:
    from fedhealth.core.study import Study
    from fedhealth.models import Model
    from fedhealth.privacy.central import Central


def refuse_flowers_own(study: Study, built: object = None) -> None:
    """Refuse Flower's wrappers for central privacy as a study's strategy, named or, once built, of their kind.

    Raises:
        SettingError: it is one of them.
    """
    named = str(study.strategy.get(TARGET, "")).rpartition(".")[2]
    if isinstance(built, FLOWERS_OWN) or named in {cls.__name__ for cls in FLOWERS_OWN}:
        raise SettingError(
            f"`strategy` must not be a wrapper of Flower's for privacy, found {named}, which does not keep what it "
            "promises (fedhealth/privacy/central.py says where). Use strategy=fedavg with privacy=central."
        )


def check_central(
    study: Study, mechanism: Central, strategy: object, method: Method, model: Model, *, is_masked: bool
) -> None:
    """Refuse what the coordinator's noise does not cover, before anything runs.

    Raises:
        SettingError: naming the part and what to use in its place.
    """
    hospitals, rules = len(study.roster), study.rules
    if is_masked:
        raise SettingError(
            "privacy=central clips each hospital's update at the coordinator, found secagg=masked, which shows it none. "
            "Use secagg=plain with it, or privacy=plain with masks."
        )
    if type(method) is not Method or type(strategy) not in (FedAvg, FedProx):
        raise SettingError(
            "privacy=central noises the mean of the hospitals' weights and nothing else, found strategy "
            f"{type(strategy).__name__}, which may make a model otherwise or keep more. Use fedavg or fedprox, with any "
            "server_optimiser."
        )
    if rules.quorum is not None or rules.fraction != 1:
        found = f"rules.quorum={rules.quorum}" if rules.quorum is not None else f"rules.fraction={rules.fraction}"
        raise SettingError(
            f"privacy=central makes its noise for one number of hospitals, found {found}, with which it differs. "
            "Set rules.quorum=null and rules.fraction=1, so that all answer in every round."
        )
    if rules.patience is not None:
        raise SettingError(
            f"`rules.patience` lets validation results choose a round, found {rules.patience} with privacy=central, under "
            "which they have no noise. Set patience=null; the last round's model is taken."
        )
    if mechanism.delta * hospitals >= 1:
        raise SettingError(
            f"`privacy.delta` must be below one over the number of hospitals {hospitals}, found {mechanism.delta:g}. Lower it."
        )
    if mechanism.is_private and math.isinf(mechanism.planned(study.rounds).epsilon):
        raise SettingError(
            f"`privacy.noise_multiplier` must be enough for a bound over {study.rounds} rounds, found "
            f"{mechanism.noise_multiplier:g}. Raise it, or give privacy.epsilon in its place."
        )
    network = first_network(model, Preprocessor.from_spec(study.features).width, seed=study.seed)
    weights, trained = weights_of(network), names_of(network).trained
    odd = [name for name, array in weights.items() if name not in trained or array.dtype.kind != "f"]
    if odd:
        raise SettingError(
            f"privacy=central needs weights that are trained and no others, found {odd[0]}, whose size would use up "
            "privacy.clipping_norm and which noise would spoil. Use model.normalisation=layer."
        )
    step_of(mechanism.multiplier(study.rounds), mechanism.clipping_norm, sum(array.size for array in weights.values()))
