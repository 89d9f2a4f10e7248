"""The coordinator of a study of tables: one question, one sum, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.parts import build
from fedhealth.evaluation.intervals import Z
from fedhealth.evaluation.tables import TableLayout, independence, kaplan_meier, log_rank, moments, quantile
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.secagg.masked import Masked
from fedhealth.server.statistics import vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.core.study import Study
    from fedhealth.evaluation.tables import OneTable, Told
    from fedhealth.runtime.policy import PolicyGrid

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the hospitals of a study told together.

    Attributes:
        layout: of the study.
        told: by table.
        hospitals: that are in the sum.
        least: a row that fewer hospitals told is not shown, nor what needs it.
        noise: the standard deviation of a count, in patients; 0 where counts are exact.
        failed: who did not answer and why, in words.
    """

    layout: TableLayout
    told: tuple[Told, ...]
    hospitals: int
    least: int
    noise: float = 0.0
    failed: tuple[str, ...] = field(default=())

    def findings(self) -> list[dict[str, Any]]:
        """Each table and what follows from it, as JSON holds it; null stands for what is withheld or can't be said."""
        return [self._finding(table, told) for table, told in zip(self.layout.tables, self.told, strict=True)]

    def _finding(self, table: OneTable, told: Told) -> dict[str, Any]:
        is_shown = self.hospitals - told.withholding >= self.least
        counts = [row.tolist() if shown else None for row, shown in zip(told.counts, is_shown, strict=False)]
        found: dict[str, Any] = {
            "title": table.title,
            "columns": [axis.column for axis in table.axes],
            "rows": list(table.rows.labels) if table.rows else ["all"],
            "cells": list(table.beside.labels) if table.beside else ["patients"],
            "counts": counts,
            "missing": told.missing if is_shown[-1] else None,
            "withheld_by": told.withholding.tolist(),
        }
        # Rows that some hospitals withheld are of other hospitals than the rest: nothing is read across them.
        is_whole = not told.withholding[:-1].any()
        if table.rows is not None and table.beside is None and table.rows.kind == "bins":
            found["quantiles"] = {
                f"{share:g}": _quantile(table, told, share) if is_whole else None for share in QUARTILES
            }
        if table.range is not None:
            found["moments"] = self._moments(table, told)
        if table.beside is not None:
            found |= self._of_two(table, told, is_shown[:-1], is_whole=is_whole)
        return found

    def _moments(self, table: OneTable, told: Told) -> dict[str, float | None] | None:
        """The mean and variance, and how far noise moves each; a variance that it may have made is not shown."""
        said = moments(table, told) if self.hospitals - told.silent >= self.least else None
        if said is None or table.range is None:
            return None
        low, high = table.range
        # By the delta method, in the range's units: noise is on both sums and on each count of which n is made.
        s, cells = (said.mean - low) / (high - low) - 0.5, told.counts.size
        q = said.variance / (high - low) ** 2 + s**2
        of_mean = (high - low) * self.noise / said.n * math.sqrt(1 + cells * s**2)
        of_variance = (high - low) ** 2 * self.noise / said.n * math.sqrt(1 + 4 * s**2 + cells * (q - 2 * s**2) ** 2)
        return {
            "n": said.n,
            "mean": said.mean,
            "mean_noise_sd": of_mean,
            "variance": said.variance if not self.noise or said.variance > Z * of_variance else None,
            "variance_noise_sd": of_variance,
            "withheld_by": told.silent,
        }

    def _of_two(self, table: OneTable, told: Told, is_shown: NDArray[np.bool_], *, is_whole: bool) -> dict[str, Any]:
        """What is said of a table with cells. With noise on the counts no test is: its law does not hold."""
        test = log_rank if table.is_over_time else independence
        found = test(told.counts) if is_whole and not self.noise and table.rows is not None else None
        name = "log_rank" if table.is_over_time else "chi_squared"
        said: dict[str, Any] = {name: found and {"statistic": found.statistic, "freedom": found.freedom, "p": found.p}}
        if table.is_over_time:
            said["times"] = (
                [label.removeprefix("lost by ") for label in table.beside.labels[1:-1:2]] if table.beside else []
            )
            said["kaplan_meier"] = [
                self._curve(row) if shown and row.sum() > 0 else None
                for row, shown in zip(told.counts, is_shown, strict=True)
            ]
        return said

    def _curve(self, row: NDArray[np.float64]) -> list[list[float | None]]:
        """At risk, events, share without event and its standard error; which is not known of noisy counts."""
        return [[*point[:3], None if self.noise else point[3]] for point in kaplan_meier(row).tolist()]


def ask(study: Study, grid: PolicyGrid, *, least: int) -> Tables:
    """The tables of a study.

    Args:
        study: one of tables.
        grid: which shows its hospitals, and stands on no fewer answers than it needs.
        least: how many hospitals a number must be of.

    Raises:
        QuorumError: too few answer.
        SettingError: the study asks for no table, or for one its features don't declare.
    """
    layout = TableLayout.of(study)
    mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy", does="privatise")
    sealing = build(study.secagg, where="secagg", room="fedhealth.secagg", does="seal")
    found, whose = vectors(grid, "query.table", layout.width)
    failed = tuple(sorted({str(failure) for exchange in grid.exchanges() for failure in exchange.failed}))
    noise = 0.0
    if isinstance(mechanism, PatientLevel):
        # Without masks each hospital's is the whole.
        each = mechanism.statistics_noise * math.sqrt(len(whose))
        noise = layout.reach * (grid.noise if isinstance(sealing, Masked) else each)
    total = np.sum([found[site] for site in sorted(found)], axis=0)
    return Tables(layout, layout.read(total), len(whose), least, noise, failed)


def answer(study: Study, study_digest: str, found: Tables) -> dict[str, Any]:
    """All that a study of tables gave, as JSON holds it: the hospitals, the promise to a patient, and every table."""
    return {
        "study": study_digest,
        "hospitals": found.hospitals,
        "failed": list(found.failed),
        "privacy": _promise(study),
        "noise_sd": found.noise,
        "tables": found.findings(),
    }


def half_width(noise: float) -> float:
    """Within how many patients of the true count a noisy one lies, 95 times in 100."""
    return Z * noise


def _quantile(table: OneTable, told: Told, share: float) -> dict[str, float | None] | None:
    found = quantile(table, told, share)
    if found is None:
        return None
    value, low, high = found
    return {
        "value": value,
        "low": None if math.isinf(low) else low,
        "high": None if math.isinf(high) else high,
    }


def _promise(study: Study) -> str:
    """What a patient is promised of the tables."""
    # The accountant loads much of scipy, for seconds.
    from fedhealth.privacy.guarantee import guarantee

    mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy", does="privatise")
    if not isinstance(mechanism, PatientLevel):
        return "No noise: every number that is shown is exact, and no bound is given on what it tells of a patient."
    return str(guarantee([mechanism.event("query.table")], delta=mechanism.delta, views=[mechanism.view]))
