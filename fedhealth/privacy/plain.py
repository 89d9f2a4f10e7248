"""No mechanism: the update leaves as it is."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate

if TYPE_CHECKING:
    from fedhealth.core.update import Update


@settings
class Plain:
    """The absence of differential privacy, chosen openly and recorded as such."""

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The same update, at infinite cost."""
        del stream
        return PrivateUpdate(update, _spend(what))

    def statement(self) -> str:
        """What holds for a patient."""
        return (
            "No differential privacy: patients' records stay in their hospital, but no bound is given "
            "on what the exchanged numbers reveal about one of them."
        )


@lru_cache(maxsize=16)
def _spend(what: str) -> Spend:
    """The event, one for all hospitals that are asked the same."""
    return Spend(mechanism="plain", is_private=False, what=what)
