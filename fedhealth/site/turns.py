"""Turns: how one hospital's work waits for others', so that training is done for many at once.

A hospital's half of a method is ordinary code that calls `fit` and goes on with what it gave. In a simulation
of many hospitals it is run until it asks for training or scores, and is let go there; when all have asked,
the engine answers them together, and each is run again from its start with the answers so far; or where
all that is left to do takes one answer, that is done with it.
That is sound since such work is a function of what it was given: it changes nothing before its end. A private
engine, which is charged and draws, is made once and kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from fedhealth.core.errors import FedHealthError
from fedhealth.core.seeds import Streams
from fedhealth.evaluation.scores import Scored
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.kernels.private import PrivateJob
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.evaluation.scores import SummaryLayout
    from fedhealth.site.engines.batched import Batched
    from fedhealth.site.kernels.score import ScoreJob

T = TypeVar("T")
W = TypeVar("W")
F = TypeVar("F")


class SumJob(NamedTuple):
    """One hospital's score sums of some patients: their scores, and the outcomes and groups that these are summed by."""

    scores: ScoreJob
    layout: SummaryLayout
    outcome: NDArray[np.generic]
    members: Mapping[str, NDArray[np.bool_]]


Job: TypeAlias = "FitJob | PrivateJob | SumJob"
Done: TypeAlias = "Fitted | NDArray[np.float64] | FedHealthError"


class Awaited(BaseException):
    """Let go: the job must be done before the work goes on. Not an error, so that no handler of errors takes it."""

    def __init__(self, job: Job, then: Callable[[Any], Any] | None = None) -> None:
        super().__init__("a job must be done first")
        self.job, self.then = job, then


@dataclass(slots=True)
class Block:
    """What hospitals share that answer one question together.

    Attributes:
        streams: those of these hospitals.
    """

    streams: Streams = field(default_factory=lambda: Streams([]))
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False)

    def same(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave the first of them that came here with that key, for all."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found


@dataclass(slots=True)
class Turns:
    """One hospital's answers so far, given again in the order in which it asks.

    Attributes:
        block: what it shares with those it answers with.
    """

    block: Block = field(default_factory=Block)
    _done: list[Done] = field(default_factory=list)
    _next: int = 0
    _kept: list[Any] = field(default_factory=list)

    def once(self, make: Callable[[], T]) -> T:
        """What `make` gave when the work first came here, the same each time that it is run."""
        if not self._kept:
            self._kept.append(make())
        found: T = self._kept[0]
        return found

    def fitted(self, job: Callable[[], FitJob | PrivateJob]) -> Fitted:
        """What training gave.

        Raises:
            Awaited: it is not done yet.
            FedHealthError: what training failed of.
        """
        return self._answer(job)  # type: ignore[return-value]

    def end_with(self, job: SumJob, then: Callable[[NDArray[np.float64]], object]) -> NoReturn:
        """End the work: it gives what `then` makes of the score sums, [width], once they are done.

        Raises:
            Awaited: always.
        """
        raise Awaited(job, then)

    def take(self, done: Done) -> None:
        """Take what was awaited, and start again."""
        self._done.append(done)
        self._next = 0

    def end(self) -> None:
        """Let go of all: what was kept may hold these turns, and the two would stay until garbage is looked for."""
        self._done.clear()
        self._kept.clear()

    def _answer(self, job: Callable[[], Job]) -> Fitted | NDArray[np.float64]:
        if self._next == len(self._done):
            raise Awaited(job())
        self._next += 1
        return _unless_failed(self._done[self._next - 1])


def together(
    works: Mapping[T, tuple[Turns, Callable[[], W]]], engine: Batched, failed: Callable[[T, Exception], F]
) -> dict[T, W | F]:
    """What each work gave, all that they wait for being done by the engine for as many as wait.

    Args:
        works: by hospital, its turns, and its work in them.
        engine: does the jobs.
        failed: what stands for the work of a hospital where it raised an error.
    """
    found: dict[T, W | F] = {}
    open_ = list(works)
    while open_:
        awaited: list[tuple[T, Job, Callable[[Any], W] | None]] = []
        for whose in open_:
            try:
                found[whose] = works[whose][1]()
            except Awaited as waits:
                awaited.append((whose, waits.job, waits.then))
            except Exception as error:  # noqa: BLE001 - one hospital's failure must not end the round
                found[whose] = failed(whose, error)
        open_ = []
        for (whose, _, then), done in zip(awaited, _done([job for _, job, _ in awaited], engine), strict=True):
            if then is None:
                works[whose][0].take(done)
                open_.append(whose)
                continue
            try:
                found[whose] = then(_unless_failed(done))
            except Exception as error:  # noqa: BLE001 - as above
                found[whose] = failed(whose, error)
    for turns, _ in works.values():
        turns.end()
    return found


def _unless_failed(done: Done) -> Fitted | NDArray[np.float64]:
    if isinstance(done, FedHealthError):
        raise done
    return done


def _done(jobs: Sequence[Job], engine: Batched) -> list[Done]:
    ways: dict[type, Callable[[Any], Sequence[Done]]] = {
        FitJob: engine.fit_all, PrivateJob: engine.fit_private, SumJob: lambda own: _sums(own, engine),
    }  # fmt: skip
    by_kind: dict[type, list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        # Its very type: a private job is a job too, and must not be done the other way.
        by_kind[type(job)].append(place)
    found: dict[int, Done] = {}
    for kind, places in by_kind.items():
        found |= zip(places, ways[kind]([jobs[place] for place in places]), strict=True)
    return [found[place] for place in range(len(jobs))]


def _sums(jobs: Sequence[SumJob], engine: Batched) -> list[Done]:
    """Each job's score sums, or why there are none."""
    scores = engine.score_all([job.scores for job in jobs])
    by_layout: dict[SummaryLayout, list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        by_layout[job.layout].append(place)
    found: dict[int, Done] = {}
    for layout, places in by_layout.items():
        scored = [Scored(scores[k].probability, jobs[k].outcome, jobs[k].members) for k in places]
        found |= zip(places, _summarised(layout, scored), strict=True)
    return [found[place] for place in range(len(jobs))]


def _summarised(layout: SummaryLayout, scored: Sequence[Scored]) -> Sequence[Done]:
    try:
        return list(layout.summarise_each(scored))
    except FedHealthError as error:
        # Whose scores are wrong is found one by one: nobody else's sums are lost for it.
        return [error] if len(scored) == 1 else [done for one in scored for done in _summarised(layout, [one])]
