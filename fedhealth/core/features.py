"""The feature spec: one declaration that drives reading, units, ranges, bins and words."""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise
from typing import Literal, TypeAlias

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.settings import settings
from fedhealth.core.units import spelt

#: What a column can tell of a person: who they are, what narrows it down, what must not be known,
#: what is measured, and words that may tell anything.
Sensitivity: TypeAlias = Literal["identifier", "quasi", "sensitive", "measure", "text"]


@settings
class Conversion:
    """How a value in an accepted unit becomes the canonical one: value * factor + offset."""

    factor: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.factor:
            raise SettingError("factor must not be 0, found 0. Give what a value in that unit is multiplied by.")


#: Of a unit that is the canonical one.
AS_IT_IS = Conversion(factor=1.0)


@settings
class Feature:
    """One variable that a model may see.

    `range` is what is plausible in the canonical `unit`; a value outside is bad, and
    `on_bad` says what becomes of it: `null` (missing), `clip` (to the nearer end) or
    `reject` (the whole patient is left out). `bins` are the edges used wherever a
    histogram of this feature is made. A hospital of which a `required` feature is bad or
    missing for more than a fifth of the patients takes no part.

    Where a source holds dated records and not a row a patient, `loinc`, `omop` and `snomed`
    are the codes of those that count, and `aggregate` makes one number of a patient's, within
    `window_h` hours from the beginning of the stay and never after its end. `origin` says what
    the feature is: a `record`, whether a `condition` was known by the window's end, the `age` or
    `female` sex of the person, the `stay_days`, or the `prior_stays` that began in the year before.
    A `series` has one number each `step_h` hours of the window. Features of the same records
    share the name `record`, by which a hospital gives them a code and a unit once. Of a `count`,
    unit, range and bins are the count's own.
    """

    name: str
    label: str = ""
    kind: Literal["numeric", "binary", "categorical", "series"] = "numeric"
    unit: str = ""
    units: dict[str, Conversion] = field(default_factory=dict)
    range: tuple[float, float] | None = None
    on_bad: Literal["null", "clip", "reject"] = "null"
    transform: Literal["none", "log"] = "none"
    bins: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    sensitivity: Sensitivity = "measure"
    required: bool = False
    record: str = ""
    origin: Literal["record", "condition", "age", "female", "stay_days", "prior_stays"] = "record"
    loinc: tuple[str, ...] = ()
    omop: tuple[int, ...] = ()
    snomed: tuple[str, ...] = ()
    aggregate: Literal["last", "first", "min", "max", "mean", "count"] = "last"
    window_h: tuple[float, float] = (0.0, 24.0)
    step_h: float = 1.0

    def __post_init__(self) -> None:
        if self.sensitivity in ("identifier", "text"):
            raise SettingError(
                f"feature {self.name}: a direct identifier or free text can't be a feature, found "
                f"sensitivity={self.sensitivity}. Remove the feature from the spec."
            )
        if self.range is not None and not self.range[0] < self.range[1]:
            raise SettingError(
                f"feature {self.name}: range must run from low to high, found {list(self.range)}. Swap its ends."
            )
        if self.transform == "log" and (self.range is None or self.range[0] <= 0):
            raise SettingError(
                f"feature {self.name}: transform=log needs a range above 0, found "
                f"{list(self.range) if self.range else 'none'}. Give it a positive range or transform=none."
            )
        if list(self.bins) != sorted(set(self.bins)):
            raise SettingError(
                f"feature {self.name}: bins must rise strictly, found {list(self.bins)}. Sort the edges."
            )
        if self.kind == "categorical" and (not self.levels or len(set(self.levels)) < len(self.levels)):
            raise SettingError(
                f"feature {self.name}: levels must be named where the feature is categorical, each once, found "
                f"{list(self.levels)}. List the words that may stand in its column."
            )
        words = [code for code in self.missing if not _is_number(code)]
        if words and self.kind != "categorical":
            raise SettingError(
                f"feature {self.name}: missing must list numbers where the feature is {self.kind}, found {words[0]!r}. "
                "Name such a cell under source.missing in the hospital's site.yaml."
            )
        if not self.window_h[0] < self.window_h[1]:
            raise SettingError(
                f"feature {self.name}: window_h must run from early to late, found {list(self.window_h)}. Swap its ends."
            )
        if self.step_h <= 0 or (self.kind == "series" and self.steps * self.step_h != self._hours):
            raise SettingError(
                f"feature {self.name}: step_h must divide the {self._hours:g} hours of window_h, found {self.step_h:g}. "
                "Try 1."
            )

    @property
    def steps(self) -> int:
        """How many numbers a patient has: those of a series, else one."""
        return round(self._hours / self.step_h) if self.kind == "series" else 1

    @property
    def _hours(self) -> float:
        return self.window_h[1] - self.window_h[0]

    @property
    def reads(self) -> frozenset[str]:
        """What it is read from, however it is called: its name, that of its records, their codes and its origin.

        Two features that share a word of it tell of the same records.
        """
        origin = () if self.origin in ("record", "condition") else (self.origin,)
        words = (self.name, self.record, *self.loinc, *map(str, self.omop), *self.snomed, *origin)
        return frozenset(filter(None, words))

    @property
    def title(self) -> str:
        """The label in a clinician's words, with its unit."""
        label = self.label or self.name.replace("_", " ")
        return f"{label} ({self.unit})" if self.unit else label

    def conversion(self, unit: str) -> Conversion:
        """How to bring `unit` to the canonical one, however it is spelt (`core.units`).

        Raises:
            SettingError: the spec does not know the unit.
        """
        found = spelt(unit)
        if found == spelt(self.unit):
            return AS_IT_IS
        for known, conversion in self.units.items():
            if found == spelt(known):
                return conversion
        raise SettingError(
            f"{self.name} must come in a unit the feature spec knows, found {unit!r}. "
            f"{did_you_mean(unit, [self.unit, *self.units])}"
        )


@settings
class Group:
    """A way to split patients for reporting: a column's levels, or cut points on it."""

    column: str
    label: str = ""
    cuts: tuple[float, ...] = ()
    levels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.cuts) != sorted(set(self.cuts)):
            raise SettingError(f"group of {self.column}: cuts must rise strictly, found {list(self.cuts)}. Sort them.")
        if len(set(self.titles)) < len(self.titles):
            raise SettingError(
                f"group of {self.column}: each level must have a title of its own, found {list(self.titles)}. Rename one."
            )

    @property
    def titles(self) -> tuple[str, ...]:
        """The groups in a reader's words, in the order of their numbers."""
        if self.levels:
            return tuple(self.levels.values())
        cuts = [f"{cut:g}" for cut in self.cuts]
        between = [f"{low} to under {high}" for low, high in pairwise(cuts)]
        return (f"under {cuts[0]}", *between, f"{cuts[-1]} and over") if cuts else ("all",)


@settings
class FeatureSpec:
    """All the features of a task, and the groups its results are reported by.

    `indicators` adds, for every feature, a 0/1 column that says the value was missing.
    `drop_first` leaves out the first level of each categorical feature. A hospital whose
    `schema_version` is another one takes no part: its columns mean something else.
    """

    name: str
    features: tuple[Feature, ...]
    groups: dict[str, Group] = field(default_factory=dict)
    indicators: bool = True
    drop_first: bool = False
    schema_version: int = 1

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled or not names:
            raise SettingError(
                f"features of {self.name}: each must be named once and at least one must be there, "
                f"found {'doubled ' + ', '.join(doubled) if doubled else 'none'}. Mend configs/features/{self.name}.yaml."
            )
        for group in self.groups.values():
            if group.column not in names:
                raise SettingError(
                    f"a group's column must be a feature, found {group.column}. {did_you_mean(group.column, names)}"
                )
            if self[group.column].kind == "categorical" and not group.levels:
                raise SettingError(
                    f"group of {group.column}: levels must be named where the feature is categorical, found none. "
                    "Give each level its title."
                )

        if len({feature.steps for feature in self.features if feature.kind == "series"}) > 1:
            raise SettingError(
                f"features of {self.name}: all series must have the same number of steps, found "
                f"{sorted({each.steps for each in self.features if each.kind == 'series'})}. Give them one window."
            )
        grouped = [group.column for group in self.groups.values()]
        if twice := sorted({column for column in grouped if grouped.count(column) > 1}):
            raise SettingError(
                f"features of {self.name}: a column may be grouped in one way, found two of {twice[0]}. Two ways to cut "
                "it give small groups away by their difference; keep one."
            )

    def __getitem__(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Every group of every grouping, as "grouping=title"."""
        return tuple(f"{name}={title}" for name, group in self.groups.items() for title in group.titles)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
