"""FedPer: a shared body with each hospital's own head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.settings import settings
from fedhealth.strategies.layers import KeepsLayers

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames


@settings
class FedPer(KeepsLayers):
    """FedPer (Arivazhagan 2019, arXiv:1912.00818, algorithms 1 and 2).

    Attributes:
        personal_layers: patterns of the weights that stay at the hospital, such as
            `["2.*"]`; empty for the last layer.
    """

    personal_layers: tuple[str, ...] = ()

    def kept(self, names: NetworkNames) -> frozenset[str]:
        """The named layers, or the head."""
        return names.matching(self.personal_layers) if self.personal_layers else names.head
