"""FedBN: each hospital keeps its own normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.settings import settings
from fedhealth.strategies.layers import KeepsLayers

if TYPE_CHECKING:
    from fedhealth.core.network_names import NetworkNames


@settings
class FedBN(KeepsLayers):
    """FedBN (Li 2021, arXiv:2102.07623, algorithm 1): normalising layers, running statistics included, stay."""

    def kept(self, names: NetworkNames) -> frozenset[str]:
        """The normalising layers."""
        return names.normalisation

    def remedy(self) -> str:
        """Which model has such layers."""
        return "Use model=mlp model.normalisation=batch."
