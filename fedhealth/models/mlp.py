"""A multilayer perceptron with ReLU units."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from torch import nn


#: What layer normalisation adds to the variance: it stretches by at most the root of its inverse, ten times. More
#: would let rounding be stretched too, which a private study bounds (`site.exact_network`).
EPSILON = 0.01
#: Two layers of that width are 67 MB, and every hospital of a simulation holds its own.
WIDEST = 4096


@settings
class Mlp:
    """Fully connected layers of the widths in `hidden`, each followed by a ReLU.

    `normalisation` stands between a layer and its ReLU: `batch` (running statistics over
    patients, which differential privacy excludes) or `layer` (over a patient's own units).
    """

    learns: ClassVar[Literal["event", "time to event"]] = "event"

    hidden: tuple[int, ...] = (32,)
    normalisation: Literal["none", "batch", "layer"] = "none"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or max(self.hidden) > WIDEST:
            raise SettingError(
                f"`hidden` must list widths of at least 1 and at most {WIDEST:,}, found {list(self.hidden)}. "
                "Try [64,32], or model=logistic."
            )

    def network(self, width: int) -> nn.Module:
        """The layers from [n, width] to [n, 1] logits, in torch's own initialisation."""
        from torch import nn

        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((width, *self.hidden)):
            layers.append(nn.Linear(inputs, outputs))
            if self.normalisation != "none":
                layers.append(
                    nn.BatchNorm1d(outputs) if self.normalisation == "batch" else nn.LayerNorm(outputs, EPSILON)
                )
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(self.hidden[-1], 1))
