"""Records: from a mixture to patients, and from cells to the values a CSV file holds."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError
from fedhealth.core.seeds import rng_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedhealth.core.features import Feature
    from fedhealth.core.study import Study
    from fedhealth.evaluation.margins import Attribute, MarginLayout

#: Digits by which any number is written exactly.
ALL_DIGITS = 17


def drawn(layout: MarginLayout, mixture: NDArray[np.float64], n: int, *, seed: int) -> NDArray[np.int64]:
    """`n` patients as cells, [n, attributes], drawn from a mixture of `release.fit`.

    Each row of the mixture is used as often as any other, but for one time, and in every row each attribute
    is drawn by its own probabilities.
    """
    rng = rng_of(seed, purpose="release rows")
    rows = rng.permutation(np.resize(rng.permutation(len(mixture)), n))
    cells = np.empty((n, len(layout.attributes)), dtype=np.int64)
    for a, size in enumerate(layout.sizes):
        below = np.cumsum(mixture[rows, layout.starts[a] : layout.starts[a + 1]], axis=1)
        # Rounding may leave the last sum under 1.
        cells[:, a] = np.minimum((rng.random((n, 1)) * below[:, -1:] >= below).sum(axis=1), size - 1)
    return cells


def csv_text(study: Study, layout: MarginLayout, cells: NDArray[np.int64], *, seed: int) -> str:
    """The patients as CSV: a column a feature in its canonical unit, and the outcome; an empty cell has no value.

    Of a bin a value is drawn: evenly, or evenly on the logarithm where the feature's transform says so. An outermost bin
    is drawn no wider than the one beside it.
    """
    rng = rng_of(seed, purpose="release values")
    columns = [
        _values(study.features[attribute.name], attribute, cells[:, a], rng)
        for a, attribute in enumerate(layout.attributes[:-1])
    ]
    low = math.floor(study.task.positive_above)
    columns.append([str(low + int(event)) for event in cells[:, -1]])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(layout.names)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def cells_of(study: Study, layout: MarginLayout, text: str) -> NDArray[np.int64]:
    """The cells, [n, attributes], of patients that `csv_text` wrote.

    Raises:
        DataError: it is not such a text, or not of this study.
    """
    header, *rows = [*csv.reader(io.StringIO(text))] or [[]]
    if tuple(header) != layout.names or not rows or {len(row) for row in rows} != {len(header)}:
        raise DataError(
            f"a release must have the columns {', '.join(layout.names)} and as many values in each row, found another table. "
            "Give the study that it was made for."
        )
    try:
        *features, outcome = (np.array(column) for column in zip(*rows, strict=True))
        cells = [
            attribute.cells(column if attribute.levels else np.where(column == "", "nan", column).astype(np.float64))
            for attribute, column in zip(layout.attributes, features, strict=False)
        ]
        cells.append((outcome.astype(np.float64) > study.task.positive_above).astype(np.int64))
    except ValueError:
        raise DataError(
            "a release's values must be as its study has them, found a word for a number. Make it anew."
        ) from None
    return np.column_stack(cells)


def ends(feature: Feature, attribute: Attribute) -> NDArray[np.float64]:
    """[known, 2] from where to where values of each cell are drawn."""
    edges = np.array(attribute.edges)
    log = feature.transform == "log"
    scaled = np.log(edges) if log else edges
    widths = np.diff(scaled)
    first, last = (widths[0], widths[-1]) if len(widths) else (1.0, 1.0)
    outer = np.concatenate([[scaled[0] - first], scaled, [scaled[-1] + last]])
    found = np.exp(outer) if log else outer
    if feature.range is not None:
        found = np.clip(found, *feature.range)
    return np.column_stack([found[:-1], found[1:]])


def _values(feature: Feature, attribute: Attribute, cells: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """Each patient's value as text, [n]."""
    if attribute.levels:
        return [attribute.levels[cell] if cell < attribute.known else "" for cell in cells]
    if feature.kind == "binary":
        return [("0", "1", "")[cell] for cell in cells]
    # Whoever has no value is given one here as well, so that it moves nobody else's.
    bins = np.minimum(cells, attribute.known - 1)
    low, high = ends(feature, attribute)[bins].T
    # Edges half way between whole numbers say that values are whole.
    is_whole = all(edge % 1 == 0.5 for edge in attribute.edges)
    at = rng.random(len(cells))
    if is_whole:
        numbers = np.floor(np.ceil(low) + at * (np.floor(high) - np.ceil(low) + 1))
    else:
        numbers = (
            np.exp(np.log(low) + at * np.log(high / low)) if feature.transform == "log" else low + at * (high - low)
        )
    texts = [f"{number:.3g}" if number < 1000 else f"{number:.0f}" for number in numbers]
    # Where three digits would leave the bin, as many as stay in it.
    for digits in range(4, ALL_DIGITS + 1):
        for row in np.flatnonzero(attribute.cells(np.array(texts, dtype=np.float64)) != bins):
            texts[row] = f"{numbers[row]:.{digits}g}"
    return ["" if cell == attribute.known else text for cell, text in zip(cells, texts, strict=True)]
