"""Draft: a first site.yaml for a table that nobody has described yet, with every guess marked for review.

What is guessed: which column is which feature, in which unit, what stands for "no value", which
column holds pseudonyms, and which tell too much of a person. A guess is never acted on by itself:
the file is written, and somebody reads it.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import DataError
from fedhealth.core.sensitivity import guessed
from fedhealth.core.units import SPELLINGS, spelt
from fedhealth.site import duck
from fedhealth.site.inspection import unit_doubt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.task import Task

ROWS = 10_000
DELIMITERS = ",;\t|"
#: Cells that mean "no value" in the tables people share.
NOTHING = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "-", ".")
#: What hospitals call things; a name that a spec does not have is passed over.
NICKNAMES: dict[str, tuple[str, ...]] = {
    "age": ("age_years", "admission_age", "anchor_age"),
    "albumin": ("alb",),
    "bicarbonate": ("hco3", "co2", "bicarb"),
    "bilirubin": ("bili", "tbil", "bilirubin_total", "total_bilirubin"),
    "cholesterol": ("chol",),
    "chronic_kidney_disease": ("ckd",),
    "coma_scale": ("gcs", "glasgow"),
    "creatinine": ("crea", "creat", "scr", "cr"),
    "diabetes": ("dm", "diabetic"),
    "died": ("death", "dead", "deceased", "expired", "mortality"),
    "died_in_hospital": ("died", "death", "dead", "expired", "mortality", "hospital_expire_flag", "in_hospital_death"),
    "female": ("is_female", "sex_female"),
    "glucose": ("glu", "blood_sugar", "bg"),
    "heart_failure": ("chf", "hf"),
    "heart_rate": ("hr", "pulse"),
    "hematocrit": ("hct", "haematocrit"),
    "lactate": ("lac", "lactic_acid"),
    "length_of_stay": ("los", "los_days"),
    "platelets": ("plt", "platelet_count"),
    "potassium": ("k",),
    "readmitted_30d": ("readmitted", "readmission", "readmit"),
    "respiratory_rate": ("rr", "resp", "resp_rate"),
    "sodium": ("na",),
    "systolic_bp": ("sbp", "sysbp", "systolic", "bp_systolic", "systolic_pressure"),
    "temperature": ("temp",),
    "urea_nitrogen": ("bun", "urea"),
    "urine_output": ("urine", "uo"),
    "white_cells": ("wbc", "leukocytes", "leucocytes"),
}
_ALIKE = 0.84


@dataclass(frozen=True, slots=True)
class Guess:
    """What one variable was taken to be, and why; `column` is empty where nothing looks like it."""

    variable: str
    column: str
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A hospital's first site.yaml, as text, and what it was guessed from."""

    text: str
    guesses: tuple[Guess, ...]


def drafted(table: Path, *, name: str, spec: FeatureSpec, task: Task) -> Draft:
    """The draft for a table in CSV or Parquet.

    Args:
        table: the file; its first 10,000 rows are looked at.
        name: the hospital's.
        spec: the features that a study asks for.
        task: the outcome that it asks for.

    Raises:
        DataError: there is no such table.
    """
    delimiter, columns = _read(table)
    missing = [cell for cell in NOTHING if any(cell in cells for cells in columns.values())] or [""]
    patient = _pseudonyms(columns)
    outcomes = [task.outcome, *([task.follow_up.time] if task.follow_up else [])]
    guesses, taken = [], {patient}
    for variable in (*outcomes, *spec.names):
        left = [each for each in columns if each not in taken and guessed(each) not in ("identifier", "text")]
        column, why = _column(variable, left)
        taken.add(column)
        feature = spec[variable] if variable in spec.names else None
        unit, because = _unit(feature, column, columns.get(column, ()), missing) if feature and column else ("", "")
        guesses.append(Guess(variable, column, unit, f"{why}{because}"))
    telling = {column: guessed(column) for column in columns if guessed(column) in ("identifier", "text")}
    return Draft(
        _text(table, name, delimiter, patient, missing, guesses, telling, [c for c in columns if c not in taken]),
        tuple(guesses),
    )


def _read(table: Path) -> tuple[str, dict[str, list[str]]]:
    """The delimiter, empty for Parquet, and the first rows by column, as words."""
    if not table.is_file():
        raise DataError(f"--from must name a table, found none at {table}. Correct the path.")
    if table.suffix == ".parquet":
        with duck.opened() as connection:
            names = list(duck.columns(connection, table))
            columns: dict[str, list[str]] = {each: [] for each in names}
            chosen = ", ".join(f"{duck.quoted(each)}::varchar as {duck.quoted(each)}" for each in names)
            for batch in duck.batches(connection, f"select {chosen} from {duck.reading(table)} limit {ROWS}"):
                for each, cells in batch.items():
                    columns[each] += ["" if cell is None else str(cell) for cell in cells]
            return "", columns
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            header, *rows = islice(csv.reader(file, delimiter=delimiter, strict=True), ROWS + 1)
    except ValueError as error:
        found = "nothing" if not isinstance(error, UnicodeDecodeError) else f"a {type(error).__name__}"
        raise DataError(f"{table} must be CSV in UTF-8, found {found}. Export it again.") from None
    except csv.Error as error:
        raise DataError(f"{table} must be CSV, found a {type(error).__name__}. Export it again.") from None
    names = [each.strip() for each in header]
    whole = [row for row in rows if len(row) == len(names)]
    if not whole or len(set(names)) < len(names):
        what = "no row of as many cells as the header" if not whole else "two columns of one name"
        raise DataError(f"{table} must have a header and rows, found {what}. Export it again.")
    return delimiter, {each: [row[at].strip() for row in whole] for at, each in enumerate(names)}


def _pseudonyms(columns: Mapping[str, list[str]]) -> str:
    """The column that names each row once, by a name that says so; empty for none."""
    for column, cells in columns.items():
        words = set(_words(column))
        if words & {"id", "pseudonym", "patientid", "subject", "mrn"} and len(set(cells)) == len(cells) and all(cells):
            return column
    return ""


def _column(variable: str, columns: Sequence[str]) -> tuple[str, str]:
    """The column that looks like a variable, and why; empty for none."""
    wanted = _words(variable)
    by_words = {column: _words(column) for column in columns}
    for column, words in by_words.items():
        if words == wanted:
            return column, "has its name"
    nicknames = [tuple(_words(each)) for each in NICKNAMES.get(variable, ())]
    for column, words in by_words.items():
        if tuple(words) in nicknames or tuple(_bare(words)) in (*nicknames, tuple(wanted)):
            return column, "a usual name for it"
    near = {column: SequenceMatcher(None, " ".join(wanted), " ".join(_bare(words))).ratio() for column, words in by_words.items()}  # fmt: skip
    best = max(near, key=lambda column: near[column], default="")
    return (best, "a name much like its") if best and near[best] >= _ALIKE else ("", "")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


#: The words of which units consist, as they stand in a column's name.
_UNIT_WORDS = {word for unit in (*SPELLINGS, "mmol/L", "mg/dL", "g/L", "g/dL", "umol/L", "mmHg", "kPa", "L/L", "U/L") for word in _words(unit)}  # fmt: skip


def _bare(words: list[str]) -> list[str]:
    """The words without a unit at their end."""
    while len(words) > 1 and words[-1] in _UNIT_WORDS:
        words = words[:-1]
    return words


def _unit(feature: Feature, column: str, cells: Iterable[str], missing: Sequence[str]) -> tuple[str, str]:
    """The unit of a column where it is another than the spec's, and why."""
    words = "".join(_words(column))
    for unit in sorted(feature.units, key=len, reverse=True):
        if (named := "".join(_words(spelt(unit)))) and len(named) > 1 and words.endswith(named):
            return unit, ", which names the unit"
    doubt = unit_doubt(feature, _numbers(cells, missing), feature.unit)
    return (doubt, f"; its values look like {doubt}") if doubt else ("", "")


def _numbers(cells: Iterable[str], missing: Sequence[str]) -> NDArray[np.float64]:
    found = []
    for cell in cells:
        try:
            found.append(float("nan") if cell in missing else float(cell))
        except ValueError:
            found.append(float("nan"))
    return np.array(found)


def _text(
    table: Path,
    name: str,
    delimiter: str,
    patient: str,
    missing: Sequence[str],
    guesses: Sequence[Guess],
    telling: Mapping[str, str],
    unused: Sequence[str],
) -> str:
    """The draft as YAML; whatever was guessed ends in `# review`."""
    kind = "csv" if delimiter else "parquet"
    lines = [
        f"# Drafted from {table.name}. Read each line that says review, correct it, and take the mark away;",
        "# then look at what comes of it: fedhealth site inspect-data <this folder>",
        f"name: {name}",
        f"title: {_quoted(name.replace('-', ' ').title())}  # review: the hospital's own name",
        "policy:  # review: the hospital's floors are its own decision",
        "  min_patients: 20",
        "  min_cell: 10",
        "  min_cohort: 3",
        f"folders: [{_quoted(str(table.resolve().parent))}]",
        "source:",
        f"  kind: {kind}",
        f"  path: {_quoted(str(table.resolve()))}",
    ]
    if delimiter not in ("", ","):
        lines.append(f"  delimiter: {_quoted(delimiter)}  # review")
    lines.append(f"  missing: [{', '.join(map(_quoted, missing))}]  # review: cells taken for no value")
    if patient:
        lines.append(f"  patient: {_quoted(patient)}  # review: names each row once; must be a pseudonym")
    else:
        lines.append(
            "  # review: no column of pseudonyms was found; rows are numbered, which holds only while the file does"
        )
    lines.append("codes:")
    for each in guesses:
        why = each.why or "nothing looks like it; an empty word says that the hospital has none"
        lines.append(f"  {each.variable}: {_quoted(each.column)}  # review: {why}")
    units = [each for each in guesses if each.unit]
    lines += (
        ["units:", *(f"  {each.variable}: {_quoted(each.unit)}  # review: {each.why}" for each in units)]
        if units
        else []
    )
    if telling:
        lines.append("sensitivity:  # review: these never become features")
        lines += [f"  {_quoted(column)}: {what}" for column, what in telling.items()]
    left = [column for column in unused if column not in telling]
    lines += [f"# Not used: {', '.join(left)}"] if left else []
    return "\n".join(lines) + "\n"


def _quoted(word: Any) -> str:  # noqa: ANN401 - a word or what becomes one
    """A YAML word in double quotes, whatever signs it has."""
    import json

    return json.dumps(str(word), ensure_ascii=False)
