from __future__ import annotations

from rich.console import Console

from fedhealth.core.measure import Measure
from fedhealth.progress import grid_table, result_table
from fedhealth.report.comparison_tables import Cell, Grid, Row


def shown(grid: Grid) -> list[str]:
    console = Console(width=100, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(grid_table(grid))
    return [line.strip() for line in capture.get().splitlines()]


def test_a_label_with_a_list_in_it_is_shown_as_it_is():
    grid = Grid(
        "From sites=[oak,elm]", ("AUROC",), [Row("sites=[oak,elm] rounds=2", [Cell("0.700", "[0.600, 0.800]")])]
    )
    lines = shown(grid)
    assert lines[0] == "From sites=[oak,elm]"
    assert lines[2].split("  ") == ["sites=[oak,elm]", "0.700 [0.600, 0.800]"]
    assert lines[3] == "rounds=2"


def test_rows_stand_under_their_heading_once():
    rows = [Row(name, [Cell("1")], heading) for heading in ("Log loss", "Slope") for name in ("a", "b")]
    assert [line.split()[0] for line in shown(Grid("t", ("n",), rows))[2:]] == ["Log", "a", "b", "Slope", "a", "b"]


def test_what_else_there_is_to_say_stands_beneath_the_number():
    lines = shown(Grid("t", ("AUROC",), [Row("a", [Cell("0.7", under=("Oak, 2 of 3", "Elm, 1 of 3"))])]))
    assert lines[-2:] == ["Oak, 2 of 3", "Elm, 1 of 3"]


def test_of_a_thousand_hospitals_the_ten_that_fare_worst_and_how_all_lie_are_shown():
    def auroc(value):
        return Measure(value).to_json()

    sites = [{"title": f"H{i}", "test": 50, "federated": auroc(i / 1000)} for i in range(999, -1, -1)]
    total = {"who": "federated", "mean_site_auroc": auroc(0.5), "union_auroc": auroc(0.5)}
    console = Console(width=100, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(result_table({"sites": sites, "comparison": [total], "masking": None}))
    lines = [line.split() for line in capture.get().splitlines()]
    assert [line[0] for line in lines if line and line[0][0] == "H" and line[0][1:].isdigit()] == [
        f"H{i}" for i in range(10)
    ]
    assert [line[-1] for line in lines if "below" in line] == ["0.050", "0.500", "0.950"]
