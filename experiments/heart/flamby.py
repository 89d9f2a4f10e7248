"""Fed-Heart-Disease as FLamby runs it (Ogier du Terrail et al. 2022, arXiv 2210.04620), in numpy.

Four hospitals, complete cases of ten variables, 13 columns after one-hot coding, a fixed
66/34 split, logistic regression, accuracy at 0.5. Settings are FLamby's: Adam at 1e-3 for
50 epochs of batches of 4 alone and pooled; 15 rounds of 100 SGD steps federated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"cleveland": "cleveland", "hungary": "hungarian", "switzerland": "switzerland", "long-beach": "va"}
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
BATCH, EPOCHS, ROUNDS, STEPS = 4, 50, 15, 100


@dataclass(frozen=True)
class Centre:
    """One hospital: raw rows (ten variables and the outcome), their one-hot columns, and the split."""

    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray


def centres(data: Path) -> dict[str, Centre]:
    """The four hospitals, by name."""
    found = {}
    for name, stem in FILES.items():
        lines = (data / "uci_heart_disease" / f"processed.{stem}.data").read_text().split()
        table = np.array([[np.nan if cell == "?" else float(cell) for cell in line.split(",")] for line in lines])
        rows = np.column_stack([table[:, :10], table[:, 13] > 0])
        rows = rows[~np.isnan(rows).any(axis=1)]
        cp, ecg = rows[:, 2], rows[:, 6]
        kept = rows[:, [0, 1, 3, 4, 5, 7, 8, 9]]
        x = np.column_stack([kept, *(cp == level for level in (2, 3, 4)), *(ecg == level for level in (1, 2))])
        y = rows[:, 10]
        both = min((y == 0).sum(), (y == 1).sum()) > 2
        train, test = train_test_split(
            np.arange(len(y)), train_size=0.66, random_state=43, stratify=y if both else None
        )
        found[name] = Centre(rows, x, y, train, test)
    return found


class Logistic:
    """Thirteen weights and a bias, with its own SGD and Adam."""

    def __init__(self, rng: np.random.Generator, width: int = 13) -> None:
        self.w = rng.uniform(-1, 1, width + 1) / np.sqrt(width)
        self.m, self.v, self.t = np.zeros(width + 1), np.zeros(width + 1), 0

    def risk(self, x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(x @ self.w[:-1] + self.w[-1])))

    def gradient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        error = self.risk(x) - y
        return np.append(error @ x, error.sum()) / len(y)

    def sgd(self, x: np.ndarray, y: np.ndarray, rate: float) -> None:
        self.w = self.w - rate * self.gradient(x, y)

    def adam(self, x: np.ndarray, y: np.ndarray, rate: float) -> None:
        gradient, self.t = self.gradient(x, y), self.t + 1
        self.m, self.v = 0.9 * self.m + 0.1 * gradient, 0.999 * self.v + 0.001 * gradient**2
        self.w = self.w - rate * (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def batches(n: int, rng: np.random.Generator):
    order = rng.permutation(n)
    return (order[start : start + BATCH] for start in range(0, n, BATCH))


def by_adam(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Logistic:
    """Trained as FLamby trains alone and pooled."""
    model = Logistic(rng)
    for _ in range(EPOCHS):
        for rows in batches(len(y), rng):
            model.adam(x[rows], y[rows], 1e-3)
    return model


def federated(
    parts: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator, rate: float, server_rate: float | None
):
    """FedAvg, or FedAdagrad where a server rate is given.

    Reddi et al. 2020, arXiv 2003.00295, algorithm 2, with FLamby's momentum 0.9 and tau 1e-3.
    """
    model, first, second = Logistic(rng), np.zeros(14), np.zeros(14)
    streams = [_endless(len(y), rng) for _, y in parts]
    share = np.array([len(y) for _, y in parts]) / sum(len(y) for _, y in parts)
    for _ in range(ROUNDS):
        begun, ends = model.w, []
        for (x, y), stream in zip(parts, streams, strict=True):
            model.w = begun
            for _ in range(STEPS):
                rows = next(stream)
                model.sgd(x[rows], y[rows], rate)
            ends.append(model.w)
        step = share @ np.array(ends) - begun
        if server_rate is not None:
            first, second = 0.9 * first + 0.1 * step, second + step**2
            step = server_rate * first / (np.sqrt(second) + 1e-3)
        model.w = begun + step
    return model


def scaled(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """`x` with the mean and standard deviation of `by`."""
    return (x - by.mean(axis=0)) / (by.std(axis=0, ddof=1) + 1e-9)


def scores(found: dict[str, Centre], seed: int) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By way of training, each hospital's (risk, outcome) on its test patients."""
    rng = np.random.default_rng(seed)
    each = list(found.values())
    own = [scaled(c.x, c.x[c.train]) for c in each]
    everyone = np.concatenate([c.x[c.train] for c in each])
    outcomes = np.concatenate([c.y[c.train] for c in each])
    parts = [(x[c.train], c.y[c.train]) for x, c in zip(own, each, strict=True)]
    pooled = by_adam(scaled(everyone, everyone), outcomes, rng)

    def tested(model: Logistic, inputs: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(model.risk(x[c.test]), c.y[c.test]) for x, c in zip(inputs, each, strict=True)]

    return {
        "each hospital alone": [
            (by_adam(x, y, rng).risk(mine[c.test]), c.y[c.test])
            for (x, y), mine, c in zip(parts, own, each, strict=True)
        ],
        "FedAvg": tested(federated(parts, rng, 1e-3, None), own),
        "FedAdagrad": tested(federated(parts, rng, 0.003162, 0.316228), own),
        "pooled, tests scaled per hospital": tested(pooled, own),
        "pooled, one scaling": tested(pooled, [scaled(c.x, everyone) for c in each]),
    }


def _endless(n: int, rng: np.random.Generator):
    while True:
        yield from batches(n, rng)
