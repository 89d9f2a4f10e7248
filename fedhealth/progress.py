"""What a person sees while a study runs, and the table at its end."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedhealth.core.measure import Measure
from fedhealth.report.many import MANY, WORST, below, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedhealth.report.comparison_tables import Cell, Grid

WHO = (("local", "alone"), ("federated", "federated"), ("pooled", "pooled"), ("oracle", "best possible"))

#: A round names so many that failed.
NAMED = 5

#: Output that is no terminal has no width of its own.
WIDTH = 100


def console() -> Console:
    """Standard output, at a fixed width where it is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


@contextmanager
def rounds_shown(title: str, planned: int, hospitals: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function to call with each round's row: a live bar on a terminal, else plain lines."""
    out = console()
    out.print(f"[bold]{escape(title)}[/]: {hospitals} hospitals, {planned} rounds")
    if not out.is_terminal:
        yield lambda row: out.print(_line(row, planned), highlight=False, markup=False)
        return
    columns = (
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[found]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("rounds", total=planned, found="")

        def show(row: dict[str, Any]) -> None:
            bar.update(task, completed=row["round"], found=f"{row['answered']} hospitals  AUROC {_value(row)}")
            for said in _failures(row["failed"]):
                bar.console.print(f"round {row['round']}: {said}", highlight=False, markup=False)

        yield show


def result_table(report: Mapping[str, Any]) -> Table:
    """The AUROC of every hospital, alone and together, with 95 % intervals; under masks only together."""
    is_masked = bool(report.get("masking"))
    whose = "all hospitals'" if is_masked else "each hospital's own"
    shown = [(who, title) for who, title in WHO if any(row["who"] == who for row in report["comparison"])]
    at = f" at {report['follow_up']['horizon']}" if report.get("follow_up") else ""
    table = Table(
        title=f"AUROC{at} on {whose} test patients, with the federation's 95 % interval{_which(report, is_masked=is_masked)}",
        title_justify="left",
        box=None,
    )
    table.add_column("" if is_masked else "hospital")
    table.add_column("" if is_masked else "test patients", justify="right")
    for _, title in shown:
        table.add_column(title, justify="right")
    everyone = [] if is_masked else report["sites"]
    for site in worst(everyone):
        patients = "withheld" if site["test"] is None else f"{site['test']:,}"
        table.add_row(escape(site["title"]), patients, *(_cell(site[who], who) for who, _ in shown))
    by_who = {row["who"]: row for row in report["comparison"]}
    table.add_section()
    if len(everyone) > MANY:
        table.add_row(
            f"of {len(everyone):,} hospitals, 5 % lie below", "", *(_band(everyone, who, 0.05) for who, _ in shown)
        )
        table.add_row("half lie below", "", *(_band(everyone, who, 0.5) for who, _ in shown))
        table.add_row("95 % lie below", "", *(_band(everyone, who, 0.95) for who, _ in shown))
    if not is_masked:
        table.add_row(
            "mean of hospitals", "", *(_cell(by_who[who]["mean_site_auroc"], who) for who, _ in shown), style="bold"
        )
    table.add_row(
        "all patients together", "", *(_cell(by_who[who]["union_auroc"], who) for who, _ in shown), style="bold"
    )
    if at:
        found = [_cell((report["union"].get(who) or {}).get("c_index"), who) for who, _ in shown]
        table.add_row("Harrell's C, within hospitals", "", *found, style="bold")
    return table


def _which(report: Mapping[str, Any], *, is_masked: bool) -> str:
    return f"; the {WORST} hospitals that fare worst" if not is_masked and len(report["sites"]) > MANY else ""


def _band(sites: list[dict[str, Any]], who: str, share: float) -> str:
    found = below(sites, who, share)
    return "–" if found is None else f"{found:.3f}"


def _failures(failed: list[dict[str, str]]) -> list[str]:
    """Who failed and why, a few by name."""
    said = [f"{failure['site']} {failure['reason']}" for failure in failed[:NAMED]]
    return said + ([f"and {len(failed) - NAMED:,} more hospitals failed"] if len(failed) > NAMED else [])


def grid_table(grid: Grid) -> Table:
    """A table of a comparison; what is told from the next best is bold."""
    table = Table(title=escape(grid.title), title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for column in grid.columns:
        table.add_column(column, justify="right")
    for heading, rows in groupby(grid.rows, key=lambda row: row.heading):
        if heading:
            table.add_row(Text(heading, style="bold"))
        for row in rows:
            name = row.name.replace(" ", "\n")
            table.add_row(Text(indent(name, "  ") if heading else name), *(_shown(cell) for cell in row.cells))
    return table


def _shown(cell: Cell) -> Text:
    shown = Text(" ".join(filter(None, (cell.text, cell.beside))), style="bold" if cell.is_best else "")
    return shown.append("".join(f"\n{line}" for line in cell.under), style="not bold")


def _line(row: dict[str, Any], planned: int) -> str:
    failed = "".join(f"; {said}" for said in _failures(row["failed"]))
    return f"round {row['round']:>3}/{planned}  {row['answered']} hospitals  AUROC {_auroc(row)}{failed}"


def _auroc(row: dict[str, Any]) -> str:
    return str(Measure.from_json(row["auroc"]))


def _value(row: dict[str, Any]) -> str:
    measure = Measure.from_json(row["auroc"])
    return f"{measure.value:.3f}" if measure.is_estimable else "not estimable"


def _cell(found: dict[str, Any] | None, who: str) -> str:
    """A measure; with its interval for the federation alone, so that a row fits a terminal."""
    if found is None:
        return "–"
    measure = Measure.from_json(found)
    if measure.note.startswith("withheld"):
        return "withheld"
    if not measure.is_estimable:
        return "not estimable"
    return str(measure).replace(" [", " \\[") if who == "federated" else f"{measure.value:.3f}"
