"""The plan: do the parts of a study fit together? Asked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from fedhealth.core.errors import SettingError
from fedhealth.core.parts import build
from fedhealth.models import least_width
from fedhealth.models.weights import names_of
from fedhealth.privacy.central import Central
from fedhealth.runtime import flower
from fedhealth.runtime.codec import ARRAYS, CONFIG, COUNT
from fedhealth.secagg.masked import Masked
from fedhealth.server.central_plan import check_central, refuse_flowers_own
from fedhealth.server.noised_mean import NoisedMean
from fedhealth.server.optimisers.plain import Plain
from fedhealth.server.private_plan import check_lattices, check_private
from fedhealth.strategies.method import method_of, strategy_of
from fedhealth.strategies.needs import MORE_THAN_MEAN, least_sites, needs_of, tolerated

if TYPE_CHECKING:
    from fedhealth.core.study import Study
    from fedhealth.models import Model
    from fedhealth.privacy import Mechanism
    from fedhealth.secagg import Sealing
    from fedhealth.server.optimisers import ServerOptimiser
    from fedhealth.strategies.method import Method

#: Flower's strategies that step from their own copy of the model.
OWN_OPTIMISER = ("FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")


@dataclass(frozen=True, slots=True)
class Plan:
    """The built parts of a study, known to fit.

    Attributes:
        least: how many hospitals every round must ask and hear, whatever the study's quorum:
            what the strategy stands it stands among so many.
    """

    study: Study
    strategy: Strategy
    method: Method
    optimiser: ServerOptimiser
    model: Model
    mechanism: Mechanism
    sealing: Sealing
    least: int


def plan_for(study: Study) -> Plan:
    """The plan of a study.

    Raises:
        SettingError: a part can't be built, or two parts exclude each other.
        Refused: a part comes from outside its room.
    """
    strategy = _strategy(study)
    sealing: Sealing = build(study.secagg, where="secagg", room="fedhealth.secagg", does="seal")
    least = least_sites(strategy)
    if isinstance(sealing, Masked):
        _check_masked(sealing, strategy, len(study.roster))
        least = max(least, sealing.min_cohort)
    if len(study.roster) < least:
        raise SettingError(
            f"{type(strategy).__name__} with {tolerated(strategy)} must have at least {least} hospitals, found "
            f"{len(study.roster)}. Add hospitals, or lower what it tolerates."
        )
    quorum = max(study.rules.least_asked(len(study.roster)), least)
    for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        wanted = getattr(strategy, key, 0)
        if wanted > quorum:
            raise SettingError(
                f"`strategy.{key}` must be at most the quorum {quorum}, found {wanted}. Flower would wait for more "
                "hospitals without end; set 1, and rules.quorum as you need it."
            )
    for key, ours in (("weighted_by_key", COUNT), ("arrayrecord_key", ARRAYS), ("configrecord_key", CONFIG)):
        found = getattr(strategy, key, ours)
        if found != ours:
            raise SettingError(f"`strategy.{key}` must be {ours!r}, as messages call it, found {found!r}. Remove it.")
    model: Model = build(study.model, where="model", room="fedhealth.models", does="network")
    _check_kind(study, model)
    method = method_of(study.strategy)
    names = names_of(model.network(least_width(model)))
    method.check(names, study.training)
    mechanism: Mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy", does="privatise")
    check_private(study, mechanism, method, names, type(strategy).__name__, is_masked=sealing.is_masked)
    check_lattices(study, mechanism, model, sealing)
    optimiser: ServerOptimiser = build(
        study.server_optimiser, where="server_optimiser", room="fedhealth.server.optimisers", does="step"
    )
    if type(strategy).__name__ in OWN_OPTIMISER and not isinstance(optimiser, Plain):
        raise SettingError(
            f"{type(strategy).__name__} holds a server optimiser of its own, found "
            f"server_optimiser={type(optimiser).__name__.lower()} beside it. Use strategy=fedavg with that one, or "
            "server_optimiser=plain."
        )
    if method.shared(names) - frozenset(names.trained):
        _check_statistics(type(strategy).__name__, optimiser)
    if isinstance(mechanism, Central):
        check_central(study, mechanism, strategy, method, model, is_masked=sealing.is_masked)
        strategy = NoisedMean(strategy, mechanism, hospitals=len(study.roster), rounds=study.rounds)
    return Plan(
        study=study,
        strategy=strategy,
        method=method,
        optimiser=optimiser,
        model=model,
        mechanism=mechanism,
        sealing=sealing,
        least=least,
    )


def _strategy(study: Study) -> Any:  # noqa: ANN401 - Flower's, or whatever a user's own has beside
    """The study's strategy, which leaves to the study who is asked and what protects them.

    Raises:
        SettingError: it is none, or is one of Flower's wrappers for privacy.
    """
    refuse_flowers_own(study)
    strategy: Any = strategy_of(study.strategy)
    refuse_flowers_own(study, strategy)
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
    flower.copy_messages(strategy)
    return strategy


def _check_masked(masked: Masked, strategy: Strategy, sites: int) -> None:
    """Refuse what a sum over hospitals can't give, and have the strategy ask for no fewer than a sum is of.

    Raises:
        SettingError: the strategy needs each update, or the hospitals are too few.
    """
    if needs_of(strategy) == "each":
        raise SettingError(
            f"secure aggregation shows the coordinator a sum only, found strategy {type(strategy).__name__}, which "
            "needs each hospital's update or does not say. Use a sum strategy such as fedavg, let yours declare "
            'needs = "sum", or use secagg=plain.'
        )
    masked.check(sites)
    for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        if hasattr(strategy, key):
            setattr(strategy, key, max(getattr(strategy, key), masked.min_cohort))


def _check_statistics(strategy: str, optimiser: ServerOptimiser) -> None:
    """Refuse what would make more of running statistics than their mean."""
    beside = "" if isinstance(optimiser, Plain) else f"server_optimiser={type(optimiser).__name__.lower()}"
    if strategy in MORE_THAN_MEAN or beside:
        raise SettingError(
            f"a model's running statistics must be averaged and no more, found {beside or strategy}. Use "
            "model.normalisation=layer, or strategy=fedbn, which leaves them at the hospitals."
        )


def _check_kind(study: Study, model: Model) -> None:
    """Refuse a model that learns something else than the task asks: whether it happens, or when."""
    asked = "event" if study.task.follow_up is None else "time to event"
    if model.learns != asked:
        remedy = "model=cox or hazards" if asked == "time to event" else "model=logistic"
        raise SettingError(
            f"the model must learn what the task asks for, the {asked} of task={study.task.name}, found "
            f"{type(model).__name__.lower()}, which learns the {model.learns}. Use {remedy}, or another task."
        )
