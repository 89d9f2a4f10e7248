"""The figures of the report, each from the report's own part; None where there is nothing to draw."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from fedhealth.core.shared_out import shared_out
from fedhealth.evaluation.heterogeneity import MOST_PAIRED
from fedhealth.report import many
from fedhealth.report.svg import COLOURS, Picture, canvas, house_style, picture
from fedhealth.report.words import count, decimal, measure, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fedhealth.core.measure import Measure

    Part = Mapping[str, Any]

#: Two figures of this width stand side by side on a wide screen; one of the other fills it.
HALF, WHOLE = 460, 940
#: More variables than this make the figure of variables too tall to read.
MOST_VARIABLES = 24
LINES = {"local": (0, (1, 1.2)), "federated": "solid", "pooled": (0, (5, 2)), "oracle": (0, (2, 2))}
NAMES = {"local": "Alone", "federated": "Federated", "pooled": "Pooled", "oracle": "Oracle"}


def draw(report: Part) -> dict[str, Picture]:
    """Every figure that the report has the numbers for, by name."""
    study = report["study"]
    union = report.get("union") or {}
    curves = {who: found for who, found in (report.get("curves") or {}).items() if found}
    difference = report.get("heterogeneity") or {}
    makers: dict[str, Callable[[], Picture | None]] = {
        "convergence": lambda: convergence(report.get("rounds") or [], study.get("best_round")),
        "losses": lambda: losses(report.get("rounds") or [], study.get("best_round")),
        "comparison": lambda: comparison(report.get("comparison") or []),
        "forest": lambda: forest(
            many.worst(report["sites"]), (union.get("federated") or {}).get("auroc"), report["sites"]
        ),
        "roc": lambda: roc(curves, union),
        "pr": lambda: precision_recall(curves, union),
        "reliability": lambda: reliability(curves),
        "decision": lambda: decision(curves),
        "icc": lambda: icc(difference.get("rows") or [], difference.get("icc_outcome")),
        "distance": lambda: distance(difference.get("site_distance")),
        "cohorts": lambda: cohorts(report.get("masking") or {}),
        "stages": lambda: stages(report.get("masking") or {}),
    }
    with house_style():
        drawn = shared_out(lambda name: makers[name](), list(makers), processes=min(os.cpu_count() or 1, 2), least=1)
    return {name: found for name, found in zip(makers, drawn, strict=True) if found is not None}


def convergence(rounds: Sequence[Part], best_round: int | None) -> Picture | None:
    """AUROC by round with its 95 % band; a cross on the axis where a hospital failed."""
    k, (value, low, high) = _numbers(rounds), _bands(rounds, "auroc")
    if not np.isfinite(value).any():
        return None
    figure = canvas(HALF, 330)
    axes = figure.add_subplot()
    axes.fill_between(k, low, high, color=COLOURS["federated"], alpha=0.18, linewidth=0)
    _line(axes, k, value, "federated", label="AUROC, 95 % interval")
    failed = [row["round"] for row in rounds if row.get("failed")]
    if failed:
        on_axis = blended_transform_factory(axes.transData, axes.transAxes)
        axes.plot(
            failed, [0.035] * len(failed), "x", color=COLOURS["local"], markersize=6, markeredgewidth=1.8,
            transform=on_axis, label="a hospital failed",
        )  # fmt: skip
    _best(axes, best_round, k)
    _by_round(axes, "AUROC, validation patients")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.06))
    last = value[np.isfinite(value)][-1]
    return picture(
        figure, name="convergence", title="AUROC by round",
        description=f"AUROC on validation patients after each of {len(rounds)} rounds, last {decimal(last)}; "
        f"the shaded band is the 95 % interval. Rounds in which a hospital failed: {len(failed)}.",
    )  # fmt: skip


def losses(rounds: Sequence[Part], best_round: int | None) -> Picture | None:
    """Training loss and validation log loss by round."""
    k, (value, low, high) = _numbers(rounds), _bands(rounds, "log_loss")
    train = _array([row.get("train_loss") for row in rounds])
    if not (np.isfinite(value).any() or np.isfinite(train).any()):
        return None
    figure = canvas(HALF, 330)
    axes = figure.add_subplot()
    if np.isfinite(value).any():
        axes.fill_between(k, low, high, color=COLOURS["federated"], alpha=0.18, linewidth=0)
        _line(axes, k, value, "federated", label="validation log loss")
    if np.isfinite(train).any():
        _line(axes, k, train, "oracle", label="training loss")
    _best(axes, best_round, k)
    _by_round(axes, "Loss, nats per patient")
    axes.legend(loc="upper right")
    return picture(
        figure, name="losses", title="Loss by round",
        description="Training loss and log loss on validation patients after each round.",
    )  # fmt: skip


def comparison(rows: Sequence[Part]) -> Picture | None:
    """One row a way of training: union, mean over hospitals and worst hospital on one axis."""
    found = [
        (row, measure(row.get("union_auroc")), measure(row.get("mean_site_auroc")),
         measure((row.get("worst_site") or {}).get("auroc")))
        for row in rows
    ]  # fmt: skip
    drawn = [m for _, *measures in found for m in measures if m is not None and m.is_estimable]
    if not drawn or len(rows) < 2:
        return None
    figure = canvas(WHOLE, 92 + 38 * len(rows))
    axes = figure.add_subplot()
    for y, (row, union, mean, worst) in enumerate(found):
        colour = COLOURS.get(row["who"], COLOURS["ink"])
        _dot(axes, union, y - 0.13, colour, "D", filled=True)
        _dot(axes, mean, y + 0.13, colour, "o", filled=False)
        _dot(axes, worst, y + 0.13, colour, "v", filled=False, bars=False)
    axes.set_yticks(range(len(rows)), [str(row["label"]) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("AUROC")
    axes.grid(axis="x")
    keys = [
        ("D", COLOURS["muted"], "all hospitals\N{RIGHT SINGLE QUOTATION MARK} test patients together"),
        ("o", COLOURS["paper"], "mean over hospitals"),
        ("v", COLOURS["paper"], "worst hospital"),
    ]
    shown = [
        any(m is not None and m.is_estimable for m in column) for column in zip(*(m for _, *m in found), strict=True)
    ]
    figure.legend(
        handles=[
            Line2D([], [], linestyle="", marker=m, color=COLOURS["muted"], markerfacecolor=f, markersize=7, label=t)
            for (m, f, t), is_shown in zip(keys, shown, strict=True)
            if is_shown
        ],
        loc="outside upper left", ncols=3, columnspacing=1.6, handletextpad=0.3,
    )  # fmt: skip
    said = "; ".join(f"{row['label']}: {with_interval(union)}" for row, union, *_ in found if union is not None)
    return picture(figure, name="comparison", title="AUROC by way of training", description=f"Union AUROC. {said}.")


def cohorts(masking: Part) -> Picture | None:
    """How many hospitals each round's sum is of, above the fewest that it may be of."""
    rows = masking.get("rounds") or []
    if not rows:
        return None
    figure = canvas(HALF, 300)
    axes = figure.add_subplot()
    hospitals = _array([row["hospitals"] for row in rows])
    axes.step(_numbers(rows), hospitals, where="mid", color=COLOURS["federated"], label="in the sum")
    axes.axhline(masking["min_cohort"], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1, label="at least")
    axes.set_ylim(0, float(hospitals.max()) * 1.15)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _by_round(axes, "Hospitals")
    axes.legend(loc="lower right")
    return picture(
        figure, name="cohorts", title="Hospitals in each sum",
        description=f"Hospitals whose update is in a round's sum, from {hospitals.min():.0f} to {hospitals.max():.0f}; "
        f"at least {masking['min_cohort']} must be.",
    )  # fmt: skip


def stages(masking: Part) -> Picture | None:
    """Seconds that a question spends in each exchange, the hospitals' own work among the first."""
    rows = [row for row in masking.get("stages") or [] if row["questions"]]
    if not rows:
        return None
    figure = canvas(HALF, 300)
    axes = figure.add_subplot()
    each = [row["took_s"] / row["questions"] for row in rows]
    axes.barh(range(len(rows)), each, height=0.6, color=COLOURS["federated"])
    axes.set_yticks(range(len(rows)), [str(row["stage"]) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Seconds a question")
    axes.grid(axis="x")
    said = ", ".join(f"{row['stage']} {decimal(s)}" for row, s in zip(rows, each, strict=True))
    return picture(
        figure, name="stages", title="Seconds by exchange", description=f"Mean seconds of a question: {said}."
    )


def forest(sites: Sequence[Part], union: Part | None, everyone: Sequence[Part] | None = None) -> Picture | None:
    """One row a hospital, best federated AUROC first, and the union, of `everyone` where there are more, as a diamond."""
    rows = sorted(
        ((site, measure(site.get("federated"))) for site in sites if site.get("shared", True)),
        key=lambda row: (-row[1].value if row[1] is not None and row[1].is_estimable else 1.0, row[0]["title"]),
    )
    withheld = [site for site in sites if not site.get("shared", True)]
    together = measure(union)
    drawn = [m for row in rows for who in NAMES if (m := measure(row[0].get(who))) is not None and m.is_estimable]
    if not drawn:
        return None
    row_height, above, below = (27 if len(sites) <= 20 else 22), 38, 46
    n = len(sites) + (together is not None)
    height = above + below + row_height * n
    figure = canvas(WHOLE, height, constrained=False)
    left, right = 0.435, 0.825
    axes = figure.add_axes((left, below / height, right - left, row_height * n / height))
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xlim(*_range([*drawn, *([together] if together is not None else [])]))
    beside = blended_transform_factory(figure.transFigure, axes.transData)

    def words(
        x: float, y: float, text: str, *, ha: str = "left", weight: str = "normal", color: str = COLOURS["ink"],
        style: str = "normal",
    ) -> None:  # fmt: skip
        axes.text(x, y, text, transform=beside, va="center", ha=ha, weight=weight, color=color, style=style)

    worst = next((site for site, found in reversed(rows) if found is not None and found.is_estimable), None)
    for y, (site, found) in enumerate(rows):
        weight = "bold" if site is worst and len(rows) > 1 else "normal"
        words(0.0, y, _cut(site["title"], 38), weight=weight)
        words(0.345, y, count(site.get("test")), ha="right")
        words(0.41, y, count(site.get("events")), ha="right")
        _beside(words, y, found, weight)
        _dot(axes, measure(site.get("local")), y + 0.17, COLOURS["local"], "o", filled=False, size=5.5)
        _dot(axes, found, y - 0.1, COLOURS["federated"], "s", filled=True, size=_weight_size(site, sites))
        oracle = measure(site.get("oracle"))
        if oracle is not None and oracle.is_estimable:
            axes.plot([oracle.value] * 2, [y - 0.36, y + 0.36], color=COLOURS["oracle"], linewidth=2.2)
    for y, site in enumerate(withheld, start=len(rows)):
        words(0.0, y, _cut(site["title"], 38))
        words(1.0, y, "withheld by policy", ha="right", color=COLOURS["muted"], style="italic")
    if together is not None:
        y = len(sites)
        axes.axhline(y - 0.5, color=COLOURS["muted"], linewidth=0.8, xmin=-left / (right - left), clip_on=False)
        words(0.0, y, "All hospitals together", weight="bold")
        for x, key in ((0.345, "test"), (0.41, "events")):
            shown = [site[key] for site in everyone or sites if site.get(key) is not None]
            words(x, y, count(sum(shown) if len(shown) == len(everyone or sites) else None), ha="right", weight="bold")
        words(1.0, y, _said(together), ha="right", weight="bold")
        if together.is_estimable:
            _diamond(axes, together, y)
            axes.axvline(together.value, color=COLOURS["federated"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
    for x, text, how in (
        (0.0, "Hospital", "left"), (0.345, "Test patients", "right"), (0.41, "Events", "right"),
        (1.0, "Federated AUROC", "right"),
    ):  # fmt: skip
        words(x, -0.5 - 14 / row_height, text, ha=how, color=COLOURS["muted"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("AUROC on the hospital\N{RIGHT SINGLE QUOTATION MARK}s own test patients")
    _forest_key(axes, sites, above / (row_height * n))
    said = f", lowest at {worst['title']}" if worst is not None and len(rows) > 1 else ""
    return picture(
        figure, name="forest", title="AUROC by hospital",
        description=f"Forest plot of the AUROC at {len(rows)} hospitals{said}. "
        f"All hospitals together: {_said(together)}.",
    )  # fmt: skip


def roc(curves: Part, union: Part) -> Picture | None:
    """Sensitivity against 1 - specificity."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    if not _curves(axes, curves, "roc", "x", "y", _areas(union, "auroc")):
        return None
    axes.set(xlabel="1 \N{MINUS SIGN} specificity", ylabel="Sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right", title="AUROC", alignment="left")
    return picture(
        figure, name="roc", title="Receiver operating characteristic",
        description="Sensitivity against 1 minus specificity on all test patients; the dashed diagonal is chance.",
    )  # fmt: skip


def precision_recall(curves: Part, union: Part) -> Picture | None:
    """Precision against recall, with the prevalence as chance."""
    figure, axes = _square()
    if not _curves(axes, curves, "pr", "x", "y", _areas(union, "auprc")):
        return None
    x, y = _pair((curves.get("federated") or {}).get("pr"), "x", "y")
    if len(x) and x[-1] > 0.999:
        axes.axhline(y[-1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    axes.set(xlabel="Recall (sensitivity)", ylabel="Precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="upper right", title="AUPRC", alignment="left")
    return picture(
        figure, name="pr", title="Precision and recall",
        description="Precision against recall on all test patients; the dashed line is the share of events.",
    )  # fmt: skip


def reliability(curves: Part) -> Picture | None:
    """Observed share of events against predicted risk, above how many patients stand there."""
    part = (curves.get("federated") or {}).get("reliability") or {}
    x, y = _pair(part, "predicted", "observed")
    if not np.isfinite(y).any():
        return None
    n = _array(part.get("n") or [None] * len(x))
    figure = canvas(HALF, 440)
    axes, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (4.2, 1), "hspace": 0.02})
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    low, high = (_array(part.get(key) or [None] * len(x)) for key in ("low", "high"))
    axes.vlines(x, low, high, color=COLOURS["federated"], linewidth=1.4)
    axes.plot(x, y, "o-", color=COLOURS["federated"], linewidth=1.2, markersize=5.5)
    # A little above 1, so that a point there is drawn whole.
    top = float(min(1.03, np.nanmax(np.concatenate([x, y, high])) * 1.06))
    axes.set(ylabel="Observed share of events", ylim=(-0.01 * top, top), xlim=(-0.01 * top, top))
    axes.grid()
    if np.isfinite(n).any():
        width = 0.8 * float(np.min(np.diff(np.sort(x)))) if len(x) > 1 else 0.05
        lower.bar(x, n, width=max(width, 0.006 * top), color=COLOURS["federated"], alpha=0.55)
        lower.set_ylabel("Patients")
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        lower.set_xlabel("Predicted risk")
    else:
        lower.remove()
        axes.set_xlabel("Predicted risk")
    return picture(
        figure, name="reliability", title="Reliability diagram",
        description="Observed share of events against predicted risk, with 95 % intervals and the number of patients "
        "at each predicted risk; the dashed diagonal is perfect calibration.",
    )  # fmt: skip


def decision(curves: Part) -> Picture | None:
    """Net benefit against the threshold, with treating all and treating nobody."""
    figure = canvas(HALF, 440)
    axes = figure.add_subplot()
    first = (curves.get("federated") or {}).get("decision") or {}
    x, everyone = _pair(first, "threshold", "all")
    _, model = _pair(first, "threshold", "model")
    if not np.isfinite(model).any():
        return None
    _curves(axes, curves, "decision", "threshold", "model")
    axes.plot(x, everyone, color=COLOURS["muted"], linewidth=1.3, linestyle=(0, (3, 3)), label="Treat all")
    axes.axhline(0, color=COLOURS["ink"], linewidth=1.0, label="Treat nobody")
    # Where acting helps nobody, the axis still needs a height.
    top = max(float(np.nanmax(np.concatenate([model, everyone]))), 0.01)
    axes.set(xlabel="Threshold probability", ylabel="Net benefit", ylim=(-0.18 * top, 1.08 * top))
    axes.set_xlim(0, float(x[-1]))
    axes.grid()
    axes.legend(loc="upper right")
    return picture(
        figure, name="decision", title="Decision curve",
        description="Net benefit of acting on the model at each threshold probability, against treating everyone "
        "and treating nobody.",
    )  # fmt: skip


def icc(rows: Sequence[Part], outcome: float | None) -> Picture | None:
    """How much of each variable's variance lies between hospitals: its values, and whether it was measured."""
    found = [row for row in rows if row.get("icc_value") is not None or row.get("icc_missing") is not None]
    if not found:
        return None
    found = sorted(found, key=lambda row: -max(row.get("icc_value") or 0, row.get("icc_missing") or 0))[:MOST_VARIABLES]
    figure = canvas(HALF, 96 + 21 * len(found))
    axes = figure.add_subplot()
    y = np.arange(len(found))
    for shift, key, who, label in (
        (-0.19, "icc_value", "federated", "values"),
        (0.19, "icc_missing", "local", "missingness"),
    ):
        axes.barh(y + shift, _array([row.get(key) for row in found]), height=0.36, color=COLOURS[who], label=label)
    if outcome is not None:
        axes.axvline(outcome, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 3)), label="outcome")
    axes.set_yticks(y, [_cut(row.get("label") or row["feature"], 26) for row in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Intraclass correlation by hospital")
    axes.grid(axis="x")
    # matplotlib would put the line before the bars.
    keys = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda key: isinstance(key[0], Line2D))
    handles, labels = zip(*keys, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.2)
    return picture(
        figure, name="icc", title="Between-hospital share of variance by variable",
        description="; ".join(f"{row.get('label') or row['feature']}: values {decimal(row.get('icc_value'))}, "
                              f"missingness {decimal(row.get('icc_missing'))}" for row in found) + ".",
    )  # fmt: skip


def distance(part: Part | None) -> Picture | None:
    """The distance of every two hospitals as a heat map; the numbers where they fit."""
    if not part or not 2 <= len(part.get("names") or []) <= MOST_PAIRED:
        return None
    names, matrix = part["names"], np.array([_array(row) for row in part["matrix"]])
    most = np.nanmax(matrix) if np.isfinite(matrix).any() else 0.0
    if not most > 0:
        return None
    figure = canvas(HALF, 380)
    axes = figure.add_subplot()
    # The blue is the same everywhere and only its opacity says how far, so it reads on light and dark paper.
    tint = np.zeros((*matrix.shape, 4))
    tint[..., :3] = np.array([0x2F, 0x86, 0xC8]) / 255
    tint[..., 3] = np.nan_to_num(matrix / most) * 0.85
    axes.imshow(tint, interpolation="none")
    small = 11 if len(names) <= 12 else 7.5
    axes.set_xticks(range(len(names)), [str(k) for k in range(1, len(names) + 1)], fontsize=small)
    axes.set_yticks(range(len(names)), [f"{_cut(name, 22)}  {k}" for k, name in enumerate(names, 1)], fontsize=small)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= 10:
        for i, j in np.ndindex(*matrix.shape):
            if i != j:
                axes.text(j, i, decimal(float(matrix[i, j]), 2), ha="center", va="center", fontsize=10)
    return picture(
        figure, name="distance", title="Distance between hospitals",
        description=f"Heat map of the distance between every two of {len(names)} hospitals, from 0 to {decimal(most, 2)}; "
        "darker is farther.",
    )  # fmt: skip


def _numbers(rounds: Sequence[Part]) -> NDArray[np.float64]:
    return _array([row["round"] for row in rounds])


def _bands(rounds: Sequence[Part], key: str) -> tuple[NDArray[np.float64], ...]:
    found = [measure(row.get(key)) for row in rounds]
    return tuple(_array([None if m is None else getattr(m, end) for m in found]) for end in ("value", "low", "high"))


def _array(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Floats, with NaN where there is none."""
    return np.array([np.nan if x is None else x for x in values], dtype=np.float64)


def _areas(union: Part, name: str) -> dict[str, Measure | None]:
    return {who: measure((found or {}).get(name)) for who, found in union.items()}


def _pair(part: Part | None, x: str, y: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    part = part or {}
    return _array(part.get(x) or []), _array(part.get(y) or [])


def _line(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], who: str, *, label: str, zorder: float = 2
) -> None:
    marker = "o" if len(x) < 3 else ""
    axes.plot(x, y, color=COLOURS[who], linestyle=LINES[who], label=label, marker=marker, markersize=5, zorder=zorder)


def _best(axes: Axes, best_round: int | None, k: NDArray[np.float64]) -> None:
    if best_round is not None and best_round in k:
        axes.axvline(
            best_round, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), zorder=0,
            label=f"round {best_round}, kept",
        )  # fmt: skip


def _by_round(axes: Axes, label: str) -> None:
    axes.set_xlabel("Round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")


def _square() -> tuple[Any, Axes]:
    figure = canvas(HALF, 430)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.grid()
    return figure, axes


def _curves(
    axes: Axes, curves: Part, kind: str, x: str, y: str, values: Mapping[str, Measure | None] | None = None,
) -> bool:  # fmt: skip
    """Draw one line a way of training, the federated model on top, its area in the key; whether there was any."""
    drawn = False
    for depth, who in enumerate(("federated", "pooled", "local", "oracle")):
        across, up = _pair((curves.get(who) or {}).get(kind), x, y)
        if np.isfinite(up).any():
            found = (values or {}).get(who)
            label = NAMES[who] + (f", {decimal(found.value)}" if found is not None and found.is_estimable else "")
            _line(axes, across, up, who, label=label, zorder=3 - 0.1 * depth)
            drawn = True
    return drawn


def _dot(
    axes: Axes, found: Measure | None, y: float, colour: str, marker: str, *, filled: bool, size: float = 7,
    bars: bool = True,
) -> None:  # fmt: skip
    if found is None or not found.is_estimable:
        return
    if bars:
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6 if filled else 1.1)
    face = colour if filled else COLOURS["paper"]
    axes.plot([found.value], [y], marker, color=colour, markerfacecolor=face, markersize=size, markeredgewidth=1.4)


def _diamond(axes: Axes, found: Measure, y: float) -> None:
    """The union's interval from tip to tip, its value at the waist."""
    low = found.value if np.isnan(found.low) else found.low
    high = found.value if np.isnan(found.high) else found.high
    x = [low, found.value, high, found.value]
    axes.fill(x, [y, y - 0.3, y, y + 0.3], color=COLOURS["federated"], linewidth=0.8, zorder=3)


def _weight_size(site: Part, sites: Sequence[Part]) -> float:
    """A marker's width, its area in proportion to the hospital's test patients."""
    most = max((other.get("test") or 0 for other in sites), default=0)
    return 4.0 + 6.5 * float(np.sqrt((site.get("test") or 0) / most)) if most else 7.0


def _range(drawn: Sequence[Measure]) -> tuple[float, float]:
    ends = [x for m in drawn if m.is_estimable for x in (m.value, m.low, m.high) if not np.isnan(x)]
    low, high = min(ends), max(ends)
    margin = max(0.04 * (high - low), 0.01)
    return max(0.0, low - margin), min(1.0, high + margin) + 0.002


def _forest_key(axes: Axes, sites: Sequence[Part], above: float) -> None:
    keys = [Line2D([], [], color=COLOURS["federated"], marker="s", markersize=7, linewidth=1.6, label="federated")]
    if any(site.get("local") for site in sites):
        keys.append(
            Line2D([], [], color=COLOURS["local"], marker="o", markersize=5.5, markerfacecolor=COLOURS["paper"],
                   linewidth=1.1, label="alone")
        )  # fmt: skip
    if any(site.get("oracle") for site in sites):
        keys.append(
            Line2D([], [], color=COLOURS["oracle"], marker="|", markersize=13, markeredgewidth=2.2, linestyle="",
                   label="oracle")
        )  # fmt: skip
    axes.legend(
        handles=keys, loc="lower center", bbox_to_anchor=(0.5, 1 + 0.06 * above), ncols=3, columnspacing=1.3,
        borderaxespad=0, handletextpad=0.5,
    )  # fmt: skip


def _said(found: Measure | None) -> str:
    return "\N{EN DASH}" if found is None else with_interval(found)


def _beside(words: Callable[..., None], y: float, found: Measure | None, weight: str) -> None:
    """The value at the end of a forest plot's row, or in a word why there is none."""
    if found is None or found.is_estimable:
        words(1.0, y, _said(found), ha="right", weight=weight)
    else:
        said = "withheld" if found.note.startswith("withheld") else "not estimable"
        words(1.0, y, said, ha="right", color=COLOURS["muted"], style="italic")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
