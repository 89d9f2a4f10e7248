"""The plan of a private study: which parts have a private form, and what its patients are promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.split import PARTS
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.dp_sgd import DpSgd, whole_size
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.privacy.release import Release
from fedhealth.secagg.masked import Masked
from fedhealth.strategies.fedsgd import FedSgd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.study import Study
    from fedhealth.models import Model
    from fedhealth.privacy import Mechanism
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.secagg import Sealing
    from fedhealth.strategies.method import Method


def check_private(
    study: Study, mechanism: Mechanism, method: Method, names: NetworkNames, strategy: str, *, is_masked: bool
) -> None:
    """Refuse parts that have no private form, before anything runs. Each hospital refuses them too.

    Raises:
        SettingError: naming the part and what to use in its place.
    """
    if isinstance(mechanism, Release) and not is_masked:
        raise SettingError(
            "privacy=release adds a share of the noise at each hospital, found secagg=plain, which shows every share by "
            "itself. Use secagg=masked."
        )
    if not isinstance(mechanism, PatientLevel):
        return
    if isinstance(mechanism, Distributed):
        _check_shared(method, strategy, is_masked=is_masked)
    elif is_masked:
        raise SettingError(
            "a masked sum counts whole patients, found privacy=dp_sgd, whose counts are noisy. Use privacy=distributed "
            "with masks, or secagg=plain."
        )
    if study.task.follow_up is not None:
        raise SettingError(
            "a private study needs a loss that is a sum over patients, found task "
            f"{study.task.name}, whose partial likelihood compares them. Use a task of events, and model=logistic or mlp."
        )
    if isinstance(mechanism, DpSgd) and not method.private_fits(study.training):
        raise SettingError(
            f"privacy=dp_sgd makes training private and nothing else, found strategy {strategy}, which learns from "
            "patients in other ways too. Use fedavg, fedprox, scaffold with option II, fednova, feddyn, ditto, fedper "
            "or fedrep."
        )
    if set(names.all) - set(names.trained):
        raise SettingError(
            "a private study needs each patient's own gradient, found batch normalisation, whose output for one patient "
            "depends on the others. Use model.normalisation=layer."
        )
    if study.training.clip_norm is not None:
        raise SettingError(
            f"a private study clips each patient's gradient, found training.clip_norm={study.training.clip_norm}, which "
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


def check_lattices(study: Study, mechanism: Mechanism, model: Model, sealing: Sealing) -> None:
    """Refuse a study whose hospitals are to share noise and can't, before anything runs.

    Raises:
        SettingError: with the numbers.
    """
    if not isinstance(mechanism, Distributed) or not isinstance(sealing, Masked):
        return
    network = model.network(Preprocessor.from_spec(study.features).width)
    parameters = sum(weight.numel() for weight in network.parameters())
    sharing = sealing.sharing(len(study.roster))
    for what, size in (("train", parameters), ("query.shape", len(PARTS)), ("evaluate", 2 * mechanism.score_bins)):
        mechanism.lattice(what, size, rounds=study.rounds, sharing=sharing)


def _check_shared(method: Method, strategy: str, *, is_masked: bool) -> None:
    if not is_masked:
        raise SettingError(
            "privacy=distributed adds a share of the noise at each hospital, found secagg=plain, which shows every "
            "share by itself. Use secagg=masked, or privacy=dp_sgd without masks."
        )
    if not isinstance(method, FedSgd):
        raise SettingError(
            f"privacy=distributed makes one sum of gradients a round private, found strategy {strategy}, which sends "
            "something else. Use strategy=fedsgd."
        )


def promised(study: Study, mechanism: PatientLevel, method: Method, sizes: Iterable[float]) -> Guarantee:
    """What a patient of any hospital is promised if the study goes as planned: the largest epsilon of them.

    Args:
        study: with its rounds.
        mechanism: its privacy.
        method: what hospitals train by.
        sizes: the hospitals' noisy numbers of training patients.

    Raises:
        SettingError: a batch is larger than a cohort, or epsilon leaves nothing for training.
    """
    if isinstance(mechanism, Distributed):
        return mechanism.planned(mechanism.course(rounds=study.rounds), study.rounds)
    if not isinstance(mechanism, DpSgd):
        raise SettingError(f"a promise must have a plan, found none for {type(mechanism).__name__}. Add one.")
    fits = method.private_fits(study.training)
    courses = {mechanism.course(fits, rounds=study.rounds, size=whole_size(size)) for size in sizes}
    return max((mechanism.planned(course, study.rounds) for course in courses), key=lambda found: found.epsilon)
