"""What a federated method adds to each step of local training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Arrays by name: float weights, and the whole numbers that some layers count in.
Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Pull:
    """A force on the weights w: `strength (w - anchor) + shift` is added to each mini-batch's gradient.

    It is the gradient of a proximal term, a drift correction or both, which is all that
    FedProx, SCAFFOLD, FedDyn and Ditto do to a local step. Gradient clipping does not see it.

    Attributes:
        strength: of the proximal term (1/2) strength |w - anchor|^2.
        anchor: by parameter; needed where `strength` is not 0.
        shift: by parameter; a parameter that is left out has none.
    """

    strength: float = 0.0
    anchor: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shift: Mapping[str, NDArray[Any]] = field(default_factory=dict)
