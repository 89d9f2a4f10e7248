"""Models: one network a file, made from settings and the width of the input.

A model is a `@settings` class with one verb, `network(width) -> torch.nn.Module`, whose
output is one score a patient: the logit of the outcome, or where `learns` is a time to
an event the log of the hazard ratio. It reads no file, picks no device and computes no loss.
The same seed gives the same first weights. A model that can't read a row of any width says by
`narrowest` how many columns it needs; see `least_width`.

To add one: `models/<name>.py` with its settings class and `configs/model/<name>.yaml`
with `_target_` and the same defaults; the contract tests then run over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import nn


def least_width(model: Model) -> int:
    """A width for which the model has a network: what its layers are called can be asked before the data is known."""
    return int(getattr(model, "narrowest", 1))


class Model(Protocol):
    """What every file of this room offers."""

    learns: ClassVar[Literal["event", "time to event"]]

    def network(self, width: int) -> nn.Module:
        """A fresh network from [n, width] features to [n, 1] scores."""
        ...
