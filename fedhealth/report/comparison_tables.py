"""A comparison's numbers as tables: for people, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from fedhealth.report import words
from fedhealth.report.words import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Part = Mapping[str, Any]


class Cell(NamedTuple):
    """A number as a reader sees it.

    Attributes:
        text: the value, or in a word why there is none.
        beside: its interval.
        under: what else there is to say, a line each.
        is_best: whether it is told from the next best.
        is_absent: whether there is no value.
    """

    text: str
    beside: str = ""
    under: tuple[str, ...] = ()
    is_best: bool = False
    is_absent: bool = False


class Row(NamedTuple):
    """A row of a table: its name, its cells, and the heading that it stands under."""

    name: str
    cells: list[Cell]
    heading: str = ""


class Grid(NamedTuple):
    """A table: what it shows, the columns beside its rows' names, and the rows, those of one heading together."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row]


COLUMNS = (
    "label", "outcome", "runs", "mean", "low", "high", "reached", "note", "against", "difference", "difference_low",
    "difference_high", "pairs", "p", "p_holm",
)  # fmt: skip


def results(comparison: Part, names: tuple[str, ...]) -> Grid:
    """The groups' means over seeds of the named outcomes."""
    titles = tuple(comparison["outcomes"][name]["title"] for name in names)
    rows = [
        Row(group["label"], [_outcome(comparison, group, name) for name in names]) for group in comparison["groups"]
    ]
    return Grid("Means over seeds, with 95 % intervals", titles, rows)


def order(comparison: Part) -> tuple[str, ...]:
    """The outcomes that say how well patients are put in order, Harrell's C among them where there is one."""
    names = ("c_index", "union_auroc", "mean_site_auroc", "worst_site_auroc")
    return tuple(name for name in names if name in comparison["outcomes"])


def costs(comparison: Part) -> Grid:
    """What each group took, until the target and in all."""
    columns = (f"Rounds to AUROC {comparison['target']:g}", "Sent up until then", "Sent in all", "Time a round")
    rows = [
        Row(
            group["label"],
            [
                _rounds_to_target(group),
                cell(group["reach"]["bytes_up"], words.size),
                cell(group["bytes"], words.size),
                cell(group["round_s"], words.duration),
            ],
        )
        for group in comparison["groups"]
    ]
    return Grid("What it took: means over seeds, with 95 % intervals", columns, rows)


def differences(comparison: Part) -> Grid:
    """The other groups less the one that they are held against, by outcome."""
    rows = [
        Row(
            row["label"],
            [
                cell(row["difference"], signed),
                Cell(words.count(row["pairs"])),
                Cell(p_value(row["p"])),
                Cell(p_value(row["p_holm"])),
            ],
            heading=comparison["outcomes"][name]["title"],
        )
        for name, found in comparison["differences"].items()
        for row in found
    ]
    columns = ("Difference", "Pairs", "p", "Adjusted p")
    return Grid(f"Differences from {comparison['against']}, paired by seed, with 95 % intervals", columns, rows)


def cell(
    found: Part, said: Callable[[float], str] = words.decimal, *, under: tuple[str, ...] = (), is_best: bool = False
) -> Cell:
    """A measure in a table, its numbers as `said` says them."""
    m = measure(found)
    if m is None or not m.is_estimable:
        note = "" if m is None else m.note
        text = next((why for why in ("withheld", "not reached") if note.startswith(why)), "not estimable")
        more = note.removeprefix(text).lstrip(":, ")
        return Cell(text, under=(more,) if more else (), is_absent=True)
    beside = "" if found["low"] is None else f"[{said(m.low)}, {said(m.high)}]"
    return Cell(said(m.value), beside, under, is_best)


def signed(x: float) -> str:
    """A difference to three decimals; its sign stays where it rounds to nothing, for it says on which side of 0 it is."""
    return f"{x:+.3f}".replace("-", words.MINUS)


def p_value(p: float | None) -> str:
    """`0.032`, `< 0.001`, or a dash where there was no test."""
    return "< 0.001" if p is not None and p < 0.0005 else words.decimal(p)


def worst(group: Part) -> tuple[str, ...]:
    """The hospitals that are the worst at some seed, and at how many where it is not always the same."""
    sites, of = group["worst_sites"], len(group["seeds"])
    return tuple(title if n == of else f"{title}, {n} of {of}" for title, n in sites.items())


def _outcome(comparison: Part, group: Part, name: str) -> Cell:
    found = group["outcomes"][name]
    under = worst(group) if name == "worst_site_auroc" else (found["note"],) if "mean of" in found["note"] else ()
    return cell(found, under=under, is_best=comparison["best"][name] == group["label"])


def _rounds_to_target(group: Part) -> Cell:
    seeds, of = group["reach"]["seeds"], len(group["seeds"])
    found = cell(group["reach"]["rounds"], lambda rounds: words.decimal(rounds, 1))
    return found._replace(under=(f"reached by {seeds} of {of} seeds",)) if seeds and seeds < of else found


def csv_text(comparison: Part) -> str:
    """A line for each group and outcome, numbers in full; what has no value is empty, and the note says why."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for group in comparison["groups"]:
        for name, found, more in _lines(comparison, group):
            writer.writerow(
                {
                    "label": group["label"],
                    "outcome": name,
                    "runs": len(group["runs"]),
                    "mean": found["value"],
                    "low": found["low"],
                    "high": found["high"],
                    "note": found["note"],
                    **more,
                }
            )
    return text.getvalue()


def _lines(comparison: Part, group: Part) -> Iterator[tuple[str, Part, dict[str, Any]]]:
    for name, found in group["outcomes"].items():
        row = next((row for row in comparison["differences"][name] if row["label"] == group["label"]), None)
        more = {"note": "; ".join(filter(None, (found["note"], *(worst(group) if name == "worst_site_auroc" else ()))))}
        if row is not None:
            more |= {
                "against": comparison["against"],
                "difference": row["difference"]["value"],
                "difference_low": row["difference"]["low"],
                "difference_high": row["difference"]["high"],
                **{key: row[key] for key in ("pairs", "p", "p_holm")},
            }
        yield name, found, more
    for name in ("rounds", "bytes_up"):
        yield f"{name}_to_auroc_{comparison['target']:g}", group["reach"][name], {"reached": group["reach"]["seeds"]}
    for name in ("bytes", "round_s"):
        yield name, group[name], {}


def tex_text(comparison: Part) -> str:
    """A table of the groups' means in LaTeX, narrow enough for a page; the best is bold where it is told from the next."""
    names = (*order(comparison), "log_loss", "calibration_slope")
    with_c, lines = "c_index" in names, []
    for row, cost in zip(results(comparison, names).rows, costs(comparison).rows, strict=True):
        cells = [*row.cells, cost.cells[0]]
        name, _, rest = row.name.partition(" ")
        lines += [
            rf"{' & '.join([_escaped(name), *map(_tex_value, cells)])} \\",
            rf"{' & '.join([_escaped(rest), *map(_tex_beside, cells)])} \\[2pt]",
        ]
    seeds, target = comparison["seeds"], f"{comparison['target']:g}"
    over = f"Means over {len(seeds)} seeds with 95 % intervals by Student's t."
    head = [
        r"% Needs \usepackage{booktabs}. Put it into a paper with \input{compare.tex}.",
        f"% {over}" if len(seeds) > 1 else f"% One seed, {seeds[0]}: no interval.",
        "% AUROC of all hospitals' test patients together, of the mean hospital and of the worst; rounds until AUROC",
        f"% {target} on validation patients, and how many seeds reached it where not all did.",
        "% Bold: the best, where the paired interval of its difference from the next best excludes 0.",
        *(["% Harrell's C: of pairs of patients within a hospital."] if with_c else []),
        rf"\begin{{tabular}}{{l{'r' * (len(names) + 1)}}}",
        r"\toprule",
        rf"{' & Harrell' if with_c else ''} & \multicolumn{{3}}{{c}}{{AUROC}} & & Calibration & Rounds \\",
        r"\cmidrule(lr){3-5}" if with_c else r"\cmidrule(lr){2-4}",
        rf"{' & C' if with_c else ''} & together & mean & worst & Log loss & slope & to {target} \\",
        r"\midrule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_value(found: Cell) -> str:
    value = _escaped(found.text)
    if found.is_absent:
        return rf"\emph{{{value}}}"
    return rf"\textbf{{{value}}}" if found.is_best else value


def _tex_beside(found: Cell) -> str:
    reached = [line.removeprefix("reached by ") for line in found.under if line.startswith("reached by ")]
    beside = found.beside or "".join(reached)
    return rf"{{\scriptsize {_escaped(beside)}}}" if beside else ""


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", words.MINUS: "$-$", "\N{EN DASH}": "--",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
