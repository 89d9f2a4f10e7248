"""The plan of a private study: which parts have a private form, and what its patients are promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.privacy.dp_sgd import DpSgd, whole_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.study import Study
    from fedhealth.privacy import Mechanism
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.strategies.method import Method


def check_private(
    study: Study, mechanism: Mechanism, method: Method, names: NetworkNames, strategy: str, *, is_masked: bool
) -> None:
    """Refuse parts that have no private form, before anything runs. Each hospital refuses them too.

    Raises:
        SettingError: naming the part and what to use in its place.
    """
    if not isinstance(mechanism, DpSgd):
        return
    if is_masked:
        raise SettingError(
            "a masked sum counts whole patients, found privacy=dp_sgd, whose counts are noisy. Use secagg=plain with it, "
            "or privacy=plain with masks."
        )
    if study.task.follow_up is not None:
        raise SettingError(
            "privacy=dp_sgd needs a loss that is a sum over patients, found task "
            f"{study.task.name}, whose partial likelihood compares them. Use a task of events, and model=logistic or mlp."
        )
    if not method.private_fits(study.training):
        raise SettingError(
            f"privacy=dp_sgd makes training private and nothing else, found strategy {strategy}, which learns from "
            "patients in other ways too. Use fedavg, fedprox, scaffold with option II, fednova, feddyn, ditto, fedper "
            "or fedrep."
        )
    if set(names.all) - set(names.trained):
        raise SettingError(
            "privacy=dp_sgd needs each patient's own gradient, found batch normalisation, whose output for one patient "
            "depends on the others. Use model.normalisation=layer."
        )
    if study.training.clip_norm is not None:
        raise SettingError(
            f"privacy=dp_sgd clips each patient's gradient, found training.clip_norm={study.training.clip_norm}, which "
            "would clip the noise. Use privacy.max_grad_norm alone."
        )
    if study.rules.patience is not None and mechanism.evaluate_every is None:
        raise SettingError(
            f"`rules.patience` needs looks at validation patients, found {study.rules.patience} and "
            "privacy.evaluate_every=null. Pay for looks by privacy.evaluate_every, or set patience=null."
        )
    Preprocessor.from_spec(study.features)
    if mechanism.sampling_rate is not None:
        promised(study, mechanism, method, [1])


def promised(study: Study, mechanism: DpSgd, method: Method, sizes: Iterable[float]) -> Guarantee:
    """What a patient of any hospital is promised if the study goes as planned: the largest epsilon of them.

    Args:
        study: with its rounds.
        mechanism: its privacy.
        method: what hospitals train by.
        sizes: the hospitals' noisy numbers of training patients.

    Raises:
        SettingError: a batch is larger than a cohort, or epsilon leaves nothing for training.
    """
    fits = method.private_fits(study.training)
    courses = {mechanism.course(fits, rounds=study.rounds, size=whole_size(size)) for size in sizes}
    return max((mechanism.planned(course, study.rounds) for course in courses), key=lambda found: found.epsilon)
