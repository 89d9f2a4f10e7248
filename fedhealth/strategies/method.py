"""A method: both halves of a federated algorithm, in one file.

    hospital   Received ─train→ Trained       the settings class itself, in numpy
    server     weighted mean ─update→ weights a `SumServer`, which is a Flower strategy

A method is a `@settings` class whose fields are its config. What a hospital does is its
`train` and `personal`; what the coordinator does is the strategy that `server` gives.
Weights travel under their own names, whatever goes with them under names with a colon.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from fedhealth.core.parts import TARGET, build
from fedhealth.core.pull import Arrays, Pull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flwr.app import ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy
    from numpy.typing import NDArray

    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining

ROOM = "fedhealth.strategies"

#: The loss of a model that gives everybody an even chance, in nats.
COIN = math.log(2)


class Fitted(NamedTuple):
    """What training gave: the weights, the mean loss of the steps, and how many there were."""

    weights: Arrays
    loss: float
    steps: int


class Trainer(Protocol):
    """One hospital's training patients and the means to train on them, as a method sees them.

    Attributes:
        names: of the network's weights.
        training: the settings of this round, its learning rate already scheduled.
        size: how many training patients the coordinator may know of; noisy where privacy asks for it.
        x: [n, width] the training patients' rows.
        y: [n] 0 or 1, or [n, 3] for times (`core.risk_sets.Outcome`).
    """

    @property
    def names(self) -> NetworkNames: ...  # noqa: D102
    @property
    def training(self) -> LocalTraining: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def x(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def y(self) -> Outcome: ...  # noqa: D102

    def first_weights(self) -> Arrays:
        """The weights before any training, the same at every hospital."""
        ...

    def fit(
        self,
        weights: Mapping[str, NDArray[np.generic]],
        *,
        pull: Pull | None = None,
        only: Iterable[str] | None = None,
        epochs: int | None = None,
        purpose: str = "batches",
    ) -> Fitted:
        """Train from `weights`, all of them.

        Args:
            weights: where training starts.
            pull: what is added to each gradient.
            only: the parameters that move; None for all.
            epochs: passes in place of the study's own epochs or steps.
            purpose: names the stream that shuffles the patients.
        """
        ...

    def gradient(
        self, weights: Mapping[str, NDArray[np.generic]], rows: NDArray[np.int64] | None = None
    ) -> tuple[float, Arrays]:
        """The mean loss at `weights` and its gradient by parameter, over `rows` or all patients."""
        ...

    def batches(self, purpose: str = "batches") -> Iterator[NDArray[np.int64]]:
        """The rows of each mini-batch that `fit` would take."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """What came from the coordinator: arrays by name, and the numbers and words beside them. Not to be written to.

    Hospitals of one process that answer together share it; `weights` are each one's own to put others in.
    """

    arrays: Arrays
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def weights(self) -> Arrays:
        """The arrays that are weights of the network."""
        return {name: array for name, array in self.arrays.items() if ":" not in name}

    def beside(self, kind: str) -> Arrays:
        """The arrays that came as `kind:<name>`, by name."""
        return unprefixed(kind, self.arrays)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a hospital's half of a round gave.

    Attributes:
        arrays: what leaves, by name.
        weight: what the arrays are weighted by in the mean over hospitals.
        metrics: numbers that leave beside them.
        memory: what the hospital keeps for its own next round; None for nothing.
    """

    arrays: Arrays
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)
    memory: Arrays | None = None


class Method:
    """The base of every method: by default what FedAvg does.

    A subclass is a `@settings` class in a file of its own, `strategies/<name>.py`, with
    `configs/strategy/<name>.yaml`; the contract tests then run over it.
    """

    __slots__ = ()

    #: The names of the numbers that leave beside the arrays, where only their mean is to be seen.
    told: ClassVar[tuple[str, ...]] = ("loss",)
    #: Whether an update is weighted by the hospital's patients.
    is_by_patients: ClassVar[bool] = True

    @property
    def is_personal(self) -> bool:
        """Whether a hospital uses a model of its own."""
        return type(self).personal is not Method.personal

    @property
    def remembers(self) -> bool:
        """Whether a hospital may keep something from round to round, and must look for it: not by FedAvg's own ways."""
        ours = (type(self).train, type(self).idle, type(self).personal)
        return ours != (Method.train, Method.idle, Method.personal)

    def server(self) -> SumServer:
        """The coordinator's half, fresh."""
        return Averaged()

    def replies(self, arrays: Arrays) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a hospital replies with to a round's arrays."""
        return self.server().replies(Received(arrays).weights)

    def shared(self, names: NetworkNames) -> frozenset[str]:
        """The weights that travel; the others never leave a hospital."""
        return frozenset(names.all)

    def check(self, names: NetworkNames, training: LocalTraining) -> None:
        """Refuse a network or a local training that the method can't work with.

        Raises:
            SettingError: naming the rule and the remedy.
        """

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """The trainings that `train` asks `fit` for in a round, where it learns from patients by them alone; else none.

        Then all it does is private when each `fit` is, whatever it keeps or sends: it only works on
        with what they gave. A method whose personal model shapes the scores that leave counts its
        training too. With none, the method is refused under differential privacy.
        """
        return (training,)

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """The hospital's half of a round."""
        del memory
        mu = float(received.config.get("proximal-mu", 0.0))
        pull = Pull(strength=mu, anchor=received.weights) if mu else None
        fitted = trainer.fit(received.weights, pull=pull)
        return Trained(fitted.weights, trainer.size, {"loss": fitted.loss})

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """What a hospital would send that learned nothing from its patients, and claims them all.

        It leaves the model where it is: if every hospital sent this, no weight would move. A
        hospital that has not trained knows no loss, and claims that of a coin.
        """
        del memory
        return Trained(received.weights, trainer.size, {"loss": COIN})

    def personal(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Arrays:
        """The weights this hospital would use itself: those that came, or its own."""
        del trainer, memory
        return received.weights


class ReportsFirstLoss(Method):
    """FedAvg's hospital half, telling also the loss of the weights that came: what QFedAvg weighs by."""

    __slots__ = ()

    def private_fits(self, training: LocalTraining) -> tuple[LocalTraining, ...]:
        """None: the loss of the weights that came is no training."""
        del training
        return ()

    def train(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """As FedAvg, with "first_loss" among the metrics."""
        first, _ = trainer.gradient(received.weights)
        found = Method.train(self, trainer, received, memory)
        return Trained(found.arrays, found.weight, {**found.metrics, "first_loss": first})

    def idle(self, trainer: Trainer, received: Received, memory: Arrays | None) -> Trained:
        """As FedAvg, with the true "first_loss": it is not learned."""
        first, _ = trainer.gradient(received.weights)
        found = Method.idle(self, trainer, received, memory)
        return Trained(found.arrays, found.weight, {**found.metrics, "first_loss": first})


class SumServer(FedAvg):
    """A Flower strategy that needs only the hospitals' weighted mean.

    Attributes:
        needs: "sum": one reply with the weighted mean and the total weight would do.
        patients: training patients of all hospitals, those not asked in a round included.
        grain: how far a mean may be off for being of sums that were rounded under masks; 0 where they are not.
        weights: the model that this round began with.
    """

    needs: Literal["sum"] = "sum"

    def __init__(self) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.patients, self.grain = 0.0, 0.0
        self.weights: Arrays = {}

    def begin(self, patients: float, grain: float = 0.0) -> None:
        """Learn, before the first round, how many training patients all hospitals have, and how fine means are."""
        self.patients, self.grain = patients, grain

    def share_of(self, total: float) -> float:
        """The share of all patients that took part; hospitals that came after the first count can't make it more than 1."""
        return min(total / self.patients, 1.0)

    def beside(self, weights: Arrays) -> Arrays:
        """What is sent beside the weights, as `kind:<name>`."""
        del weights
        return {}

    def replies(self, weights: Arrays) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a hospital must reply with."""
        return {name: array.shape for name, array in weights.items()}

    @abstractmethod
    def update(self, mean: Arrays, total: float) -> Arrays:
        """The new weights, from the hospitals' weighted mean and the sum of their weights."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's messages, with what goes beside the weights."""
        self.weights = {name: array.numpy() for name, array in arrays.items()}
        sent = {**self.weights, **self.beside(self.weights)}
        return super().configure_train(server_round, record(sent), config, grid)  # type: ignore[no-any-return]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The updated weights, and Flower's mean of the metrics."""
        del server_round
        usable = [reply.content for reply in replies if reply.has_content()]
        if not usable:
            return None, None
        found = [{name: array.numpy() for name, array in records[self.arrayrecord_key].items()} for records in usable]
        shares = [float(next(iter(records.metric_records.values()))[self.weighted_by_key]) for records in usable]
        updated = self.update(weighted_mean(found, shares), sum(shares))
        return record(updated), self.train_metrics_aggr_fn(usable, self.weighted_by_key)


class Averaged(SumServer):
    """The weighted mean itself is the new model, as in FedAvg."""

    def update(self, mean: Arrays, total: float) -> Arrays:
        """The mean."""
        del total
        return mean


def method_of(strategy: Mapping[str, object]) -> Method:
    """The hospital's half of a study's strategy, from the installed package only.

    A strategy from elsewhere, Flower's or a user's own, has FedAvg's half, with the
    proximal term where the coordinator sends `proximal-mu`.

    Raises:
        Refused, SettingError: as `core.parts.build`.
    """
    target = str(strategy.get(TARGET, ""))
    if target.startswith(f"{ROOM}."):
        return build(strategy, where="strategy", room=ROOM, does="train")  # type: ignore[no-any-return]
    return ReportsFirstLoss() if target == "flwr.serverapp.strategy.QFedAvg" else Method()


def strategy_of(strategy: Mapping[str, object]) -> Strategy | object:
    """The coordinator's half: a Flower strategy, or whatever else `_target_` made.

    Raises:
        SettingError: as `core.parts.build`.
    """
    built = build(strategy, where="strategy")
    return built.server() if isinstance(built, Method) else built


def weighted_mean(found: list[Arrays], shares: list[float]) -> Arrays:
    """The mean of the arrays by name, in float64, summed in the order given."""
    total = sum(shares)
    return {
        name: np.asarray(
            sum(arrays[name].astype(np.float64) * (share / total) for arrays, share in zip(found, shares, strict=True))
        )
        for name in found[0]
    }


def prefixed(kind: str, arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """The arrays as `kind:<name>`."""
    return {f"{kind}:{name}": array for name, array in arrays.items()}


def unprefixed(kind: str, arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """The arrays that are named `kind:<name>`, by name."""
    return {name.removeprefix(f"{kind}:"): array for name, array in arrays.items() if name.startswith(f"{kind}:")}


def record(arrays: Mapping[str, NDArray[np.generic]]) -> ArrayRecord:
    """The arrays as Flower's record."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})
