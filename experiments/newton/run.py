"""How many rounds to the pooled fit? Newton beside FedAvg and SCAFFOLD, for a logistic and a Cox model.

    python experiments/newton/run.py [--rounds 60]

writes table.md and newton.svg beside itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

MODELS = {"logistic": "task=mortality", "cox": "task=survival"}
STRATEGIES = ("newton", "fedavg", "scaffold")
NEWTON_ROUNDS = 12
NEAR = (1e-1, 1e-2, 1e-6)
#: Without the indicators of missing values and with one level of each word left out the fit is one point.
WORDS = ("features.indicators=false", "+features.drop_first=true", "run.baselines=[]", "run.report=false",
         "training.batch_size=100000")  # fmt: skip


def followed(model: str, strategy: str, rounds: int, sites: str, steps: int, rate: float):
    """By round the largest distance of a coefficient from the pooled fit, and the bytes a hospital sends a round."""
    from fedhealth.compose import composed, resolved
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.simulate import checked, clients, open_run, run

    with tempfile.TemporaryDirectory() as place:
        words = [MODELS[model], f"model={model}", f"strategy={strategy}", f"rounds={rounds}", f"sites={sites}",
                 f"training.steps={steps}", f"training.learning_rate={rate}", f"run.folder={place}/run", *WORDS]  # fmt: skip
        simulation = checked(resolved(composed(words)))
        store = open_run(simulation)
        run(simulation, store, lambda _: None)
        preprocessor = Preprocessor.from_json(store.read_json("statistics.json")["preprocessor"])
        parts = [client.cohort.part("train") for client in clients(simulation).values()]
        expected = pooled_of(model, preprocessor, parts)
        weights = [store.load(round_).model for round_ in range(1, rounds + 1)]
        history = store.read_history()
    found = [np.concatenate([w[name].ravel() for name in ("weight", "bias") if name in w]) for w in weights]
    sent = history[-1]["bytes_up"] / len(parts)
    return [float(np.abs(each - expected).max()) for each in found], sent


def pooled_of(model: str, preprocessor, parts) -> np.ndarray:
    import pooled

    rows = [preprocessor.apply(part.columns).astype(np.float64) for part in parts]
    if model == "logistic":
        return pooled.logistic_fit(np.concatenate(rows), np.concatenate([part.y for part in parts]))
    return pooled.cox_fit([(x, part.y, part.days) for x, part in zip(rows, parts, strict=True)])


def first_within(distances, near: float) -> str:
    """The first round from which on the distance stays within `near`."""
    beyond = [k for k, distance in enumerate(distances, start=1) if distance > near]
    last = max(beyond, default=0)
    return f"not in {len(distances)}" if last == len(distances) else str(last + 1)


def table(found) -> str:
    lines = [
        f"| model | strategy | {' | '.join(f'rounds to {near:g}' for near in NEAR)} | distance at the end | kB a hospital sends a round |",
        f"|---|---|{'---|' * len(NEAR)}---|---|",
    ]
    for (model, strategy), (distances, sent) in found.items():
        cells = [first_within(distances, near) for near in NEAR]
        lines.append(f"| {model} | {strategy} | {' | '.join(cells)} | {distances[-1]:.1e} | {sent / 1000:.1f} |")
    return "\n".join(lines) + "\n"


def draw(found, path: Path) -> None:
    """The distance by round on a logarithmic scale, a panel a model."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "newton", "font.size": 8, "svg.fonttype": "none", "font.family": "sans-serif"}
    colours = dict(zip(STRATEGIES, ("#0b6e4f", "#5f6b76", "#b3261e"), strict=True))
    figure, panels = plt.subplots(1, len(MODELS), figsize=(8, 3.2), sharey=True, layout="constrained")
    for panel, model in zip(panels, MODELS, strict=True):
        for strategy in STRATEGIES:
            distances, _ = found[model, strategy]
            rounds = range(1, len(distances) + 1)
            panel.semilogy(rounds, distances, color=colours[strategy], lw=1.6)
            panel.annotate(strategy, (rounds[-1], distances[-1]), xytext=(4, 0), textcoords="offset points",
                           color=colours[strategy], va="center")  # fmt: skip
        panel.set_title(model, fontsize=9, loc="left")
        panel.set_xlim(0, max(len(d) for d, _ in found.values()) * 1.22)
        panel.set_xlabel("round")
        panel.grid(axis="y", color="#eef1f3")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("largest distance of a coefficient\nfrom the pooled fit")
    figure.savefig(path, metadata={"Date": None})


def main(words: list[str] | None = None, out: Path = HERE):
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--sites", default="demo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.5)
    chosen = parser.parse_args(words)
    found = {}
    for model in MODELS:
        for strategy in STRATEGIES:
            rounds = min(NEWTON_ROUNDS, chosen.rounds) if strategy == "newton" else chosen.rounds
            found[model, strategy] = followed(model, strategy, rounds, chosen.sites, chosen.steps, chosen.rate)
    text = table(found)
    (out / "table.md").write_text(text)
    draw(found, out / "newton.svg")
    print(text)
    return found


if __name__ == "__main__":
    main()
