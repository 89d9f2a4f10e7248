"""Whether a strategy needs the hospitals' sum, or each hospital's update by itself.

A strategy that needs only the sum can run where updates are masked. Flower's classes are
listed here; any other class declares itself by an attribute `needs = "sum"` or
`needs = "each"`, and counts as "each" while it does not.
"""

from __future__ import annotations

import math
from typing import Literal

Needs = Literal["sum", "each"]

FLOWER: dict[str, Needs] = {
    "FedAvg": "sum",
    "FedAvgM": "sum",
    "FedProx": "sum",
    "FedAdagrad": "sum",
    "FedAdam": "sum",
    "FedYogi": "sum",
    "QFedAvg": "each",
    "FedMedian": "each",
    "FedTrimmedAvg": "each",
    "Krum": "each",
    "MultiKrum": "each",
    "Bulyan": "each",
    "FedXgbBagging": "each",
    "FedXgbCyclic": "each",
}

#: Strategies that step beyond the hospitals' mean or choose by distance: a running variance may fall below 0 under
#: the first, and a count of batches outweighs every weight of the model in the second.
MORE_THAN_MEAN = (
    "FedDynServer", "FedNovaServer", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi", "QFedAvg", "Krum", "MultiKrum",
    "Bulyan",
)  # fmt: skip


def needs_of(strategy: object) -> Needs:
    """What the strategy needs; "each" where nothing is declared."""
    cls = type(strategy)
    declared = getattr(strategy, "needs", None)
    if declared in ("sum", "each"):
        return declared  # type: ignore[no-any-return]
    if cls.__module__.startswith("flwr."):
        return FLOWER.get(cls.__name__, "each")
    return "each"


def least_sites(strategy: object) -> int:
    """How many hospitals the strategy's guarantee needs, for those it is told may be hostile.

    Krum and MultiKrum 2 f + 3 (Blanchard 2017, arXiv:1703.02757), and MultiKrum f more than it
    selects, else it must select a hostile one; Bulyan 4 f + 3 (El Mhamdi 2018,
    arXiv:1802.07927); a trimmed mean enough that its share of them is one or more, so that
    something is cut, where it is to cut at all.
    """
    hostile = int(getattr(strategy, "num_malicious_nodes", 0))
    name = type(strategy).__name__
    if name in ("Krum", "MultiKrum"):
        return max(2 * hostile + 3, int(getattr(strategy, "num_nodes_to_select", 1)) + hostile)
    if name == "Bulyan":
        return 4 * hostile + 3
    if name == "FedTrimmedAvg":
        beta = float(getattr(strategy, "beta", 0.0))
        return math.ceil(1 / beta) if beta else 1
    return 1


def tolerated(strategy: object) -> str:
    """What the strategy is told to stand, in words."""
    if (hostile := getattr(strategy, "num_malicious_nodes", None)) is not None:
        return f"num_malicious_nodes={hostile}"
    return f"beta={strategy.beta}" if hasattr(strategy, "beta") else "its settings"
