"""The update on its way out of a hospital: three types, one after the other.

    Update ─privacy→ PrivateUpdate ─secagg→ SealedUpdate ─codec→ message

The type is the permit. Only a part in `fedhealth.privacy` makes a `PrivateUpdate`, only
one in `fedhealth.secagg` a `SealedUpdate`, and the message codec takes nothing else; so a
forgotten step is a type error, and a test reads the source to hold the first two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fedhealth.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.core.spend import Spend


#: Stands where a hospital's name would, for a sum that is all there is to see.
ALL = "all hospitals"


@dataclass(frozen=True, slots=True)
class Update:
    """What a hospital computed.

    Attributes:
        weight: the number of patients behind it.
        arrays: by name; model weights, or one vector named "sum".
        metrics: numbers averaged with `weight`, such as the training loss.
    """

    weight: float
    arrays: Mapping[str, NDArray[np.generic]]
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise DataError(f"an update's weight must be 0 or more patients, found {self.weight}. Check the cohort.")


class PrivateUpdate(NamedTuple):
    """An update that a privacy mechanism let through, and what that cost.

    Attributes:
        update: what leaves.
        spend: the event.
        shares_noise: its noise is still to be added, under a mask: in the clear it may not leave.
    """

    update: Update
    spend: Spend
    shares_noise: bool = False


class SealedUpdate(NamedTuple):
    """What the coordinator may see: in the clear, or a masked share of a sum."""

    weight: float
    arrays: Mapping[str, NDArray[np.generic]]
    metrics: Mapping[str, float]
    is_masked: bool
