"""The study in a config: the document that hospitals approve, and what must fit in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.parts import TARGET, build
from fedhealth.core.settings import check_words
from fedhealth.core.study import Study, canonical, packed, study_from, unpacked
from fedhealth.models import least_width
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.server.plan import plan_for
from fedhealth.site.exact_network import check_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: The keys of the config that make the study; the rest says how it is run.
STUDY_KEYS = ("name", "title", "seed", "rounds", "task", "features", "split", "training", "rules",
              "model", "strategy", "server_optimiser", "privacy", "secagg", "engine")  # fmt: skip
#: The other groups of a config.
RUN_GROUPS = ("sites", "source", "attack", "runtime", "run")


def check_keys(config: Mapping[str, Any]) -> None:
    """Do nothing where a config has the keys it must have and no others.

    Raises:
        SettingError: a key is missing or unknown, or a group is none.
    """
    known = {*STUDY_KEYS, *RUN_GROUPS, "experiment", "optimiser", "schedule"}
    for key in config.keys() - known:
        raise SettingError(f"`{key}` must be a key of the config, found {key}={config[key]!r}. Remove it.")
    for key in {*STUDY_KEYS, *RUN_GROUPS} - config.keys():
        raise SettingError(
            f"`{key}` must be in the config, found nothing. Leave it in; see fedhealth simulate --cfg job."
        )
    check_words(config, where="the config")
    for key in RUN_GROUPS:
        if not isinstance(config[key], dict):
            raise SettingError(
                f"`{key}` must be a group of keys, found {config[key]!r}. Leave it as fedhealth simulate --cfg job shows it."
            )


def document_of(config: Mapping[str, Any], roster: Iterable[str]) -> dict[str, Any]:
    """The study's document, as a hospital will read it.

    Raises:
        SettingError: a number is not finite.
    """
    try:
        canonical(config)
        # The canonical text sorts keys, and the order of groups is the order of their sums.
        return unpacked(packed({**{key: config[key] for key in STUDY_KEYS}, "roster": sorted(roster)}))
    except ValueError:
        raise SettingError(
            "every number of a config must be finite, found one that is nan or inf. Correct it."
        ) from None


def check_strategy(document: Mapping[str, Any], more: Iterable[str] = ()) -> None:
    """Do nothing where a strategy, and each part in it, is FedHealth's, Flower's, or from the packages in `more`.

    On a researcher's own machine a strategy may be any class, and building it runs it. A
    coordinator builds what somebody with a token submitted.

    Raises:
        Refused: it is from elsewhere.
    """
    rooms = ("fedhealth.strategies", "flwr.serverapp.strategy", *more)
    for target in _targets(document.get("strategy")):
        if not any(target.startswith(f"{room}.") for room in rooms):
            raise Refused(
                "part_not_allowed",
                rule=f"a submitted strategy must be from {', '.join(rooms)}",
                found=repr(target[:80]),
                remedy="Install it with the coordinator, and name its package in `strategies` of coordinator.json.",
            )


def _targets(found: object) -> Iterator[str]:
    """Every `_target_` in a value, however deep."""
    if isinstance(found, dict):
        if TARGET in found:
            yield str(found[TARGET])
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from _targets(each)


def fitting(document: Mapping[str, Any]) -> Study:
    """The study in a document, whose parts are known to fit together.

    Raises:
        SettingError: a part can't be built, or two exclude each other.
        Refused: a part comes from outside its room.
    """
    study = study_from(document, where="the config")
    plan = plan_for(study)
    network = plan.model.network(least_width(plan.model))
    if isinstance(plan.mechanism, PatientLevel):
        check_layers(network)
    build(study.engine, where="engine", room="fedhealth.site.engines", does="fit")
    return study
