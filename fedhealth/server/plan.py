"""The plan: do the parts of a study fit together? Asked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from fedhealth.core.errors import SettingError
from fedhealth.core.parts import build
from fedhealth.runtime.codec import ARRAYS, CONFIG, COUNT
from fedhealth.strategies.needs import needs_of

if TYPE_CHECKING:
    from fedhealth.core.study import Study
    from fedhealth.models import Model
    from fedhealth.privacy import Mechanism
    from fedhealth.secagg import Sealing


@dataclass(frozen=True, slots=True)
class Plan:
    """The built parts of a study, known to fit."""

    study: Study
    strategy: Strategy
    model: Model
    mechanism: Mechanism
    sealing: Sealing


def plan_for(study: Study) -> Plan:
    """The plan of a study.

    Raises:
        SettingError: a part can't be built, or two parts exclude each other.
        Refused: a part comes from outside its room.
    """
    strategy: Any = build(study.strategy, where="strategy")
    if not isinstance(strategy, Strategy):
        raise SettingError(
            f"strategy must be a flwr.serverapp.strategy.Strategy, found {type(strategy).__name__}. Name one of those."
        )
    for key in ("fraction_train", "fraction_evaluate"):
        fraction = getattr(strategy, key, 1.0)
        if fraction != 1.0:
            raise SettingError(
                f"`strategy.{key}` must be 1, found {fraction}. Flower draws hospitals from a generator nobody can seed; "
                "use rules.fraction, which chooses them by hash."
            )
    quorum = len(study.roster) if study.rules.quorum is None else study.rules.quorum
    for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        least = getattr(strategy, key, 0)
        if least > quorum:
            raise SettingError(
                f"`strategy.{key}` must be at most the quorum {quorum}, found {least}. Flower would wait for more "
                "hospitals without end; set 1, and rules.quorum as you need it."
            )
    for key, ours in (("weighted_by_key", COUNT), ("arrayrecord_key", ARRAYS), ("configrecord_key", CONFIG)):
        found = getattr(strategy, key, ours)
        if found != ours:
            raise SettingError(f"`strategy.{key}` must be {ours!r}, as messages call it, found {found!r}. Remove it.")
    sealing: Sealing = build(study.secagg, where="secagg", room="fedhealth.secagg", does="seal")
    if sealing.is_masked and needs_of(strategy) == "each":
        raise SettingError(
            f"secure aggregation shows the coordinator a sum only, found strategy {type(strategy).__name__}, which "
            "needs each hospital's update. Use a sum strategy such as fedavg, or secagg=plain."
        )
    return Plan(
        study=study,
        strategy=strategy,
        model=build(study.model, where="model", room="fedhealth.models", does="network"),
        mechanism=build(study.privacy, where="privacy", room="fedhealth.privacy", does="privatise"),
        sealing=sealing,
    )
