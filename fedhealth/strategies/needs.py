"""Whether a strategy needs the hospitals' sum, or each hospital's update by itself.

A strategy that needs only the sum can run where updates are masked. Flower's classes are
listed here; any other class declares itself by an attribute `needs = "sum"` or
`needs = "each"`, and counts as "each" while it does not.
"""

from __future__ import annotations

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


def needs_of(strategy: object) -> Needs:
    """What the strategy needs; "each" where nothing is declared."""
    cls = type(strategy)
    declared = getattr(strategy, "needs", None)
    if declared in ("sum", "each"):
        return declared  # type: ignore[no-any-return]
    if cls.__module__.startswith("flwr."):
        return FLOWER.get(cls.__name__, "each")
    return "each"
