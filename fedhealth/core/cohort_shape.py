"""The shape of a cohort: the few counts of it that the coordinator may know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CohortShape:
    """How many patients a hospital has in each part of the split."""

    train: int
    validation: int
    test: int
