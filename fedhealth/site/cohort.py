"""The cohort: a hospital's patients, harmonised, split, and never sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.cohort_shape import CohortShape
from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.split import PARTS
from fedhealth.governance.consent import permitted
from fedhealth.site.quality import check_fit, check_schema, harmonise
from fedhealth.site.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec, Group
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.preprocessor import Column, Columns, Preprocessor
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.split import Split
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.quality import QualityReport

NO_GROUP = -1
#: How alike two words are at least where one is taken for the other, misspelt; "soduim" and "sodium" are to 0.83.
ALIKE = 0.8


@dataclass(frozen=True, slots=True)
class Part:
    """The patients of one part of the split.

    Attributes:
        columns: by feature, harmonised, each [n]; see `core.table.Table`.
        y: [n], 1 with the event, else 0.
        groups: by grouping of the spec, the number of each patient's group, [n]; -1 for none.
        days: [n] until the event or the end of follow-up; None where the task has none.
    """

    columns: Columns
    y: NDArray[np.float32]
    groups: dict[str, NDArray[np.int64]]
    days: NDArray[np.float64] | None = None
    _matrix: list[tuple[Preprocessor, NDArray[np.float32]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.y)

    def matrix(self, preprocessor: Preprocessor) -> NDArray[np.float32]:
        """The patients as a model reads them, [n, width]; kept, since a study asks every round. Not to be written to."""
        if isinstance(self.columns, _Chosen):
            return self.columns.matrix(preprocessor)
        if not (self._matrix and _are_alike(self._matrix[0][0], preprocessor)):
            self._matrix[:] = [(preprocessor, preprocessor.apply(self.columns))]
        return self._matrix[0][1]

    @property
    def outcome(self) -> Outcome:
        """What a model learns from: `y`, or where there is follow-up [n, 3] event, days and stratum 0."""
        return self.y if self.days is None else np.column_stack([self.y, self.days, np.zeros(len(self))])


@dataclass(slots=True)
class _Whole:
    """The columns that the parts of a split are cut from, and their rows: one pass over the columns makes all parts'."""

    columns: Columns
    split: NDArray[np.int8]
    _made: tuple[Preprocessor, list[NDArray[np.float32]]] | None = field(default=None, init=False)

    def matrix(self, preprocessor: Preprocessor, place: int) -> NDArray[np.float32]:
        """[m, width] the rows of the part at this place in `PARTS`."""
        if self._made is None or not _are_alike(self._made[0], preprocessor):
            rows = preprocessor.apply(self.columns)
            self._made = preprocessor, [rows[self.split == each] for each in range(len(PARTS))]
        return self._made[1][place]


def _are_alike(one: Preprocessor, other: Preprocessor) -> bool:
    # The same object, nearly always; to compare two takes a tenth as long as to make the rows of 200 patients.
    return one is other or one == other


@dataclass(frozen=True, slots=True)
class _Chosen(Mapping[str, "Column"]):
    """Columns of the patients of one part, [m] each, cut out when they are asked for: a study reads them in its first round."""

    whole: _Whole
    place: int

    def __getitem__(self, name: str) -> Column:
        found: Column = self.whole.columns[name][self.whole.split == self.place]
        return found

    def __contains__(self, name: object) -> bool:
        # What a mapping does by itself would cut the column out to see whether it can.
        return name in self.whole.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole.columns)

    def __len__(self) -> int:
        return len(self.whole.columns)

    def matrix(self, preprocessor: Preprocessor) -> NDArray[np.float32]:
        """[m, width] the patients as a model reads them."""
        return self.whole.matrix(preprocessor, self.place)


@dataclass(frozen=True, slots=True)
class Cohort:
    """All usable patients of a hospital, and the part each belongs to.

    Attributes:
        patients: [n] their pseudonyms.
        everyone: the patients.
        split: [n] the place in `PARTS` of each one's part; -1 for none.
    """

    patients: NDArray[np.str_]
    everyone: Part
    split: NDArray[np.int8]
    _parts: dict[str, Part] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, table: Table, *, spec: FeatureSpec, split: Split, seed: int, site: str) -> Cohort:
        """The cohort of a harmonised table; the table's own split wins over `split`."""
        everyone = Part(
            columns=table.columns,
            y=table.outcome.astype(np.float32),
            groups={name: group_codes(group, table.columns) for name, group in spec.groups.items()},
            days=table.days,
        )
        if table.split is None:
            return cls(table.patients, everyone, split.places(table.patients, seed=seed, site=site))
        places = np.full(len(table.split), -1, dtype=np.int8)
        for place, name in enumerate(PARTS):
            places[table.split == name] = place
        return cls(table.patients, everyone, places)

    def inside(self, name: str) -> NDArray[np.bool_]:
        """[n] whether the patient is of that part of the split."""
        return self.split == PARTS.index(name)  # type: ignore[no-any-return]

    def part(self, name: str) -> Part:
        """The patients of one part of the split, in the table's order.

        Raises:
            SettingError: there is no such part.
        """
        if not self._parts:
            whole = _Whole(self.everyone.columns, self.split)
            self._parts.update({each: self._cut(whole, place) for place, each in enumerate(PARTS)})
        if name not in self._parts:
            raise SettingError(
                f"a part of the split must have a known name, found {name!r}. {did_you_mean(name, PARTS)}"
            )
        return self._parts[name]

    def _cut(self, whole: _Whole, place: int) -> Part:
        keep = self.split == place
        return Part(
            columns=_Chosen(whole, place),
            y=self.everyone.y[keep],
            groups={group: codes[keep] for group, codes in self.everyone.groups.items()},
            days=None if self.everyone.days is None else self.everyone.days[keep],
        )

    @property
    def size_bytes(self) -> int:
        """About what the cohort takes once a study has used it: with its parts, and their rows as a model reads them."""
        columns = sum(column.nbytes for column in self.everyone.columns.values())
        beside = self.patients.nbytes + self.split.nbytes + sum(codes.nbytes for codes in self.everyone.groups.values())
        # The rows that a model reads are float32, half the columns; the objects around all of it take some 20 kB.
        return columns + columns // 2 + beside + 20_000

    @property
    def shape(self) -> CohortShape:
        """How many patients each part has."""
        return CohortShape(**{name: int(np.count_nonzero(self.inside(name))) for name in PARTS})


def load_cohort(
    manifest: SiteManifest, folder: Path, *, spec: FeatureSpec, task: Task, split: Split, seed: int
) -> tuple[Cohort, QualityReport]:
    """A hospital's cohort from its own source, and the quality of what was found there.

    Consent comes first: no rule and no count ever sees a patient who did not give it.

    Raises:
        DataError: the source can't become a cohort.
        Refused: the data is of another version of the spec, or too much of a required feature is bad.
        SettingError: the manifest or the spec is wrong.
    """
    check_schema(spec, manifest)
    _check_spelling(manifest, spec, task)
    source = open_source(manifest, folder)
    rows = permitted(source.rows(spec=spec, task=task, manifest=manifest, folder=folder, seed=seed))
    table, quality = harmonise(rows, spec, manifest)
    check_fit(quality, spec, manifest)
    return Cohort.of(table, spec=spec, split=split, seed=seed, site=manifest.name), quality


def _check_spelling(manifest: SiteManifest, spec: FeatureSpec, task: Task) -> None:
    """Refuse a name under `units` or `codes` that is a feature's, misspelt: its unit would silently be another.

    A hospital serves several studies, so a name that this one does not know may belong to
    another. It counts as misspelt only where a feature that is nearly so spelt goes unnamed.
    """
    times = () if task.follow_up is None else (task.follow_up.time,)
    records = tuple({feature.record for feature in spec.features if feature.record})
    blocks = {
        "units": (manifest.units, (*spec.names, *records, *times)),
        "codes": (manifest.codes, (*spec.names, *records, task.outcome, *times)),
    }
    for block, (named, known) in blocks.items():
        free = [name for name in known if name not in named]
        for found in named:
            meant = [name for name in free if found not in known and _is_misspelt(found, name)]
            if meant:
                raise SettingError(
                    f"{manifest.name}: a name under `{block}` must be a feature's, found {found!r}, which this study does "
                    f"not have. {did_you_mean(found.lower(), free)} If it is another study's, name {meant[0]} beside it."
                )


def _is_misspelt(found: str, name: str) -> bool:
    """Whether the names have the same words but for slips in long ones.

    A word more, a short word or a number makes another name: max_heart_rate, troponin_i, hour_2. So does a
    word within a word: male, female.
    """
    ours, theirs = (re.findall(r"[^\W\d_]+|\d+", text.lower()) for text in (found, name))
    if len(ours) != len(theirs):
        return "".join(ours) == "".join(theirs)
    return all(
        a == b
        or (
            min(len(a), len(b)) > 3
            and not (abs(len(a) - len(b)) > 1 and (a.endswith(b) or b.endswith(a)))
            and SequenceMatcher(None, a, b).ratio() >= ALIKE
        )
        for a, b in zip(ours, theirs, strict=True)
    )


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
        places = {level: place for place, level in enumerate(group.levels)}
        if column.dtype == object:
            return np.array([places.get(word, NO_GROUP) for word in column], dtype=np.int64)
        different, which = np.unique(column, return_inverse=True)
        return np.array([places.get(f"{value:g}", NO_GROUP) for value in different.tolist()], dtype=np.int64)[which]
    values = column.astype(np.float64)
    return np.where(np.isnan(values), NO_GROUP, np.searchsorted(group.cuts, values, side="right")).astype(np.int64)
