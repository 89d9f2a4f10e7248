"""Does a federation of intensive care units predict deaths better than each alone? Five folds over stays.

    FEDHEALTH_DATA=/folder/of/data python experiments/icu/run.py

writes table.md, results.csv and icu.svg beside itself.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
FOLDS = 5
#: By name, what is put beside `experiment=`.
MODELS = {
    "logistic regression on summaries": ["icu"],
    "GRU, hour by hour": ["icu_gru", "run.baselines=[]"],
    "CNN, hour by hour": [
        "icu_gru",
        "run.baselines=[]",
        "model=cnn",
        "model.steps=48",
        "model.static=4",
        "model.dropout=0.3",
    ],
}
WHO = ("alone", "federated", "pooled")
NAMES = {"local": "alone", "federated": "federated", "pooled": "pooled"}


def known() -> list[dict]:
    """What an earlier run that was interrupted has found; remove results.csv to begin anew."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="") as file:
        return [
            {**row, "fold": int(row["fold"]), "auroc": float(row["auroc"]) if row["auroc"] else None}
            for row in csv.DictReader(file)
        ]


def fold(words: list[str], number: int) -> list[dict]:
    """By who, the AUROC on the fold's stays, all together and unit by unit."""
    from fedhealth.compose import composed, resolved
    from fedhealth.report.findings import findings
    from fedhealth.simulate import checked, open_run, run

    with tempfile.TemporaryDirectory() as place:
        overrides = [f"experiment={words[0]}", *words[1:], f"split.turn={number / FOLDS}", f"run.folder={place}/run", "run.report=false"]  # fmt: skip
        simulation = checked(resolved(composed(overrides)))
        store = open_run(simulation)
        run(simulation, store, lambda _: None)
        documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
        report = findings(simulation.study, history=store.read_history(), manifest=store.read_manifest(), **documents)
    rows = [
        {"who": NAMES[who], "unit": "all stays", "auroc": found["auroc"]["value"]}
        for who, found in report["union"].items()
        if who in NAMES
    ]
    for site in report["sites"]:
        found = {who: (site[who] or {}).get("value") for who in NAMES}
        rows += [{"who": NAMES[who], "unit": site["title"], "auroc": value} for who, value in found.items()]
    return [{"fold": number, **row} for row in rows]


def interval(values: list[float]) -> str:
    """The mean and half of its 95 % interval over folds."""
    if len(values) < 3:
        return "–"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict]) -> str:
    units = list(dict.fromkeys(row["unit"] for row in rows))
    lines = [f"| model | who | {' | '.join(units)} |", f"|---|---|{'---|' * len(units)}"]
    for model in MODELS:
        for who in WHO:
            if not of(rows, model, who, "all stays"):
                continue
            cells = [interval(of(rows, model, who, unit)) for unit in units]
            lines.append(f"| {model} | {who} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], path: Path) -> None:
    """Each fold a dot and their mean a square, a panel a model."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "icu", "font.size": 8, "svg.fonttype": "none", "font.family": "sans-serif"}
    colours = {"alone": "#d55e00", "federated": "#0072b2", "pooled": "#009e73"}
    units = list(dict.fromkeys(row["unit"] for row in rows))
    figure, panels = plt.subplots(1, len(MODELS), figsize=(10, 3.2), sharey=True, sharex=True, layout="constrained")
    for panel, model in zip(panels, MODELS, strict=True):
        for shift, who in zip((-0.22, 0.0, 0.22), WHO, strict=True):
            for at, unit in enumerate(units):
                found = of(rows, model, who, unit)
                if found:
                    panel.plot(found, [at + shift] * len(found), ".", color=colours[who], alpha=0.3, markersize=4)
                    panel.plot(np.mean(found), at + shift, "s", color=colours[who], markersize=4.5, label=who if at == 0 else None)  # fmt: skip
        panel.set_title(model, fontsize=9, loc="left")
        panel.set_xlabel("AUROC")
        panel.set_yticks(range(len(units)), units)
        panel.grid(axis="x", color="#eef1f3")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=len(WHO), frameon=False)
    figure.savefig(path, metadata={"Date": None})


def of(rows: list[dict], model: str, who: str, unit: str) -> list[float]:
    """The AUROC of each fold that has one."""
    wanted = (model, who, unit)
    return [
        row["auroc"] for row in rows if (row["model"], row["who"], row["unit"]) == wanted and row["auroc"] is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=FOLDS)
    chosen = parser.parse_args()
    rows = known()
    for model, words in MODELS.items():
        for number in range(chosen.folds):
            if any(row["model"] == model and row["fold"] == number for row in rows):
                continue
            rows += [{"model": model, **row} for row in fold(words, number)]
            sys.stderr.write(f"{model}, fold {number + 1} of {chosen.folds}\n")
            with RESULTS.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["model", "fold", "who", "unit", "auroc"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    (HERE / "table.md").write_text(table(rows))
    draw(rows, HERE / "icu.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
