"""A private round at a hospital: what it told of its size, how it trains by that, and where clipping stands."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import Refused, SettingError
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.dp_sgd import DpSgd, whole_size
from fedhealth.privacy.patient_level import SUM
from fedhealth.site.private_engine import PrivateEngine
from fedhealth.site.summing_engine import SummingEngine
from fedhealth.strategies.fedsgd import FedSgd
from fedhealth.strategies.method import method_of

if TYPE_CHECKING:
    from fedhealth.core.study import Study
    from fedhealth.core.update import PrivateUpdate
    from fedhealth.privacy.patient_level import Course, PatientLevel
    from fedhealth.site.memory import Memory

#: What is kept, beside the method's own memory.
SIZE, BOUND = "size", "bound"


def keep_size(memory: Memory, private: PrivateUpdate) -> None:
    """Keep the counts as they left: the number of training patients in them is what later rounds go by."""
    told = float(private.update.arrays[SUM][0])
    _own(memory).keep(0, {SIZE: np.array([whole_size(told)])})


def size_of(memory: Memory) -> int:
    """The number of training patients as the hospital told it.

    Raises:
        Refused: it has told none.
    """
    found = _own(memory).before(1)
    if found is None:
        raise Refused(
            "no_size",
            rule="a private study must ask how many patients there are before it trains",
            found="no answer kept",
            remedy="Start the study anew, or put back the hospital's memory of it.",
        )
    return int(found[SIZE][0])


def course_of(study: Study, mechanism: PatientLevel, memory: Memory) -> Course:
    """How this hospital trains in every round of the study.

    Raises:
        Refused: no size was told, the method or the task is not private, or a batch is larger than the cohort.
    """
    method = method_of(study.strategy)
    if isinstance(mechanism, Distributed) and isinstance(method, FedSgd) and study.task.follow_up is None:
        return mechanism.course(rounds=study.rounds)
    fits = method.private_fits(study.training)
    if not isinstance(mechanism, DpSgd) or not fits or study.task.follow_up is not None:
        raise Refused(
            "not_private",
            rule="a study must learn of events, by `fit` alone where privacy=dp_sgd, and by fedsgd where it is distributed",
            found=str(study.strategy.get("_target_")) if not fits else "times to an event",
            remedy="Use strategy=fedavg or fedsgd, and a task of events.",
        )
    try:
        return mechanism.course(fits, rounds=study.rounds, size=size_of(memory))
    except SettingError as error:
        raise Refused(
            "batch_too_large",
            rule="the study's batches and epsilon must be possible with this hospital's patients",
            found=str(error),
            remedy="Change the study.",
        ) from error


def engine_for(
    mechanism: DpSgd, course: Course, memory: Memory, *, site: str, round_: int, steps: int
) -> PrivateEngine:
    """The engine of one request, with as many steps as it was charged for."""
    before = _own(memory).before(round_) or {}
    return PrivateEngine(
        mechanism=mechanism,
        course=course,
        size=size_of(memory),
        left=steps,
        bound=float(before[BOUND][0]) if BOUND in before else mechanism.max_grad_norm,
        source=mechanism.source(f"{site} {round_} train"),
    )


def summing_engine(
    mechanism: Distributed, course: Course, *, site: str, round_: int, steps: int, most: int
) -> SummingEngine:
    """The engine of one request of a study whose hospitals share noise; none has more than `most` patients."""
    return SummingEngine(
        mechanism=mechanism, rate=course.rate, left=steps, most=most, source=mechanism.source(f"{site} {round_} train")
    )


def keep_bound(memory: Memory, round_: int, engine: PrivateEngine | SummingEngine) -> None:
    """Keep where adaptive clipping stands, for the next round."""
    if isinstance(engine, PrivateEngine) and engine.mechanism.clipping == "adaptive":
        _own(memory).keep(round_, {BOUND: np.array([engine.bound])})


def _own(memory: Memory) -> Memory:
    return replace(memory, folder=memory.folder / "privacy")
