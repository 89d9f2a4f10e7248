"""Local training: what a hospital does with a model in one round."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings


@settings
class Schedule:
    """The learning rate by round.

    Attributes:
        kind: `constant`; `exponential`, times `factor` after each `every` rounds; `cosine`,
            down half a cosine to `factor` times the rate in the last planned round.
        factor: see `kind`; in (0, 1].
        every: rounds between two falls of the exponential.
        warmup: rounds of linear rise before the first at the full rate, from which `kind` counts.
    """

    kind: Literal["constant", "exponential", "cosine"] = "constant"
    factor: float = 1.0
    every: int = 1
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise SettingError(f"`factor` must lie in (0, 1], found {self.factor}. Try 0.1, or kind=constant.")
        if self.every < 1:
            raise SettingError(f"`every` must be at least 1 round, found {self.every}. Raise it.")
        if self.warmup < 0:
            raise SettingError(f"`warmup` must be 0 or more rounds, found {self.warmup}. Use 0 for none.")

    def at(self, round_: int, rounds: int) -> float:
        """What the learning rate is multiplied by in `round_` of `rounds`, the first being 1."""
        if round_ <= self.warmup:
            return round_ / (self.warmup + 1)
        past = round_ - 1 - self.warmup
        if self.kind == "exponential":
            return self.factor ** (past // self.every)
        if self.kind == "cosine":
            way = min(past / max(rounds - 1 - self.warmup, 1), 1.0)
            return self.factor + (1 - self.factor) * (1 + math.cos(math.pi * way)) / 2
        return 1.0


@settings
class LocalTraining:
    """What a hospital does with the model in one round.

    It runs `steps` mini-batches where that is set, else `epochs` passes over its training
    patients. The optimiser starts afresh every round.

    Attributes:
        epochs: passes over the training patients.
        steps: mini-batches, in place of passes; None counts passes.
        batch_size: patients in a mini-batch.
        optimiser: `sgd`, with heavy-ball momentum, or `adamw`.
        learning_rate: of each step.
        momentum: of `sgd`, in [0, 1).
        weight_decay: for `sgd` the strength of an L2 penalty, for `adamw` decoupled
            (Loshchilov and Hutter 2019, arXiv:1711.05101).
        beta1: decay of `adamw`'s mean of gradients, in [0, 1).
        beta2: decay of its mean of squares, in [0, 1).
        clip_norm: a mini-batch's gradient is scaled down to this L2 norm; None leaves it.
        schedule: the learning rate by round.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float | None = None
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise SettingError(f"`{name}` must be at least {low}, found {getattr(self, name)}. Raise it.")
        if self.steps is not None and self.steps < 1:
            raise SettingError(f"`steps` must be at least 1 or null, found {self.steps}. Use null to train by epochs.")
        if not self.learning_rate > 0:
            raise SettingError(f"`learning_rate` must be above 0, found {self.learning_rate}. Try 0.05.")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"`{name}` must lie in [0, 1), found {getattr(self, name)}. Try 0.9.")
        if self.momentum and self.optimiser == "adamw":
            raise SettingError(
                f"`momentum` belongs to sgd, found {self.momentum} with adamw. Set beta1, or momentum=0."
            )
        if self.weight_decay < 0:
            raise SettingError(f"`weight_decay` must be 0 or more, found {self.weight_decay}. Use 0 for none.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise SettingError(f"`clip_norm` must be above 0 or null, found {self.clip_norm}. Use null for none.")

    def at(self, round_: int, rounds: int) -> LocalTraining:
        """The same training with the learning rate that the schedule gives in `round_` of `rounds`."""
        return replace(self, learning_rate=self.learning_rate * self.schedule.at(round_, rounds), schedule=Schedule())

    def steps_for(self, n: int) -> int:
        """How many mini-batches `n` patients are trained in."""
        return self.epochs * -(-n // self.batch_size) if self.steps is None else self.steps
