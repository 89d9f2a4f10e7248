"""Tables: how many patients have what, as sums over hospitals, and what follows from the sums.

    a hospital:   columns, outcome, follow-up ─answer→ one vector for all tables of a study
    coordinator:  Σ vectors ─read→ Told ─moments, quantile, independence, kaplan_meier, log_rank→ numbers

A table has a row for each bin or level of its first column and a cell for each of the second.
A patient without a value in either is in none of them and is counted as missing. Where times
to an event are told they are the second column, for each patient the first declared time that
is not before the event or the end of follow-up.

Without noise every number is whole: also the sums behind a mean and a variance, to each of which
a patient adds a value rounded to 2^-50 of the feature's range, or its exact square, sent as whole numbers. So
the sum over hospitals is the pooled one, under masks as well, and does not depend on any order.

A hospital withholds the whole row in which a count is below its floor, and as many others as it
takes that it does not follow from the number of patients (`evaluation.disclosure`). How many
hospitals withheld a row is told beside it. A row or a column of nobody is no small count.

With noise nothing is withheld, and the vector is in units of how far one patient can move it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.features import Group
from fedhealth.core.span import Span
from fedhealth.core.task import days_in
from fedhealth.evaluation.disclosure import withheld

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.core.features import Feature
    from fedhealth.core.preprocessor import Column, Columns
    from fedhealth.core.study import Study

#: Who has no value.
NOBODY = -1
#: A patient's value is a whole multiple of 2^-FINE, and of every whole number the low word holds LOW_BITS bits.
FINE, LOW_BITS = 50, 32
#: A square is whole too: that of the upper half of a value's bits, the product of both halves, and that of the lower.
HALF = FINE // 2
SUMS = ("sum", "upper squares", "products", "lower squares")
#: How much a patient adds at most to the squares of noisy sums: a cell, and with moments (v - 1/2)^2 and its square.
CELL, WITH_MOMENTS = 1.0, 1.0 + 1 / 4 + 1 / 16
#: Into how many equal parts the horizon is cut where no times are declared.
PARTS_OF_HORIZON = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """One column of patients, cut into cells.

    Attributes:
        column: its name.
        title: in a reader's words.
        labels: of its cells, in order.
        kind: how values become cells: by `cuts`, by `levels`, by the outcome, or by `cuts` in days and the outcome.
        cuts: between bins, of which the upper one holds the cut; of follow-up the last days of the intervals.
        levels: the words, or of a binary feature the numbers.
    """

    column: str
    title: str
    labels: tuple[str, ...]
    kind: Literal["bins", "levels", "outcome", "follow-up"]
    cuts: tuple[float, ...] = ()
    levels: tuple[str | float, ...] = ()

    def codes(self, columns: Columns, y: NDArray[np.float32], days: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """[n] each patient's cell, or `NOBODY`."""
        if self.kind == "outcome":
            happened: NDArray[np.int64] = (y == 1).astype(np.int64)
            return happened
        if self.kind == "follow-up":
            if days is None:
                raise DataError("a table over time needs times, found a cohort without. Give the task a follow_up.")
            interval: NDArray[np.int64] = np.searchsorted(self.cuts, days, side="left").astype(np.int64)
            last = len(self.labels) - 1
            within: NDArray[np.int64] = np.minimum(2 * interval + (y != 1), last)
            return within
        column = columns[self.column]
        if self.kind == "levels":
            found = np.full(len(column), NOBODY, dtype=np.int64)
            for place, level in enumerate(self.levels):
                found[column == level] = place
            return found
        values = column.astype(np.float64)
        return np.where(np.isnan(values), NOBODY, np.searchsorted(self.cuts, values, side="right")).astype(np.int64)


@dataclass(frozen=True, slots=True)
class OneTable:
    """The shape of one table.

    Attributes:
        rows: its first column; None where all patients are one row.
        beside: its second; None where a row has one cell.
        range: of a numeric feature that stands alone, within which its mean and variance are told; None for none.
    """

    rows: Axis | None
    beside: Axis | None
    range: tuple[float, float] | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Its columns."""
        return tuple(axis for axis in (self.rows, self.beside) if axis is not None)

    @property
    def column(self) -> str:
        """The column that its rows are of; of follow-up alone, that."""
        return self.axes[0].column

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and cells of a row."""
        return (len(self.rows.labels) if self.rows else 1, len(self.beside.labels) if self.beside else 1)

    @property
    def is_over_time(self) -> bool:
        """Whether the cells of a row are times to an event."""
        return self.beside is not None and self.beside.kind == "follow-up"

    @property
    def title(self) -> str:
        """In a reader's words."""
        return " by ".join(axis.title for axis in self.axes)

    def holds_few(
        self, columns: Columns, y: NDArray[np.float32], days: NDArray[np.float64] | None, *, floor: int
    ) -> bool:
        """Whether of a row some patients, but fewer than the floor, have no value in the column beside.

        They are in no cell, so the row is shown; whoever knows how many it is of knows them. It sees patients, and runs
        at a hospital.
        """
        if self.rows is None or self.beside is None:
            return False
        row, cell = (axis.codes(columns, y, days) for axis in (self.rows, self.beside))
        without = np.bincount(row[(row != NOBODY) & (cell == NOBODY)])
        return bool(np.any((without > 0) & (without < floor)))


@dataclass(frozen=True, slots=True)
class Told:
    """What hospitals told of one table, added up.

    Attributes:
        counts: [rows, cells] patients; with noise real numbers.
        missing: patients without a value.
        withholding: [rows + 1] how many hospitals withheld each row, and the missing.
        known: patients behind the two sums.
        total: the sum of (value - low) / (high - low).
        squares: the sum of its squares.
        silent: how many hospitals withheld the two sums.
    """

    counts: NDArray[np.float64]
    missing: float
    withholding: NDArray[np.int64]
    known: float = 0.0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    silent: int = 0


@dataclass(frozen=True, slots=True)
class TableLayout:
    """What stands where in the vector that answers a study of tables, the same at every hospital."""

    tables: tuple[OneTable, ...]
    is_noisy: bool

    @classmethod
    def of(cls, study: Study) -> TableLayout:
        """The layout of a study.

        Raises:
            SettingError: it asks for no table, or for one that its features don't declare.
        """
        tables = tuple(_table(study, columns) for columns in study.tabulation.tables)
        if not tables:
            raise SettingError(
                "a study of tables must name one, found none. Name features: fedhealth stats --features."
            )
        if study.tabulation.times and not any(table.is_over_time for table in tables):
            follow_up = study.task.follow_up
            remedy = (
                f"Ask for {follow_up.time} too, or leave" if follow_up else "This task follows nobody over time: leave"
            )
            raise SettingError(
                f"times are those of a table over time, found {len(study.tabulation.times)} and no such table. {remedy} "
                "the times out."
            )
        rows = [table.column for table in tables]
        if twice := sorted({column for column in rows if rows.count(column) > 1}):
            raise SettingError(
                f"a column may be the rows of one table, found two of {twice[0]}. What one withholds the other would give "
                "away; ask for one of them."
            )
        is_noisy = study.score_bins is not None
        columns = {axis.column for table in tables for axis in table.axes if axis.column in study.features.names}
        for one, other in combinations(sorted(columns), 2):
            if not is_noisy and study.features[one].reads & study.features[other].reads:
                raise SettingError(
                    f"without noise a record may stand in one column, found {one} and {other} of the same. What "
                    "their tables differ by can be few patients; ask for one of them, or with --epsilon."
                )
        return cls(tables, is_noisy)

    def spans(self) -> tuple[Span, ...]:
        """What stands in the vector."""
        if self.is_noisy:
            return (Span("tables", sum(map(_noisy_size, self.tables))),)
        return tuple(span for number, table in enumerate(self.tables) for span in _spans(number, table))

    @property
    def width(self) -> int:
        """The length of the vector."""
        return sum(span.size for span in self.spans())

    @property
    def reach(self) -> float:
        """How far one patient moves the noisy vector at most, in L2 and in patients, before it is divided by this."""
        return math.sqrt(sum(WITH_MOMENTS if table.range else CELL for table in self.tables))

    def answer(
        self, columns: Columns, y: NDArray[np.float32], days: NDArray[np.float64] | None, *, min_cell: int
    ) -> NDArray[np.float64]:
        """[width] one hospital's vector; it sees patients, and runs there.

        Args:
            columns: harmonised, each [n].
            y: [n], 1 with the event, else 0.
            days: [n] to the event or the end of follow-up.
            min_cell: a row with a count below is withheld, nobody too where the row holds somebody; where there
                is noise, or it is 1, none is.
        """
        pieces = []
        for table in self.tables:
            counts, missing, beside = _counted(table, columns, y, days)
            values = None if table.range is None else _places(columns[table.column], table.range)
            if self.is_noisy:
                sums = [] if values is None else [math.fsum(values - 0.5), math.fsum((values - 0.5) ** 2)]
                pieces.append(np.array([*counts.ravel(), missing, *sums]) / self.reach)
            else:
                pieces.append(_told(counts, missing, beside, values, min_cell))
        return np.concatenate(pieces)

    def read(self, total: NDArray[np.float64]) -> tuple[Told, ...]:
        """What a sum of such vectors says, by table.

        Raises:
            DataError: it has another length.
        """
        if total.shape != (self.width,):
            raise DataError(
                f"tables must be {self.width} numbers, found shape {list(total.shape)}. Give every hospital the same study."
            )
        sizes = [_noisy_size(table) if self.is_noisy else _size(table) for table in self.tables]
        pieces = np.split(total, np.cumsum(sizes)[:-1])
        read = self._noisy if self.is_noisy else _exact
        return tuple(read(table, piece) for table, piece in zip(self.tables, pieces, strict=True))

    def _noisy(self, table: OneTable, piece: NDArray[np.float64]) -> Told:
        rows, cells = table.shape
        found = piece * self.reach
        counts, missing = found[: rows * cells].reshape(rows, cells), float(found[rows * cells])
        told = Told(counts, missing, np.zeros(rows + 1, dtype=np.int64))
        if table.range is None:
            return told
        known = max(float(counts.sum()), 0.0)
        from_middle, squares = (Fraction(float(value)) for value in found[rows * cells + 1 :])
        n = Fraction(known)
        # What was summed is v less a half, and that squared.
        total = from_middle + n / 2
        return Told(counts, missing, told.withholding, known, total, squares + total - n / 4)


@dataclass(frozen=True, slots=True)
class Moments:
    """A feature's mean and variance (of the population, divided by n), in its unit."""

    n: float
    mean: float
    variance: float


def moments(table: OneTable, told: Told) -> Moments | None:
    """The mean and variance of the feature; None where there are none, or nobody is behind them."""
    if table.range is None or told.known < 1:
        return None
    low, high = map(Fraction, table.range)
    n = Fraction(told.known)
    mean = told.total / n
    variance = max(told.squares / n - mean**2, Fraction(0))
    return Moments(told.known, float(low + (high - low) * mean), float((high - low) ** 2 * variance))


def quantile(table: OneTable, told: Told, share: float) -> tuple[float | None, float, float] | None:
    """A quantile read from the bins, and the edges of its bin; None where nobody is counted or there are no bins.

    Within a bin values are taken to be spread evenly. In an open bin there is no value but its edges.
    """
    if table.rows is None or table.beside is not None or table.rows.kind != "bins":
        return None
    counts = np.maximum(told.counts[:, 0], 0.0)
    if not counts.sum():
        return None
    low, high = table.range or (-math.inf, math.inf)
    edges = [low, *table.rows.cuts, high]
    through = np.cumsum(counts)
    place = min(int(np.searchsorted(through, share * through[-1], side="left")), len(counts) - 1)
    left, right = edges[place], edges[place + 1]
    if math.isinf(left) or math.isinf(right):
        return None, left, right
    within = (share * through[-1] - (through[place] - counts[place])) / counts[place]
    return left + (right - left) * float(within), left, right


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """A statistic that under the null hypothesis is chi-squared, its degrees of freedom and its p-value."""

    statistic: float
    freedom: int
    p: float

    @classmethod
    def of(cls, statistic: float, freedom: int) -> ChiSquared:
        """The test of a statistic."""
        from scipy.special import chdtrc  # a third of a second, for studies of tables alone

        return cls(statistic, freedom, float(chdtrc(freedom, statistic)))


def independence(counts: NDArray[np.float64]) -> ChiSquared | None:
    """Pearson's test that rows and columns are independent, without correction; None where one of them is lone."""
    used = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    freedom = (used.shape[0] - 1) * (used.shape[1] - 1)
    if freedom < 1:
        return None
    expected = used.sum(axis=1, keepdims=True) * used.sum(axis=0) / used.sum()
    return ChiSquared.of(float(((used - expected) ** 2 / expected).sum()), freedom)


def kaplan_meier(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """[times, 4] at each declared time: at risk, events, the share without event, and its standard error (Greenwood).

    The product-limit estimate (Kaplan and Meier 1958, doi:10.1080/01621459.1958.10501452) of times rounded
    up to the next declared one; who was lost at a time was at risk then.

    Args:
        row: [2 times + 1] events and losses by interval, and who was followed past the last.
    """
    events, at_risk = _risk(row)
    d, n = np.maximum(events, 0.0), np.maximum(at_risk, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        alive = np.cumprod(np.where(n > 0, 1 - np.minimum(d / n, 1.0), 1.0))
        growth = np.cumsum(np.where(n > d, d / (n * (n - d)), 0.0))
    return np.column_stack([at_risk, events, alive, alive * np.sqrt(growth)])


def log_rank(counts: NDArray[np.float64]) -> ChiSquared | None:
    """The log-rank test that all rows have one hazard (Mantel 1966; Peto and Peto 1972, doi:10.2307/2344317).

    None where fewer than two rows hold patients, or nobody had an event.

    Args:
        counts: [rows, 2 times + 1] as of `kaplan_meier`.
    """
    used = counts[counts.sum(axis=1) > 0]
    if len(used) < 2:
        return None
    each = [_risk(row) for row in used]
    d, n = (np.array(part) for part in zip(*each, strict=True))  # [rows, times] both
    deaths, at_risk = d.sum(axis=0), n.sum(axis=0)
    happened = deaths > 0
    d, n, deaths, at_risk = d[:, happened], n[:, happened], deaths[happened], at_risk[happened]
    share = n / at_risk
    beyond = (d - deaths * share).sum(axis=1)
    factor = deaths * (at_risk - deaths) / np.maximum(at_risk - 1, 1.0)
    spread = np.diag((factor * share).sum(axis=1)) - (factor * share) @ share.T
    freedom = int(np.linalg.matrix_rank(spread, hermitian=True))
    if freedom < 1:
        return None
    return ChiSquared.of(float(beyond @ np.linalg.pinv(spread, hermitian=True) @ beyond), freedom)


def _risk(row: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[times] events, and who was at risk."""
    gone = row[:-1].reshape(-1, 2)
    at_risk = row.sum() - np.concatenate([[0.0], np.cumsum(gone.sum(axis=1))[:-1]])
    return gone[:, 0], at_risk


def _counted(
    table: OneTable, columns: Columns, y: NDArray[np.float32], days: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """[rows, cells] patients, who has no value, and [cells] those of them who have one in the second column alone."""
    rows, cells = table.shape
    row = np.zeros(len(y), dtype=np.int64) if table.rows is None else table.rows.codes(columns, y, days)
    cell = np.zeros(len(y), dtype=np.int64) if table.beside is None else table.beside.codes(columns, y, days)
    is_known = (row != NOBODY) & (cell != NOBODY)
    counts = np.bincount(row[is_known] * cells + cell[is_known], minlength=rows * cells).reshape(rows, cells)
    beside = np.bincount(cell[(row == NOBODY) & (cell != NOBODY)], minlength=cells)
    return counts, int(np.count_nonzero(~is_known)), beside if table.beside else np.zeros(1, dtype=np.int64)


def _told(
    counts: NDArray[np.int64],
    missing: int,
    beside: NDArray[np.int64],
    values: NDArray[np.float64] | None,
    floor: int,
) -> NDArray[np.float64]:
    """A hospital's piece of the vector without noise, floors kept."""
    hidden = _hidden(counts, missing, beside, floor)
    shown = np.where(hidden[:-1, None], 0, counts)
    numbers = [*shown.ravel().tolist(), 0 if hidden[-1] else missing, *hidden.tolist()]
    if values is not None:
        is_silent = _is_silent(values, hidden, floor)
        told = [0] * (1 + 2 * len(SUMS)) if is_silent else [len(values), *_whole(values)]
        numbers += [int(is_silent), *told]
    return np.array(numbers, dtype=np.float64)


def _is_silent(values: NDArray[np.float64], hidden: NDArray[np.bool_], floor: int) -> bool:
    """Whether a hospital withholds the two sums: they would tell of fewer patients than the floor, or of a withheld row.

    Their number is everybody's less the missing, so with those they keep silent. Where all but a few lie at an end of
    the range, the sum counts these few. And where values are few, the number and the two sums are three equations for
    how many have each, beside one from every row that is shown: enough to work out the rows that are not.
    """
    is_few = any(0 < np.count_nonzero(among) < floor for among in (values >= 0, values > 0, values < 1))
    equations = 3 + int(np.count_nonzero(~hidden[:-1]))
    return bool(hidden[-1]) or bool(is_few) or (bool(hidden.any()) and len(np.unique(values)) < equations + floor)


def _hidden(counts: NDArray[np.int64], missing: int, beside: NDArray[np.int64], floor: int) -> NDArray[np.bool_]:
    """[rows + 1] which rows, and whether the missing, a hospital withholds; with a floor of 1 none.

    Another table beside the same column tells its totals, and those less the rows are the missing's own cells.
    """
    if floor <= 1:
        return np.zeros(len(counts) + 1, dtype=np.bool_)
    is_live = counts.sum(axis=0) > 0
    live = counts[:, is_live]
    names = [f"{place:09d}" for place in range(len(counts) + 1)]
    sizes = {name: (*row, sum(row)) for name, row in zip(names, live.tolist(), strict=False) if sum(row)}
    own = [name for name, row in sizes.items() if min(row) < floor]
    if missing:
        sizes[names[-1]] = (*beside[is_live].tolist(), missing)
        is_few = beside.any() and beside[is_live | (beside > 0)].min() < floor
        own += [names[-1]] if missing < floor or is_few else []
    found = withheld(sizes, own, floor=floor)
    return np.array([name in found for name in names])


def _whole(values: NDArray[np.float64]) -> list[int]:
    """The sums of values from 0 to 1 and of their squares, each as high and low words that add up by themselves."""
    whole = np.rint(values * 2.0**FINE).astype(np.int64)
    upper, lower = whole >> HALF, whole & (2**HALF - 1)
    words = [(each >> LOW_BITS, each & (2**LOW_BITS - 1)) for each in (whole, upper**2, upper * lower, lower**2)]
    return [int(word.sum()) for pair in words for word in pair]


def _exact(table: OneTable, piece: NDArray[np.float64]) -> Told:
    rows, cells = table.shape
    counts, missing, flags, sums = np.split(piece, np.cumsum([rows * cells, 1, rows + 1]))
    told = Told(counts.reshape(rows, cells), float(missing[0]), flags.astype(np.int64))
    if table.range is None:
        return told
    silent, known, *words = (int(number) for number in sums)
    whole, upper, both, lower = ((high << LOW_BITS) + low for high, low in zip(words[::2], words[1::2], strict=True))
    squares = (upper << FINE) + (both << HALF + 1) + lower
    total = Fraction(whole, 2**FINE)
    return Told(told.counts, told.missing, told.withholding, known, total, Fraction(squares, 4**FINE), silent)


def _spans(number: int, table: OneTable) -> list[Span]:
    rows, cells = table.shape
    found = [
        Span(f"table {number} patients", rows * cells + 1, is_whole=True),
        Span(f"table {number} withheld", rows + 1, power=0, is_whole=True),
    ]
    if table.range is not None:
        high, low = 2.0 ** (FINE - LOW_BITS), 2.0**LOW_BITS
        found += [
            Span(f"table {number} silent", 1, power=0, is_whole=True),
            Span(f"table {number} values", 1, is_whole=True),
            *(
                Span(f"table {number} {what} {word}", 1, each, is_whole=True)
                for what in SUMS
                for word, each in (("high", high), ("low", low))
            ),
        ]
    return found


def _size(table: OneTable) -> int:
    return sum(span.size for span in _spans(0, table))


def _noisy_size(table: OneTable) -> int:
    rows, cells = table.shape
    return rows * cells + 1 + (0 if table.range is None else 2)


def _places(column: Column, range_: tuple[float, float]) -> NDArray[np.float64]:
    """Where the known values lie in their range, from 0 to 1."""
    values = column.astype(np.float64)
    low, high = range_
    return np.clip((values[~np.isnan(values)] - low) / (high - low), 0.0, 1.0)


def _table(study: Study, columns: tuple[str, ...]) -> OneTable:
    axes = [_axis(study, column) for column in columns]
    over_time = [axis for axis in axes if axis.kind == "follow-up"]
    if over_time:
        others = [axis for axis in axes if axis.kind != "follow-up"]
        if any(axis.kind == "outcome" for axis in others):
            raise SettingError(
                f"a table over time tells the outcome already, found {columns[0]} by {columns[1]}. Leave one out."
            )
        return OneTable(others[0] if others else None, over_time[0])
    if len(axes) == 2:
        return OneTable(axes[0], axes[1])
    numeric = columns[0] in study.features.names and study.features[columns[0]].kind == "numeric"
    return OneTable(axes[0], None, study.features[columns[0]].range if numeric else None)


def _axis(study: Study, column: str) -> Axis:
    """A column of the study as cells.

    Raises:
        SettingError: the study has no such column, or a numeric one without bins.
    """
    task, follow_up = study.task, study.task.follow_up
    if column == task.outcome and follow_up is None:
        return Axis(column, task.title, (task.negative_label, task.positive_label), "outcome")
    if follow_up is not None and column == follow_up.time:
        steps = range(1, PARTS_OF_HORIZON + 1)
        times = study.tabulation.times or tuple(follow_up.horizon * step / PARTS_OF_HORIZON for step in steps)
        labels = [f"{what} by {time:g}" for time in times for what in (task.positive_label, "lost")]
        cuts = tuple(time * days_in(follow_up.unit) for time in times)
        title = f"{task.title}, in {follow_up.unit}"
        return Axis(column, title, (*labels, f"followed past {times[-1]:g}"), "follow-up", cuts)
    if column not in study.features.names:
        times_ = [] if follow_up is None else [follow_up.time]
        outcome = [task.outcome] if follow_up is None else []
        raise SettingError(
            f"a table must be of the study's columns, found {column}. "
            f"{did_you_mean(column, [*study.features.names, *outcome, *times_])}"
        )
    return _of_feature(study.features[column])


def _of_feature(feature: Feature) -> Axis:
    if feature.kind == "categorical":
        return Axis(feature.name, feature.title, feature.levels, "levels", levels=feature.levels)
    if feature.kind == "binary":
        return Axis(feature.name, feature.title, ("no", "yes"), "levels", levels=(0.0, 1.0))
    if feature.kind == "series":
        raise SettingError(
            f"a table must be of one value a patient, found {feature.name}, which is a series. Ask for another feature."
        )
    if not feature.bins:
        raise SettingError(
            f"a table of numbers must have bins, found none of {feature.name}. Declare bins in the feature spec."
        )
    cut = Group(column=feature.name, cuts=feature.bins)
    return Axis(feature.name, feature.title, cut.titles, "bins", feature.bins)
