"""The trainer: a hospital's training patients and its engine, as a method of federated learning sees them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from fedhealth.core.parts import build
from fedhealth.core.pull import Pull
from fedhealth.core.seeds import rng_of
from fedhealth.core.study import canonical
from fedhealth.models.weights import first_network, load_weights, names_of, weights_of
from fedhealth.site.engines.plain import batches
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.kernels.private import PrivateJob
from fedhealth.site.summing_engine import SummingEngine
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.core.pull import Arrays
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.study import Study
    from fedhealth.core.training import LocalTraining
    from fedhealth.site.cohort import Part
    from fedhealth.site.engines import Engine
    from fedhealth.site.private_engine import PrivateEngine
    from fedhealth.site.turns import Turns

T = TypeVar("T")

NO_PULL = Pull()


@dataclass(eq=False)
class SiteTrainer:
    """What `strategies.method.Trainer` asks for, at one hospital in one round.

    The patients' rows are made when they are first asked for: most methods evaluate
    without training. Not frozen, and its properties are kept only where they cost something: of ten
    thousand hospitals each has one a question, and to be frozen takes longer than to be made.

    Attributes:
        study: the study.
        patients: those who train.
        preprocessor: makes their rows.
        site: the hospital's name.
        round_: the round.
        private: takes the study's engine's place where every step must be private.
        turns: where the hospital is one of many in this thread that train at once; None where it trains by itself.
    """

    study: Study
    patients: Part
    preprocessor: Preprocessor
    site: str
    round_: int
    private: PrivateEngine | SummingEngine | None = None
    turns: Turns | None = None

    @property
    def training(self) -> LocalTraining:
        """The study's, with this round's learning rate."""
        if self.turns is None or self.study.task.follow_up is not None:
            return training_of(self.study, self.round_, len(self.y))
        return self.turns.block.same(("training", self.round_), lambda: training_of(self.study, self.round_, 0))

    @property
    def x(self) -> NDArray[np.float32]:
        """[n, width]."""
        return self.patients.matrix(self.preprocessor)

    @cached_property
    def y(self) -> Outcome:
        """[n], or [n, 3] for times."""
        return self.patients.outcome

    @property
    def names(self) -> NetworkNames:
        """Of the study's network."""
        return names_of(self.network) if self.turns is None else self._shared(self.turns)[1]

    @property
    def network(self) -> nn.Module:
        """The study's network before any training; its weights are set anew in each use.

        Hospitals that train at once share one.
        """
        return self._alone if self.turns is None else self._shared(self.turns)[0]

    @cached_property
    def engine(self) -> Engine:
        """The private engine, or the study's, from the installed package only."""
        return self.private or engine_of(self.study)

    @property
    def size(self) -> int:
        """How many training patients the coordinator may know of."""
        return len(self.y) if self.private is None else self.private.size

    def first_weights(self) -> Arrays:
        """The weights before any training."""
        return self._first

    def fit(
        self,
        weights: Mapping[str, NDArray[np.generic]],
        *,
        pull: Pull | None = None,
        only: Iterable[str] | None = None,
        epochs: int | None = None,
        purpose: str = "batches",
    ) -> Fitted:
        """The weights after training from `weights`."""
        training = self.training if epochs is None else replace(self.training, epochs=epochs, steps=None)
        moving = None if only is None else frozenset(only)
        if self.turns is not None and not isinstance(self.private, SummingEngine):
            private = self.private

            def job() -> FitJob | PrivateJob:
                what = (self.network, weights, self.x, self.y, training, self.rng(purpose), pull or NO_PULL, moving)
                return FitJob(*what) if private is None else PrivateJob(*what, engine=private)

            return self.turns.fitted(job)
        load_weights(self.network, weights)
        loss, steps = self.engine.fit(self.network, self.x, self.y, training, self.rng(purpose), pull=pull, only=moving)
        return Fitted(weights_of(self.network), loss, steps)

    def gradient(
        self, weights: Mapping[str, NDArray[np.generic]], rows: NDArray[np.int64] | None = None
    ) -> tuple[float, Arrays]:
        """The mean loss at `weights` and its gradient by parameter, over `rows` or all training patients."""
        load_weights(self.network, weights)
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        loss, found = self.engine.gradient(self.network, x, y)
        return loss, {**found}

    def batches(self, purpose: str = "batches") -> Iterator[NDArray[np.int64]]:
        """The rows of each mini-batch, as `fit` takes them."""
        for rows in batches(len(self.y), self.training, self.rng(purpose)):
            yield rows.numpy()

    def rng(self, purpose: str) -> np.random.Generator:
        """This hospital's stream for a purpose in this round."""
        begun = rng_of if self.turns is None else self.turns.block.streams.rng_of
        return begun(self.study.seed, round_=self.round_, site=self.site, purpose=purpose)

    @cached_property
    def _alone(self) -> nn.Module:
        return self._own_network()

    @cached_property
    def _first(self) -> Arrays:
        return weights_of(self._own_network())

    def _own_network(self) -> nn.Module:
        return _network(*_of_network(_Same(self.study), _Same(self.preprocessor)))

    def _shared(self, turns: Turns) -> tuple[nn.Module, NetworkNames]:
        # By its identity: the question that all are asked holds it.
        return turns.block.same(
            ("network", id(self.preprocessor)), lambda: _shared(_Same(self.study), _Same(self.preprocessor))
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Same(Generic[T]):
    """A thing as a cache's key, by its identity: a study's hash would take longer than what is kept by it."""

    thing: T

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing


@lru_cache(maxsize=16)
def _of_network(study: _Same[Study], preprocessor: _Same[Preprocessor]) -> tuple[str, int, int]:
    return canonical(study.thing.model), preprocessor.thing.width, study.thing.seed


@lru_cache(maxsize=16)
def _training(study: _Same[Study], round_: int) -> LocalTraining:
    return study.thing.training.at(round_, study.thing.rounds)


@lru_cache(maxsize=16)
def _engine(study: _Same[Study]) -> Engine:
    return build(study.thing.engine, where="engine", room="fedhealth.site.engines")  # type: ignore[no-any-return]


def _network(model: str, width: int, seed: int) -> nn.Module:
    return first_network(build(json.loads(model), where="model", room="fedhealth.models"), width, seed=seed)


@lru_cache(maxsize=16)
def _shared(study: _Same[Study], preprocessor: _Same[Preprocessor]) -> tuple[nn.Module, NetworkNames]:
    network = _network(*_of_network(study, preprocessor))
    return network, names_of(network)


def training_of(study: Study, round_: int, n: int) -> LocalTraining:
    """The study's local training in a round; where its model compares patients, of all `n` at once.

    A risk set is of all who were followed for so long, and a mini-batch would cut it short.
    """
    training = _training(_Same(study), round_)
    if study.task.follow_up is None:
        return training
    model = build(study.model, where="model", room="fedhealth.models")
    return training if getattr(model, "is_by_patient", False) else replace(training, batch_size=n)


def engine_of(study: Study) -> Engine:
    """The study's engine, from the installed package only."""
    return _engine(_Same(study))
