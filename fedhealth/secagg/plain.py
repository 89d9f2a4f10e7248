"""No masking: the coordinator sees each hospital's update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import Refused
from fedhealth.core.settings import settings
from fedhealth.core.update import SealedUpdate

if TYPE_CHECKING:
    from fedhealth.core.update import PrivateUpdate


@settings
class Plain:
    """The absence of masking, chosen openly."""

    @property
    def is_masked(self) -> bool:
        """Never."""
        return False

    def seal(self, private: PrivateUpdate) -> SealedUpdate:
        """The update in the clear.

        Raises:
            Refused: its noise is still to be added under a mask.
        """
        if private.shares_noise:
            raise Refused(
                "not_private",
                rule="what shares its noise with other hospitals may leave under masks only",
                found="secagg=plain",
                remedy="Use secagg=masked.",
            )
        update = private.update
        return SealedUpdate(update.weight, update.arrays, update.metrics, is_masked=False)

    def statement(self) -> str:
        """What the coordinator sees."""
        return "No secure aggregation: the coordinator sees each hospital's update and summary."
