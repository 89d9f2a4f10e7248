"""A comparison as files: a page, its figure, and its numbers as JSON, CSV and LaTeX."""

from __future__ import annotations

import json
from itertools import count as counter
from typing import TYPE_CHECKING, Any

from fedhealth.report import comparison_figure, comparison_tables, words
from fedhealth.report.page import templates
from fedhealth.report.run_groups import typed
from fedhealth.report.svg import standalone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedhealth.report.svg import Picture

    Part = Mapping[str, Any]


def write(comparison: Part, folder: Path) -> list[Path]:
    """Write compare.html, .svg, .tex, .csv and .json into the folder, and say where; .svg where there is a figure.

    The same comparison gives the same bytes under the same version of matplotlib.
    """
    drawn = comparison_figure.draw(comparison)
    texts = {
        "html": html(comparison, drawn),
        "svg": standalone(drawn) if drawn else "",
        "tex": comparison_tables.tex_text(comparison),
        "csv": comparison_tables.csv_text(comparison),
        "json": json.dumps(comparison, indent=1, allow_nan=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / f"compare.{kind}": text for kind, text in texts.items() if text}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(written)


def html(comparison: Part, drawn: Picture | None) -> str:
    """The page as text, with its figure."""
    found = templates()
    found.filters.update(typed=typed, rounds_listed=words.rounds_listed)
    numbers = {"table": counter(1)}
    return found.get_template("comparison.html.j2").render(
        comparison=comparison,
        seeds=words.rounds_listed(comparison["seeds"]),
        target=f"{comparison['target']:g}",
        finding=finding(comparison),
        picture=drawn,
        has_curves=comparison_figure.has_curves(comparison),
        areas=comparison_tables.results(comparison, comparison_tables.order(comparison)),
        losses=comparison_tables.results(comparison, ("log_loss", "calibration_slope")),
        differences=comparison_tables.differences(comparison),
        costs=comparison_tables.costs(comparison),
        next_of=lambda kind: next(numbers[kind]),
    )


def finding(comparison: Part) -> str:
    """What the comparison found, in one or two sentences written from its numbers alone."""
    first = comparison_tables.order(comparison)[0]
    what = "Harrell’s C within hospitals" if first == "c_index" else "AUROC on all test patients together"
    found = [
        (m.value, group["label"], words.with_interval(m))
        for group in comparison["groups"]
        if (m := words.measure(group["outcomes"][first])) is not None and m.is_estimable
    ]
    over, mean = (
        f"Over {words.counted(len(comparison['seeds']), 'seed')}",
        "mean " if len(comparison["seeds"]) > 1 else "",
    )
    if not found:
        return f"{over}, no group of runs has {what}."
    _, label, said = max(found)
    if len(comparison["groups"]) == 1:
        return f"{over}, {label} reaches {what}, {said}."
    lead = f"{over}, {label} has the highest {mean}{what}, {said}"
    if len(found) < len(comparison["groups"]):
        return f"{lead}, of the groups that have one."
    if len(comparison["seeds"]) == 1:
        return f"{lead}. One seed says nothing of whether another would agree."
    if comparison["best"][first] == label:
        return f"{lead}. These seeds tell it from the next best: the paired interval of their difference excludes 0."
    return f"{lead}. These seeds do not tell it from the next best."
