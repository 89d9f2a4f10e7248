"""A federation small enough to follow by hand: hospitals made of arrays, in float64, and any strategy by its config."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import yaml
from composing import config_of
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedhealth.core.training import LocalTraining
from fedhealth.models.cox import Cox
from fedhealth.models.logistic import Logistic
from fedhealth.models.weights import first_network, load_weights, names_of, weights_of
from fedhealth.places import configs_folder
from fedhealth.runtime import flower
from fedhealth.runtime.codec import array_record, arrays_of
from fedhealth.site.engines.plain import Plain, batches
from fedhealth.strategies.method import Fitted, Received, SumServer, method_of, strategy_of

STRATEGIES = sorted(path.stem for path in (configs_folder() / "strategy").glob("*.yaml"))


def spec_of(stem: str, **settings) -> dict[str, Any]:
    """A strategy's config, as a study holds it."""
    return copy.deepcopy(_specs()[stem]) | settings


@cache
def _specs() -> dict[str, dict[str, Any]]:
    """All in one composition, in which Hydra makes each as it would in its place."""
    return config_of(*(f"+strategy@each.{stem}={stem}" for stem in STRATEGIES))["each"]


def targets() -> dict[str, str]:
    """The part that each strategy's config names."""
    return {
        s: yaml.safe_load((configs_folder() / "strategy" / f"{s}.yaml").read_text())["_target_"] for s in STRATEGIES
    }


LOGISTIC = Logistic()


@dataclass
class Bench:
    """A trainer over plain arrays, whose network is float64."""

    x: np.ndarray
    y: np.ndarray
    training: LocalTraining
    model: Any = LOGISTIC
    seed: int = 1

    def __post_init__(self):
        self.network = first_network(self.model, self.x.shape[1], seed=3).double()
        self._first = weights_of(self.network)

    @property
    def names(self):
        return names_of(self.network)

    @property
    def size(self):
        return len(self.y)

    def first_weights(self):
        return self._first

    def fit(self, weights, *, pull=None, only=None, epochs=None, purpose="batches"):
        load_weights(self.network, weights)
        training = self.training if epochs is None else replace(self.training, epochs=epochs, steps=None)
        rng = np.random.default_rng([self.seed, len(purpose)])
        loss, steps = Plain().fit(self.network, self.x, self.y, training, rng, pull=pull, only=only)
        return Fitted(weights_of(self.network), loss, steps)

    def gradient(self, weights, rows=None):
        load_weights(self.network, weights)
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        return Plain().gradient(self.network, x, y)

    def batches(self, purpose="batches"):
        rng = np.random.default_rng([self.seed, len(purpose)])
        return (rows.numpy() for rows in batches(len(self.y), self.training, rng))


class Still(Bench):
    """A trainer at an optimum: training changes nothing and the gradient is 0."""

    def __init__(self, n: int = 4, model: Any = None):
        y = np.arange(n) % 2.0
        y = followed(y) if isinstance(model, Cox) else y
        Bench.__init__(self, np.zeros((n, 3)), y, LocalTraining(), model or Logistic())

    def fit(self, weights, **_):
        return Fitted({name: array.copy() for name, array in weights.items()}, 0.5, 1)

    def gradient(self, weights, rows=None):
        return 0.5, {name: np.zeros_like(weights[name]) for name in self.names.trained}


class Nodes:
    """As much of a grid as strategies ask for."""

    def __init__(self, count: int):
        self.count = count

    def get_node_ids(self):
        return list(range(100, 100 + self.count))


class Federation:
    """Rounds of a strategy over benches, in one place and without a grid."""

    def __init__(self, stem: str, benches, weights=None, **settings):
        flower.begin_run(1)
        self.spec = spec_of(stem, **settings)
        self.benches = list(benches)
        self.method, self.strategy = method_of(self.spec), strategy_of(self.spec)
        shared = self.method.shared(self.benches[0].names)
        first = weights or self.benches[0].first_weights()
        self.weights = {name: array.copy() for name, array in first.items() if name in shared}
        self.memories: list[Any] = [None] * len(self.benches)
        self.round = 0
        if isinstance(self.strategy, SumServer):
            self.strategy.begin(float(sum(len(bench.y) for bench in self.benches)))

    def asked(self, hospitals=None):
        """The messages of the next round, to some hospitals or all."""
        self.round += 1
        record, config = array_record(self.weights), ConfigRecord()
        messages = list(self.strategy.configure_train(self.round, record, config, Nodes(len(self.benches))))
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        return messages if hospitals is None else [messages[k] for k in hospitals]

    def answered(self, message, work=None) -> Message:
        """One hospital's reply, by the method's training or other work; its memory is kept."""
        k = message.metadata.dst_node_id - 100
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        received = Received(arrays, {**message.content["config"]})
        found = (work or self.method.train)(self.benches[k], received, self.memories[k])
        self.memories[k] = found.memory if found.memory is not None else self.memories[k]
        return reply(message, found.arrays, found.weight, found.metrics)

    def run(
        self,
        rounds: int = 1,
        mend: Callable[[list[Message]], list[Message]] = lambda replies: replies,
        hospitals=None,
        work=None,
    ):
        """The weights after some more rounds with some hospitals or all.

        `mend` may change the replies, `work` is done in place of training.
        """
        for _ in range(rounds):
            replies = mend([self.answered(message, work) for message in self.asked(hospitals)])
            arrays, _ = self.strategy.aggregate_train(self.round, replies)
            self.weights = {name: arrays[name].numpy() for name in self.weights}
        return self.weights

    def personal(self, k: int):
        return self.method.personal(self.benches[k], Received(self.weights), self.memories[k])


def reply(message, arrays, weight, metrics) -> Message:
    content = RecordDict(
        {"arrays": array_record(arrays), "metrics": MetricRecord({"num-examples": float(weight), **metrics})}
    )
    return Message(content, reply_to=message)


def failed(message) -> Message:
    return Message(Error(2, "failed:OSError"), reply_to=message)


def averaged(replies: list[Message]) -> list[Message]:
    """One reply with the weighted mean and the total weight: all that masking shows."""
    usable = [r for r in replies if r.has_content()]
    shares = np.array([r.content["metrics"]["num-examples"] for r in usable])
    found = [arrays_of(r) for r in usable]
    mean = {n: sum(s / shares.sum() * a[n].astype(float) for s, a in zip(shares, found, strict=True)) for n in found[0]}
    metrics = {k: float(np.average([r.content["metrics"][k] for r in usable], weights=shares)) for k in usable[0].content["metrics"] if k != "num-examples"}  # fmt: skip
    one = usable[0]
    content = RecordDict(
        {"arrays": array_record(mean), "metrics": MetricRecord({"num-examples": float(shares.sum()), **metrics})}
    )
    one.content.clear()
    one.content.update(content)
    return [one]


def population(sizes, *, d: int = 3, seed: int = 0, drift: float = 1.0):
    """Hospitals with (x, y); `drift` makes their laws differ."""
    found = []
    for k, n in enumerate(sizes):
        rng = np.random.default_rng([seed, k])
        x = rng.normal(size=(n, d)) + drift * rng.normal(size=d)
        truth = np.linspace(1, -1, d) + drift * rng.normal(size=d)
        y = (rng.random(n) < 1 / (1 + np.exp(-(x @ truth)))).astype(float)
        y[:2] = [0, 1]
        found.append((x, y))
    return found


def followed(y, x=None, seed: int = 0) -> np.ndarray:
    """The events as [n, 3] times: whole weeks, so that there are ties, sooner where the first column is high."""
    score = np.zeros(len(y)) if x is None else x[:, 0]
    weeks = np.ceil(8 * np.random.default_rng([seed, len(y)]).exponential(np.exp(-score)))
    return np.column_stack([y, weeks, np.zeros(len(y))])


def benches(sizes=(30, 50, 20, 40, 35, 25, 45), training=None, model=None, **how):
    training = training or LocalTraining(batch_size=16, learning_rate=0.1, epochs=2)
    people = population(sizes, **how)
    if isinstance(model, Cox):
        people = [(x, followed(y, x, seed=k)) for k, (x, y) in enumerate(people)]
    return [Bench(x, y, training, model or Logistic(), seed=k) for k, (x, y) in enumerate(people)]


def pooled_fit(found, steps: int = 200) -> np.ndarray:
    """Coefficients and intercept of the maximum likelihood over all hospitals, by Newton on all rows."""
    x, y = (np.concatenate(part) for part in zip(*found, strict=True))
    design = np.hstack([x, np.ones((len(x), 1))])
    at = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ at))
        at = at + np.linalg.solve((design * (p * (1 - p))[:, None]).T @ design, design.T @ (y - p))
    return at


def flat(weights) -> np.ndarray:
    return np.concatenate([weights["weight"].ravel(), weights["bias"].ravel()])
