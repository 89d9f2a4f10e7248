"""Which strategy helps when? All of them, over five kinds of difference between hospitals.

    python experiments/strategies/run.py [--seeds 5] [--rounds 20] [--only fedavg,scaffold] [--go-on]

writes results.csv, a row a run as it ends, and table.md and strategies.svg beside itself.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
HOSPITALS, SIZE = 10, 400
#: Hospitals drawn apart by h, or one pooled cohort parted unevenly by outcome or by size.
SETTINGS = ("h = 0", "h = 1", "h = 2", "label skew", "quantity skew")
STRATEGIES = (
    "fedavg", "fedprox", "scaffold", "fednova", "feddyn",
    "fedavgm", "fedadagrad", "fedadam", "fedyogi",
    "qfedavg", "afl",
    "fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan",
    "finetune", "ditto", "apfl", "fedper", "fedrep", "fedbn",
    "newton",
)  # fmt: skip
#: What a strategy needs beside its own defaults.
WITH = {
    "fedbn": ["model.normalisation=batch"],
    "newton": ["strategy.ridge=0.01", "rounds=8"],
    "fedadam": ["strategy.eta=0.03"],
    "multikrum": ["strategy.num_nodes_to_select=7"],
}
COLUMNS = ("union", "mean", "worst")


def prepared(folder: Path, setting: str, seed: int) -> Path:
    """The folder of the setting's hospitals, written on the first call."""
    import numpy as np

    from fedhealth.synthetic import Hospital, generate
    from fedhealth.synthetic.folders import split_table, write_sites

    place = folder / setting.replace(" ", "").replace("=", "") / str(seed)
    if place.exists():
        return place
    if setting.startswith("h"):
        write_sites(place, h=float(setting.rpartition(" ")[2]), n=HOSPITALS, seed=seed, size=SIZE)
        return place
    made = generate(Hospital(size=HOSPITALS * SIZE), name="pool", seed=seed, task="mortality").table
    table = folder / f"pool-{setting.split(maxsplit=1)[0]}-{seed}.csv"
    names = list(made.columns)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "died_in_hospital"])
        columns = [made.columns[name] for name in names]
        for row in zip(*columns, made.outcome, strict=True):
            writer.writerow(["" if v is None or (isinstance(v, float) and np.isnan(v)) else v for v in row])
    scheme, alpha = ("dirichlet", 0.3) if setting == "label skew" else ("quantity", 0.5)
    split_table(
        table, place, scheme=scheme, outcome="died_in_hospital", parts=HOSPITALS, alpha=alpha, least=60, seed=seed
    )
    return place


def one(job: tuple[str, str, int, int, str]) -> dict[str, object]:
    """A run's AUROC: of all test patients, mean and worst of the hospitals that have both outcomes."""
    setting, strategy, seed, rounds, folder = job
    from fedhealth.compose import composed, resolved
    from fedhealth.evaluation import measures
    from fedhealth.evaluation.scores import ScoreSums
    from fedhealth.evaluation.sparse import dense
    from fedhealth.simulate import checked, open_run, run
    from fedhealth.site.app import client_of

    # One run's patients are no other's; kept, they would fill the memory.
    client_of.cache_clear()
    sites = prepared(Path(folder), setting, seed)
    # Newton's second derivatives are those of a linear model.
    model = ["model=logistic"] if strategy == "newton" else ["model=mlp", "model.hidden=[16]"]
    with tempfile.TemporaryDirectory() as place:
        words = [
            "task=mortality", *model, "training.learning_rate=0.3", f"rounds={rounds}", f"seed={seed}", f"strategy={strategy}",
            f"sites.folder={sites}", "sites.names=null", "run.baselines=[]", "run.report=false", f"run.folder={place}/run",
        ]  # fmt: skip
        simulation = checked(resolved(composed([*words, *WITH.get(strategy, [])])))
        store = open_run(simulation)
        run(simulation, store, lambda _: None)
        results = store.read_json("results.json")
        history = store.read_history()
    sums = [ScoreSums.from_vector(dense(v)[: ScoreSums.width()]) for v in results["sums"].values()]
    own = [measures.auroc(each).value for each in sums]
    own = [value for value in own if not math.isnan(value)]
    return {
        "setting": setting, "strategy": strategy, "seed": seed,
        "union": measures.auroc(sum(sums[1:], sums[0])).value, "mean": sum(own) / len(own), "worst": min(own),
        "bytes": sum(row["bytes_up"] + row["bytes_down"] for row in history),
    }  # fmt: skip


def over_seeds(rows, setting: str, strategy: str, column: str):
    """The mean over seeds with its interval by Student's t."""
    from fedhealth.evaluation.student import mean_of_runs

    return mean_of_runs([row[column] for row in rows if (row["setting"], row["strategy"]) == (setting, strategy)])


def differences(rows, setting: str, strategy: str, column: str) -> list[float]:
    """How much better than FedAvg on the same seed, seed by seed."""
    own, base = (
        {row["seed"]: row[column] for row in rows if (row["setting"], row["strategy"]) == (setting, name)}
        for name in (strategy, "fedavg")
    )
    return [own[seed] - base[seed] for seed in sorted(own)]


def marks(rows, strategies, columns) -> dict[tuple[str, str, str], str]:
    """Which differences from FedAvg are told from 0 by a paired t test, with Holm's correction over the whole table."""
    from fedhealth.evaluation.student import holm, p_of_mean

    cells = [(strategy, *column) for strategy in strategies if strategy != "fedavg" for column in columns]
    found = [differences(rows, setting, strategy, column) for strategy, setting, column in cells]
    adjusted = holm([p_of_mean(each) for each in found])
    told = zip(cells, found, adjusted, strict=True)
    return {cell: "▲" if sum(each) > 0 else "▼" for cell, each, p in told if p < 0.05}


def table(rows, strategies) -> str:
    """AUROC by setting; a mark where the difference from FedAvg is told from 0."""
    columns = [*((setting, "mean") for setting in SETTINGS), ("h = 2", "union"), ("label skew", "union")]
    marked = marks(rows, strategies, columns)
    lines = [
        f"| strategy | {' | '.join(SETTINGS)} | h = 2, all patients | label skew, all patients | MB sent |",
        f"|---|{'---|' * (len(SETTINGS) + 3)}",
    ]
    for strategy in strategies:
        cells = []
        for setting, column in columns:
            value = over_seeds(rows, setting, strategy, column)
            half = "" if math.isnan(value.high) else f" ± {value.high - value.value:.3f}"
            cells.append(f"{value.value:.3f}{half} {marked.get((strategy, setting, column), '')}".rstrip())
        sent = over_seeds(rows, "h = 1", strategy, "bytes").value / 1e6
        lines.append(f"| {strategy} | {' | '.join(cells)} | {sent:.1f} |")
    return "\n".join(lines) + "\n"


def draw(rows, strategies, path: Path) -> None:
    """Differences from FedAvg with 95 % intervals, a panel a setting."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    from fedhealth.evaluation.student import mean_of_runs

    plt.rcParams |= {"svg.hashsalt": "strategies", "font.size": 8, "svg.fonttype": "none", "font.family": "sans-serif"}
    others = [name for name in strategies if name != "fedavg"][::-1]
    figure, panels = plt.subplots(1, len(SETTINGS), figsize=(11, 5.2), sharey=True, sharex=True, layout="constrained")
    for panel, setting in zip(panels, SETTINGS, strict=True):
        for place, name in enumerate(others):
            found = mean_of_runs(differences(rows, setting, name, "mean"))
            low, high = max(found.low, -0.12), min(found.high, 0.12)
            colour = "#0b6e4f" if found.low > 0 else "#b3261e" if found.high < 0 else "#5f6b76"
            if not math.isnan(low):
                panel.plot([low, high], [place, place], color=colour, lw=1.4, solid_capstyle="butt")
            at = min(max(found.value, -0.12), 0.12)
            panel.plot(at, place, "o" if at == found.value else "<" if at < 0 else ">", color=colour, ms=4)
        panel.axvline(0, color="#9aa4ad", lw=0.8, ls=(0, (4, 3)))
        panel.set_title(setting, fontsize=9, loc="left")
        panel.set_xlim(-0.13, 0.13)
        panel.set_yticks(range(len(others)), others)
        panel.tick_params(length=0)
        panel.grid(axis="y", color="#eef1f3", lw=4)
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(
        "AUROC of the average hospital less FedAvg's, same seeds; line: 95 % interval over seeds", fontsize=8
    )
    figure.savefig(path, metadata={"Date": None})


FIELDS = ("setting", "strategy", "seed", "union", "mean", "worst", "bytes")


def stored(path: Path) -> list[dict[str, object]]:
    """The runs in a results.csv."""
    with path.open(newline="") as file:
        return [
            {"setting": row["setting"], "strategy": row["strategy"], "seed": int(row["seed"])}
            | {key: float(row[key]) for key in FIELDS[3:]}
            for row in csv.DictReader(file)
        ]


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict[str, object]]:
    from rich.progress import track

    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default=",".join(STRATEGIES))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--go-on", action="store_true", help="keep the runs that results.csv has")
    chosen = parser.parse_args(words)
    strategies, settings = chosen.only.split(","), chosen.settings.split(",")
    if "fedavg" not in strategies:
        strategies = ["fedavg", *strategies]
    results = out / "results.csv"
    rows = stored(results) if chosen.go_on and results.exists() else []
    with tempfile.TemporaryDirectory() as folder, results.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(_short(row) for row in rows)
        done = {(row["setting"], row["strategy"], row["seed"]) for row in rows}
        for setting, seed in itertools.product(settings, range(chosen.seeds)):
            prepared(Path(folder), setting, seed)
        jobs = [
            (setting, strategy, seed, chosen.rounds, folder)
            for seed, setting, strategy in itertools.product(range(chosen.seeds), settings, strategies)
            if (setting, strategy, seed) not in done
        ]
        with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
            for row in track(pool.map(one, jobs), total=len(jobs), description="runs"):
                rows.append(row)
                writer.writerow(_short(row))
                file.flush()
    if set(settings) == set(SETTINGS):
        text = table(rows, strategies)
        (out / "table.md").write_text(text)
        draw(rows, strategies, out / "strategies.svg")
        print(text)
    return rows


def _short(row: dict[str, object]) -> dict[str, object]:
    return {key: f"{row[key]:.5g}" if isinstance(row[key], float) else row[key] for key in FIELDS}


if __name__ == "__main__":
    main()
