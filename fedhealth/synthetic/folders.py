"""Hospitals written as folders: `<folder>/<name>/site.yaml`, ready to edit.

A file that is there is never written over: hand edits win.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import DataError, SettingError, did_you_mean
from fedhealth.core.manifest import MANIFEST
from fedhealth.synthetic import partition
from fedhealth.synthetic.between import check_knob
from fedhealth.synthetic.drawn import drawn_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

#: The ways to split a pooled table.
SCHEMES = ("natural", "iid", "dirichlet", "quantity", "feature")

#: Hospitals drawn at a time; more are a slip, and would fill the disk.
MOST_SITES = 10_000

# Cells that mean "no value" in the tables people share.
_MISSING = ("", "?", "NA", "NaN", "nan")


def write_sites(folder: Path, *, h: float, n: int, seed: int, size: int = 600) -> list[Path]:
    """The manifests of `n` drawn hospitals, written to `folder`.

    Hospital k is the same whatever n is. Sizes are log-normal about `size`, with a
    standard deviation of 0.7 h in the logarithm.

    Raises:
        SettingError: h is beyond its range, n is below 1 or above 10,000, or one of the files is there already.
    """
    check_knob(h)
    if not 1 <= n <= MOST_SITES:
        raise SettingError(
            f"n must be at least 1 and at most {MOST_SITES:,}, found {n:,}. Ask for one hospital or more."
        )
    names = [f"hospital-{k:02d}" for k in range(1, n + 1)]
    _check_absent(folder, names)
    return [_write(folder / name, drawn_manifest(name, h=h, seed=seed, size=size)) for name in names]


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a pooled table.

    Attributes:
        paths: the manifests written.
        columns: by part, the other columns: [n] float with NaN for missing, or [n] object with None.
        outcome: by part, [n] 1 positive, 0 negative, NaN unknown.
    """

    paths: list[Path]
    columns: dict[str, dict[str, NDArray[np.float64] | NDArray[np.object_]]]
    outcome: dict[str, NDArray[np.float64]]


def split_table(
    table: Path,
    folder: Path,
    *,
    scheme: str,
    outcome: str,
    column: str | None = None,
    parts: int = 8,
    alpha: float = 0.5,
    least: int = 10,
    seed: int = 7,
) -> Split:
    """The parts of a pooled CSV table, each written to `folder` as a hospital with its own CSV.

    Args:
        table: a CSV file with a header.
        folder: where the hospitals' folders go.
        scheme: one of `SCHEMES`.
        outcome: the outcome's column; positive above 0.
        column: the column that names the hospital, for `natural`.
        parts: how many hospitals, for all other schemes.
        alpha: concentration of `dirichlet`; spread of `quantity` is 1.
        least: rows that every hospital has at least.
        seed: names the draw.

    Raises:
        DataError: the table is missing or empty, or lacks a column.
        SettingError: an unknown scheme, an impossible split, or a folder that is there already.
    """
    if scheme not in SCHEMES:
        raise SettingError(f"a split must be by a known scheme, found {scheme!r}. {did_you_mean(scheme, SCHEMES)}")
    header, rows = _read(table)
    if scheme == "natural" and not column:
        raise SettingError("a natural split needs the column that names the hospital, found none. Add --column.")
    for needed in (outcome, *([column] if scheme == "natural" and column else [])):
        if needed not in header:
            raise DataError(f"{table} must have the column {needed!r}, found none. {did_you_mean(needed, header)}")
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    values = {name: _column(texts) for name, texts in cells.items()}
    labels = values.pop(outcome)
    if labels.dtype == object:
        raise DataError(f"the outcome {outcome!r} must be a number, found words. Name another column.")
    positive = np.where(np.isnan(labels.astype(np.float64)), np.nan, labels.astype(np.float64) > 0)
    part, names = _parts(
        scheme, cells, values, positive, column=column, parts=parts, alpha=alpha, least=least, seed=seed
    )
    _check_absent(folder, names)
    paths, columns, outcomes = [], {}, {}
    for k, name in enumerate(names):
        here = part == k
        path = _write(folder / name, _csv_manifest(name, f"Part of {table.name} ({scheme} split)"))
        _write_rows(path.parent / "patients.csv", header, [rows[i] for i in np.flatnonzero(here)])
        paths.append(path)
        columns[name] = {key: value[here] for key, value in values.items()}
        outcomes[name] = positive[here]
    return Split(paths=paths, columns=columns, outcome=outcomes)


def _parts(
    scheme: str,
    cells: Mapping[str, list[str]],
    values: Mapping[str, NDArray[np.float64] | NDArray[np.object_]],
    positive: NDArray[np.float64],
    *,
    column: str | None,
    parts: int,
    alpha: float,
    least: int,
    seed: int,
) -> tuple[NDArray[np.int64], list[str]]:
    """[n] the part of each row, and the parts' names."""
    n = len(positive)
    if scheme == "natural" and column:
        part, found = partition.natural(cells[column], least=least)
        return part, _slugs(found)
    if scheme == "iid":
        part = partition.iid(n, parts, seed=seed, least=least)
    elif scheme == "dirichlet":
        part = partition.dirichlet(np.nan_to_num(positive, nan=-1), parts, alpha=alpha, seed=seed, least=least)
    elif scheme == "quantity":
        part = partition.quantity(n, parts, seed=seed, least=least)
    else:
        numbers = [value.astype(np.float64) for value in values.values() if value.dtype != object]
        if not numbers:
            raise DataError("a feature split needs a column of numbers beside the outcome, found none. Split by iid.")
        part = partition.feature_shift(np.column_stack(numbers), parts, least=least)
    return part, [f"part-{k:02d}" for k in range(1, parts + 1)]


def _slugs(found: tuple[str, ...]) -> list[str]:
    """The values of a column as names of sites."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:60] or "unnamed" for value in found]
    doubled = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if doubled:
        raise DataError(
            f"the values of the natural column must differ in letters and digits, found {doubled[0]} twice. Rename one."
        )
    return slugs


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file."""
    if not table.is_file():
        raise DataError(f"the table must be a CSV file, found none at {table}. Correct the path.")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} must be CSV in UTF-8, found a {type(error).__name__}. Export it again.") from None
    if not rows:
        raise DataError(f"{table} must hold a header and patients, found no patient. Export the table again.")
    wrong = sum(len(row) != len(header) for row in rows)
    if wrong:
        raise DataError(f"{table}: every row must have {len(header)} cells, found {wrong} that don't. Export it again.")
    names = [name.strip() for name in header]
    # A table without a header would show its first patient wherever the names are listed.
    unfit = sum(names.count(name) > 1 or _is_number(name) for name in names)
    if unfit:
        raise DataError(
            f"{table} must begin with the names of its columns, all different and none a number, "
            f"found {unfit} that aren't. Add a header, or rename them."
        )
    return names, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(texts: list[str]) -> NDArray[np.float64] | NDArray[np.object_]:
    """[n] numbers where every cell is one or is missing, else words."""
    cells = [text.strip() for text in texts]
    try:
        return np.array([np.nan if cell in _MISSING else float(cell) for cell in cells])
    except ValueError:
        return np.array([None if cell in _MISSING else cell for cell in cells], dtype=object)


def _write_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _check_absent(folder: Path, names: list[str]) -> None:
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise SettingError(
            f"a hospital's folder is never written over, found {folder / there[0]}. "
            "Name another folder with --out, or move that one away."
        )


def _write(folder: Path, manifest: Mapping[str, Any]) -> Path:
    import yaml

    folder.mkdir(parents=True)
    path = folder / MANIFEST
    text = yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


def _csv_manifest(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "description": description,
        "policy": {"min_patients": 10, "min_cell": 5, "min_cohort": 3},
        "source": {"kind": "csv", "path": "patients.csv", "missing": list(_MISSING)},
    }
