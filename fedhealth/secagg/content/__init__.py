"""What a summed vector holds: how an update becomes its values, and a sum of them an update.

`Averages` is a round's training, `Sums` everything that is a sum to begin with. Each is made
alike by every hospital and the coordinator, from the study and the question alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.core.update import Update
    from fedhealth.secagg.protocol.codec import Total
    from fedhealth.secagg.protocol.layout import Layout


class Content(Protocol):
    """What both kinds offer."""

    def layout(self, sites: int) -> Layout:
        """The vector of which at most so many hospitals' are summed."""
        ...

    def values(self, update: Update) -> tuple[int, Mapping[str, NDArray[np.generic]]]:
        """A hospital's word 0, and its values by slot."""
        ...

    def read(self, total: Total) -> Update:
        """What the sum says of all hospitals together, as one update."""
        ...
