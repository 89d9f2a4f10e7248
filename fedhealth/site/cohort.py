"""The cohort: a hospital's patients, harmonised, split, and never sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.cohort_shape import CohortShape
from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.split import PARTS
from fedhealth.governance.consent import permitted
from fedhealth.site.quality import harmonise
from fedhealth.site.sources import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec, Group
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.preprocessor import Column
    from fedhealth.core.split import Split
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.quality import QualityReport

NO_GROUP = -1


@dataclass(frozen=True, slots=True)
class Part:
    """The patients of one part of the split.

    Attributes:
        columns: by feature, harmonised, each [n]; see `core.table.Table`.
        y: [n], 1 with the event, else 0.
        groups: by grouping of the spec, the number of each patient's group, [n]; -1 for none.
    """

    columns: dict[str, Column]
    y: NDArray[np.float32]
    groups: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Cohort:
    """All usable patients of a hospital, and the part each belongs to."""

    patients: NDArray[np.str_]
    everyone: Part
    split: NDArray[np.str_]

    @classmethod
    def of(cls, table: Table, *, spec: FeatureSpec, split: Split, seed: int, site: str) -> Cohort:
        """The cohort of a harmonised table; the table's own split wins over `split`."""
        everyone = Part(
            columns=table.columns,
            y=table.outcome.astype(np.float32),
            groups={name: group_codes(group, table.columns) for name, group in spec.groups.items()},
        )
        parts = split.assign(table.patients, seed=seed, site=site) if table.split is None else table.split
        return cls(table.patients, everyone, parts)

    def part(self, name: str) -> Part:
        """The patients of one part of the split, in the table's order.

        Raises:
            SettingError: there is no such part.
        """
        if name not in PARTS:
            raise SettingError(
                f"a part of the split must have a known name, found {name!r}. {did_you_mean(name, PARTS)}"
            )
        keep = self.split == name
        return Part(
            columns={feature: column[keep] for feature, column in self.everyone.columns.items()},
            y=self.everyone.y[keep],
            groups={group: codes[keep] for group, codes in self.everyone.groups.items()},
        )

    @property
    def shape(self) -> CohortShape:
        """How many patients each part has."""
        return CohortShape(**{name: int((self.split == name).sum()) for name in PARTS})


def load_cohort(
    manifest: SiteManifest, folder: Path, *, spec: FeatureSpec, task: Task, split: Split, seed: int
) -> tuple[Cohort, QualityReport]:
    """A hospital's cohort from its own source, and the quality of what was found there.

    Consent comes first: no rule and no count ever sees a patient who did not give it.

    Raises:
        DataError: the source can't become a cohort.
        SettingError: the manifest or the spec is wrong.
    """
    source = open_source(manifest, folder)
    rows = permitted(source.rows(spec=spec, task=task, manifest=manifest, folder=folder, seed=seed))
    table, quality = harmonise(rows, spec, manifest)
    return Cohort.of(table, spec=spec, split=split, seed=seed, site=manifest.name), quality


def group_codes(group: Group, columns: dict[str, Column]) -> NDArray[np.int64]:
    """Each patient's group, [n]: its place among the levels or between the cuts, -1 where unknown.

    A value equal to a cut belongs to the group above it.

    Raises:
        SettingError: the group's column is not a feature.
    """
    if group.column not in columns:
        raise SettingError(
            f"a group's column must be a feature, found {group.column}. {did_you_mean(group.column, columns)}"
        )
    column = columns[group.column]
    if group.levels:
        words = column if column.dtype == object else [f"{value:g}" for value in column]
        places = {level: place for place, level in enumerate(group.levels)}
        return np.array([places.get(word, NO_GROUP) for word in words], dtype=np.int64)
    values = column.astype(np.float64)
    return np.where(np.isnan(values), NO_GROUP, np.searchsorted(group.cuts, values, side="right")).astype(np.int64)
