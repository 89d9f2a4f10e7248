"""How fast patients are drawn, and how near the draw is to real wards. Prints the tables of the README."""

from __future__ import annotations

import platform
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from fedhealth.evaluation.heterogeneity import heterogeneity, sums_of
from fedhealth.synthetic import Generated, Hospital, generate
from fedhealth.synthetic.between import draw_hospital

Column = NDArray[np.float64]

PATIENTS, REPEATS, HOSPITALS, EACH = 1_000_000, 5, 186, 4_000


def auroc(outcome: Column, score: Column) -> float:
    """The area under the curve, by ranks; the score is continuous, so ties don't matter."""
    rank = np.empty(len(score))
    rank[np.argsort(score)] = np.arange(1, len(score) + 1)
    events = outcome.sum()
    return float(rank[outcome == 1].sum() - events * (events + 1) / 2) / float(events * (len(score) - events))


def speed() -> Generated:
    taken = []
    for seed in range(REPEATS):
        start = time.process_time()
        made = generate(Hospital(size=PATIENTS), name="average", seed=seed, task="mortality")
        taken.append(time.process_time() - start)
    print(
        f"{platform.machine()}, numpy {np.__version__}, one thread, {PATIENTS:,} patients, {len(made.table.columns)} columns"
    )
    print(f"processor seconds: median {statistics.median(taken):.2f}, from {min(taken):.2f} to {max(taken):.2f}")
    return made


def marginals(made: Generated) -> None:
    print("\n| measurement | missing | 5 % | 25 % | median | 75 % | 95 % |\n|---|---|---|---|---|---|---|")
    for name, column in made.table.columns.items():
        if column.dtype != object and len(np.unique(column[:1000])) > 2:
            cells = " | ".join(f"{x:.4g}" for x in np.nanquantile(column, [0.05, 0.25, 0.5, 0.75, 0.95]))
            print(f"| {name} | {np.isnan(column).mean():.3f} | {cells} |")
    print(
        f"\nmortality {made.table.outcome.mean():.3f}, AUROC of the true risk {auroc(made.table.outcome, made.risk):.3f}"
    )


def between(task: str) -> None:
    print(f"\n{task}, {HOSPITALS} hospitals of {EACH:,} patients, seed 1\n")
    print(
        "| h | values | missingness | outcome | outcome rate, from–to | oracle AUROC, union | of hospitals, from–to |"
    )
    print("|---|---|---|---|---|---|---|")
    for h in (0.0, 0.5, 1.0, 2.0):
        sums, outcomes, risks = {}, [], []
        for name in (f"hospital-{k}" for k in range(HOSPITALS)):
            made = generate(draw_hospital(name, h, 1, EACH), name=name, seed=1, task=task)
            sums[name] = sums_of(made.table.columns, made.table.outcome)
            outcomes.append(made.table.outcome)
            risks.append(made.risk)
        found = heterogeneity(sums)
        rates = [outcome.mean() for outcome in outcomes]
        own = [auroc(outcome, risk) for outcome, risk in zip(outcomes, risks, strict=True)]
        union = auroc(np.concatenate(outcomes), np.concatenate(risks))
        print(
            f"| {h:g} | {found.median_value:.3f} | {found.median_missingness:.3f} | {found.outcome:.3f} "
            f"| {min(rates):.3f}–{max(rates):.3f} | {union:.3f} | {min(own):.3f}–{max(own):.3f} |"
        )


if __name__ == "__main__":
    marginals(speed())
    between("mortality")
    between("readmission")
