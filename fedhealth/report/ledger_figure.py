"""What a hospital's patients have spent, event by event, under the hospital's cap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from fedhealth.report.svg import COLOURS, canvas, house_style, picture, standalone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

WIDTH, HEIGHT = 760, 360
LINES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True, slots=True)
class Spent:
    """One cohort's line.

    Attributes:
        cohort: its name.
        events: how many events had been charged to it, at each point.
        epsilon: what they cost together; infinite from where there is no bound.
        studies: the study that had come to its end there.
        said: what all of them cost, in words, rounded up.
    """

    cohort: str
    events: Sequence[int]
    epsilon: Sequence[float]
    studies: Sequence[str]
    said: str


def spending(cohorts: Sequence[Spent], *, delta: float, cap: float | None) -> str:
    """An SVG file: epsilon by the number of events, a line a cohort; it ends where no bound holds any more."""
    with house_style():
        figure = canvas(WIDTH, HEIGHT)
        axes = figure.add_subplot()
        for k, cohort in enumerate(cohorts):
            _line(axes, k, cohort)
        if cap is not None:
            axes.axhline(cap, color=COLOURS["local"], linewidth=1.2, linestyle=(0, (3, 3)), label=f"cap, ε = {cap:g}")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Events charged")
        axes.set_ylabel(f"ε at δ = {delta:g}, a patient with all records")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right")
        return standalone(
            picture(figure, name="ledger", title="What patients have spent", description="; ".join(map(_said, cohorts)))
        )


def _line(axes: Axes, k: int, spent: Spent) -> None:
    bounded = [
        (n, e, s) for n, e, s in zip(spent.events, spent.epsilon, spent.studies, strict=True) if math.isfinite(e)
    ]
    n, epsilon = [0, *(point[0] for point in bounded)], [0.0, *(point[1] for point in bounded)]
    axes.plot(n, epsilon, color=COLOURS["federated"], linestyle=LINES[k % len(LINES)], marker="o", markersize=4,
              label=spent.cohort)  # fmt: skip
    if len(bounded) < len(spent.events):
        axes.plot(n[-1:], epsilon[-1:], "x", color=COLOURS["local"], markersize=9, markeredgewidth=2,
                  label=f"{spent.cohort}: no bound from here on")  # fmt: skip
    for (at, value, study), after in zip(bounded, [*(point[2] for point in bounded[1:]), ""], strict=True):
        if study != after:
            axes.annotate(study, (at, value), (-4, 6), textcoords="offset points", ha="right", color=COLOURS["muted"])


def _said(spent: Spent) -> str:
    return f"{spent.cohort}: {spent.events[-1] if spent.events else 0} events, {spent.said}"
