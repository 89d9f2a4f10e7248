"""What a hospital computes for a study: each piece is a permit and a request in, an update out."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedhealth.core.errors import Refused, SettingError, did_you_mean
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.study import unpacked
from fedhealth.core.update import Update
from fedhealth.evaluation.margins import MARGINS, MarginLayout
from fedhealth.evaluation.moments import MomentLayout, first_pass, second_pass
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.evaluation.tables import TableLayout
from fedhealth.models.weights import load_weights
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.site.kernels.score import ScoreJob
from fedhealth.site.private_round import engine_for, keep_bound, summing_engine
from fedhealth.site.scoring import members_of, summarised
from fedhealth.site.trainer import SiteTrainer
from fedhealth.site.turns import SumJob
from fedhealth.strategies.method import Received, method_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedhealth.core.pull import Arrays
    from fedhealth.runtime.codec import Request
    from fedhealth.site.gate import Permit
    from fedhealth.site.private_engine import PrivateEngine
    from fedhealth.site.summing_engine import SummingEngine
    from fedhealth.strategies.method import Method

#: The name under which a vector to be summed travels.
SUM = "sum"


def shape(permit: Permit, request: Request) -> Update:
    """How many patients train, validate and test: [3]."""
    del request
    found = permit.cohort.shape
    return Update(found.train, {SUM: np.array([found.train, found.validation, found.test], dtype=np.float64)})


def moments(permit: Permit, request: Request) -> Update:
    """The first pass over the training rows: counts and sums (`evaluation.moments`)."""
    del request
    part, layout = permit.cohort.part("train"), MomentLayout(permit.study.features)
    vector = first_pass(layout, part.columns, part.y, min_cell=permit.manifest.policy.min_cell)
    return Update(len(part.y), {SUM: vector})


def spread(permit: Permit, request: Request) -> Update:
    """The second pass: sums of squares about the means that came with the request."""
    part, layout = permit.cohort.part("train"), MomentLayout(permit.study.features)
    means = np.asarray(request.arrays["means"], dtype=np.float64)
    vector = second_pass(layout, part.columns, means, min_cell=permit.manifest.policy.min_cell)
    return Update(len(part.y), {SUM: vector})


def margins(permit: Permit, request: Request) -> Update:
    """How many training patients have each value and pair of values, in units of what one patient moves (`evaluation.margins`)."""
    del request
    part, layout = permit.cohort.part("train"), MarginLayout.of(permit.study)
    counts = layout.counts(layout.cells(part.columns, part.y))
    return Update(len(part.y), {SUM: counts / layout.sensitivity})


def tables(permit: Permit, request: Request) -> Update:
    """The study's tables of all patients, in whichever part of the split (`evaluation.tables`)."""
    del request
    everyone, floor = permit.cohort.everyone, permit.manifest.policy.min_cell
    vector = TableLayout.of(permit.study).answer(everyone.columns, everyone.y, everyone.days, min_cell=floor)
    return Update(len(everyone), {SUM: vector})


def train(permit: Permit, request: Request) -> Update:
    """This hospital's half of a round, by the study's method; its memory is kept before anything leaves."""
    own = f"memory-round:{permit.manifest.name}"  # of a masked study, where all get the same message
    counted = int(request.config.get(own, request.config.get("memory-round", permit.round_ - 1)))
    ready = _ready(permit, request, permit.round_, memory_before=min(permit.round_, counted + 1), steps=None)
    trainer = ready.trainer
    found = permit.attack.train(ready.method, trainer, ready.received, ready.memory)
    if trainer.private is not None:
        keep_bound(permit.memory, permit.round_, trainer.private)
    if found.memory is not None:
        permit.memory.keep(permit.round_, found.memory)
    return Update(found.weight, found.arrays, found.metrics)


def evaluate(permit: Permit, request: Request) -> Update:
    """The score sums of the model, or of this hospital's own, on one part of the split, groups where asked for.

    The request names the round whose model it is: the memory is that round's, and so are the
    learning rate and the shuffle of a method that trains before use. The round that
    validation chose is then tested as it was validated.
    """
    study, name = permit.study, str(request.config["part"])
    of_round = int(request.config["of-round"])
    ready = _ready(permit, request, of_round, memory_before=of_round + 1, steps=0)
    trainer = ready.trainer
    weights = ready.method.personal(trainer, ready.received, ready.memory)
    grouped, part = bool(request.config.get("grouped", False)), permit.cohort.part(name)
    policy = permit.manifest.policy

    def told(vector: NDArray[np.float64]) -> Update:
        shared = float(policy.share_site_results)
        return Update(len(part), {SUM: vector}, {"shared": shared, "min-cell": policy.min_cell})

    turns = trainer.turns
    if turns is not None and study.task.follow_up is None:
        layout = turns.block.same(("layout", grouped), lambda: SummaryLayout.of(study, grouped=grouped))
        x = part.matrix(trainer.preprocessor)
        scores = ScoreJob(trainer.network, weights, x, is_exact=trainer.private is not None)
        turns.end_with(SumJob(scores, layout, part.y, members_of(study, part) if layout.groups else {}), told)
    load_weights(trainer.network, weights)
    return told(
        summarised(
            study, permit.cohort, trainer.preprocessor, trainer.network, name, grouped=grouped, engine=trainer.engine
        )
    )


WORK: dict[str, Callable[[Permit, Request], Update]] = {
    "query.shape": shape,
    "query.moments": moments,
    "query.spread": spread,
    MARGINS: margins,
    "query.table": tables,
    "train": train,
    "evaluate": evaluate,
}


def work_for(purpose: str) -> Callable[[Permit, Request], Update]:
    """The piece of work with that name.

    Raises:
        SettingError: there is none.
    """
    if purpose not in WORK:
        raise SettingError(f"a request must have a known purpose, found {purpose!r}. {did_you_mean(purpose, WORK)}")
    return WORK[purpose]


class _Question(NamedTuple):
    """What a method's half of a round works with that is the same for all who are asked."""

    method: Method
    remembers: bool
    preprocessor: Preprocessor
    received: Received


class _Ready(NamedTuple):
    """All that a method's half of a round works with."""

    method: Method
    trainer: SiteTrainer
    received: Received
    memory: Arrays | None


def _ready(permit: Permit, request: Request, round_: int, *, memory_before: int, steps: int | None) -> _Ready:
    """What the method works with in `round_`; of work that is run in turns the same each time."""
    turns = permit.turns

    def made() -> _Ready:
        if turns is None:
            asked = _question(permit, request)
        else:
            # By the request's identity: whoever answers together holds it until all have.
            asked = turns.block.same(("question", id(request)), lambda: _question(permit, request))
        trainer = SiteTrainer(
            permit.study, permit.cohort.part("train"), asked.preprocessor, permit.manifest.name, round_,
            _private(permit, steps=steps), turns,
        )  # fmt: skip
        memory = permit.memory.before(memory_before) if asked.remembers else None
        return _Ready(asked.method, trainer, asked.received, memory)

    return made() if turns is None else turns.once(made)


def _question(permit: Permit, request: Request) -> _Question:
    method = method_of(permit.study.strategy)
    return _Question(method, method.remembers, _scaling(permit, request), Received({**request.arrays}, request.config))


def _private(permit: Permit, *, steps: int | None) -> PrivateEngine | SummingEngine | None:
    """The engine of a request that must be private, for the steps of a round where none are given."""
    if permit.private is None:
        return None
    mechanism, course = permit.private
    charged = course.steps if steps is None else steps
    if isinstance(mechanism, Distributed):
        return summing_engine(
            mechanism, course, site=permit.manifest.name, round_=permit.round_, steps=charged,
            most=int(permit.study.secagg["weight_max"]),
        )  # fmt: skip
    if not isinstance(mechanism, DpSgd):
        raise SettingError(f"training must have a private engine, found none for {type(mechanism).__name__}. Add one.")
    return engine_for(mechanism, course, permit.memory, site=permit.manifest.name, round_=permit.round_, steps=charged)


def _scaling(permit: Permit, request: Request) -> Preprocessor:
    """The preprocessor that came; of a private study it must be the feature spec's.

    By another one whoever asks would learn of a patient without noise: words read as numbers fail where somebody has a word.

    Raises:
        Refused: it is another one.
    """
    found = _preprocessor(str(request.config["preprocessor"]))
    if permit.private is not None and found != Preprocessor.from_spec(permit.study.features):
        raise Refused(
            "another_task",
            rule="a private study must scale its features as their spec says",
            found="another preprocessor",
            remedy="Ask with the study's own.",
        )
    return found


@lru_cache(maxsize=16)
def _preprocessor(packed: str) -> Preprocessor:
    """The preprocessor that comes with every request of a study, the same each time."""
    return Preprocessor.from_json(unpacked(packed))
