"""The figure of a comparison: each group's C or AUROC over seeds, and its way there round by round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fedhealth.report.svg import COLOURS, Picture, canvas, house_style, picture
from fedhealth.report.words import measure, with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    Part = Mapping[str, Any]

WIDTH = 940
#: Okabe and Ito's palette, those first that the report uses; lines differ too, for who can't tell colours apart.
PALETTE = (
    COLOURS["federated"],
    COLOURS["local"],
    COLOURS["pooled"],
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    COLOURS["oracle"],
)
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
AT_HORIZON = (("union_auroc", "AUROC, all patients together"), ("worst_site_auroc", "AUROC, worst hospital"))
#: The same where patients are followed over time.
OVER_TIME = (("c_index", "Harrell's C, within hospitals"), AT_HORIZON[0])


def draw(comparison: Part) -> Picture | None:
    """Dots with intervals by group, above curves by round; None where no group has anything to show."""
    groups = comparison["groups"]
    panels = OVER_TIME if "c_index" in comparison["outcomes"] else AT_HORIZON
    shown = [m for group in groups for name, _ in panels if (m := measure(group["outcomes"][name])) and m.is_estimable]
    is_curved = has_curves(comparison)
    if not shown and not is_curved:
        return None
    lines = max(group["label"].count(" ") + 1 for group in groups)
    forest, below = 84 + len(groups) * (16 + 16 * lines), 330 + 12 * len(groups) if is_curved else 0
    with house_style():
        figure = canvas(WIDTH, forest + below)
        heights = [forest, below] if below else [forest]
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, hspace=0.1, wspace=0.04)
        for place, (name, title) in enumerate(panels):
            _forest(figure.add_subplot(grid[0, place]), groups, name, title, is_named=place == 0)
        if below:
            curves = figure.add_subplot(grid[1, :])
            _curves(curves, groups, comparison["target"])
            longest = max(len(group["label"]) for group in groups)
            figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center",
                          ncols=max(1, min(len(groups), 110 // (longest + 8))))  # fmt: skip
        name, title = panels[0]
        said = "; ".join(f"{group['label']} {_said(group, name)}" for group in groups)
        return picture(
            figure, name="compare", title=f"{comparison['title']}: groups of runs compared",
            description=f"Means over seeds with 95 % intervals: {'; '.join(title for _, title in panels)}; and mean "
            f"validation AUROC by round. {title}: {said}.",
        )  # fmt: skip


def has_curves(comparison: Part) -> bool:
    """Whether any group has a validation AUROC to draw by round."""
    return any(row["auroc"]["value"] is not None for group in comparison["groups"] for row in group["curve"])


def _forest(axes: Axes, groups: Sequence[Part], name: str, title: str, *, is_named: bool) -> None:
    """One row a group: every seed as a faint dot, their mean and its interval."""
    for y, group in enumerate(groups):
        found, colour = measure(group["outcomes"][name]), _colour(y)
        if found is None or not found.is_estimable:
            word = "withheld" if found is not None and found.note.startswith("withheld") else "not estimable"
            axes.text(0.02, y, word, transform=axes.get_yaxis_transform(), va="center", style="italic",
                      color=COLOURS["muted"])  # fmt: skip
            continue
        seeds = [run["values"][name] for run in group["runs"]]
        axes.plot(seeds, [y + 0.24] * len(seeds), "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.8)
        axes.plot([found.value], [y], "s", color=colour, markersize=7)
    axes.set_yticks([])
    if is_named:
        _names(axes, groups)
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.set_title(title, weight="bold")


def _names(axes: Axes, groups: Sequence[Part]) -> None:
    """The labels, a line for each setting."""
    for y, group in enumerate(groups):
        lines = group["label"].split(" ")
        for k, line in enumerate(lines):
            # A text for each line: matplotlib writes where a line of several begins, by a font the page may not have.
            axes.annotate(line, (0, y), (-10, 8 * (len(lines) - 1) - 16 * k), ha="right", va="center",
                          xycoords=axes.get_yaxis_transform(), textcoords="offset points")  # fmt: skip


def _curves(axes: Axes, groups: Sequence[Part], target: float) -> None:
    """The mean over seeds by round, with the band of its interval."""
    ends = []
    for k, group in enumerate(groups):
        found = [measure(row["auroc"]) for row in group["curve"]]
        value, low, high = (
            np.array([np.nan if m is None else getattr(m, end) for m in found]) for end in ("value", "low", "high")
        )
        if not np.isfinite(value).any():
            continue
        rounds = [row["round"] for row in group["curve"]]
        axes.fill_between(rounds, low, high, color=_colour(k), alpha=min(0.16, 0.4 / len(groups)), linewidth=0)
        axes.plot(
            rounds, value, color=_colour(k), linestyle=DASHES[k % len(DASHES)], label=group["label"],
            marker="o" if len(rounds) < 3 else "", markersize=5,
        )  # fmt: skip
        ends += [np.nanmin(value), np.nanmax(value)]
    if min(ends) <= target <= max(ends):
        axes.axhline(target, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
    axes.set_xlabel("Round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_title("AUROC on validation patients", weight="bold")


def _colour(k: int) -> str:
    return PALETTE[k % len(PALETTE)]


def _said(group: Part, name: str) -> str:
    found = measure(group["outcomes"][name])
    return with_interval(found) if found is not None else ""
