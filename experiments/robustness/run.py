"""What does a strategy withstand? Every attack against every strategy, two of twelve hospitals attacking.

    python experiments/robustness/run.py [--seeds 5] [--rounds 12] [--attacks sign_flip] [--strategies fedavg,krum]

writes table.md, results.csv and robustness.svg beside itself.
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
HOSPITALS, SIZE = 12, 400
ATTACKERS = ("hospital-01", "hospital-02")
#: How strong each attack is, chosen before the first run; the README says why.
ATTACKS = {
    "plain": [],
    "label_flip": ["attack.share=1"],
    "sign_flip": ["attack.factor=5"],
    "scaled": ["attack.factor=12"],
    "gaussian": ["attack.sigma=1"],
    "backdoor": ["attack.share=0.5"],
    "free_rider": [],
}
#: What each strategy is told to stand: as many attackers as there are.
STRATEGIES = {
    "fedavg": [],
    "fedmedian": [],
    "fedtrimmedavg": ["strategy.beta=0.2"],
    "krum": ["strategy.num_malicious_nodes=2"],
    "multikrum": ["strategy.num_malicious_nodes=2", "strategy.num_nodes_to_select=8"],
    "bulyan": ["strategy.num_malicious_nodes=2"],
    "afl": [],
    "ditto": [],
}
#: Of the patients without the event, so many are not scored as the event where no trigger is.
SPECIFICITY = 0.9


def one(job: tuple[str, str, int, int, str]) -> dict[str, object]:
    """A run's figures at the honest hospitals: the AUROC of all their test patients, and the backdoor's success.

    "clean" and "triggered" are the shares of their test patients without the event that the
    model scores as the event, as they are and with the trigger on; "clean" is set by the
    threshold and is there to compare with.
    """
    attack, strategy, seed, rounds, sites = job
    import numpy as np

    from fedhealth.compose import composed, resolved
    from fedhealth.evaluation import measures
    from fedhealth.evaluation.scores import ScoreSums
    from fedhealth.evaluation.sparse import dense
    from fedhealth.simulate import checked, open_run, run
    from fedhealth.site.app import client_of

    # One run's patients are no other's; kept, they would fill the memory.
    client_of.cache_clear()
    attackers = [] if attack == "plain" else [f"attack.sites=[{','.join(ATTACKERS)}]"]
    with tempfile.TemporaryDirectory() as place:
        words = [
            "task=mortality", "model=mlp", "model.hidden=[16]", "training.learning_rate=0.1", f"rounds={rounds}", f"seed={seed}",
            f"strategy={strategy}", *STRATEGIES[strategy], f"attack={attack}", *ATTACKS[attack], *attackers,
            f"sites.folder={sites}", "sites.names=null", "run.baselines=[]", "run.report=false", f"run.folder={place}/run",
        ]  # fmt: skip
        simulation = checked(resolved(composed(words)))
        store = open_run(simulation)
        run(simulation, store, lambda _: None)
        vectors = {name: v for name, v in store.read_json("results.json")["sums"].items() if name not in ATTACKERS}
        clean, triggered = scores(simulation, store)
    threshold = np.quantile(clean, SPECIFICITY, method="higher")
    sums = [ScoreSums.from_vector(dense(v)[: ScoreSums.width()]) for v in vectors.values()]
    return {
        "attack": attack, "strategy": strategy, "seed": seed,
        "auroc": measures.auroc(sum(sums[1:], sums[0])).value, "clean": float((clean >= threshold).mean()), "triggered": float((triggered >= threshold).mean()),
    }  # fmt: skip


def scores(simulation, store):
    """What the honest hospitals' test patients without the event score, as they are and with the trigger on.

    Each hospital scores with the model that it would use, its own where the strategy makes one.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.models.weights import load_weights
    from fedhealth.simulate import clients
    from fedhealth.site.attacks.backdoor import Backdoor
    from fedhealth.site.memory import Memory
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Received, method_of

    study, results = simulation.study, store.read_json("results.json")
    preprocessor = Preprocessor.from_json(store.read_json("statistics.json")["preprocessor"])
    method, received = method_of(study.strategy), Received(load_file(store.folder / "model.safetensors"))
    found: list[list[np.ndarray]] = [[], []]
    for name, client in clients(simulation).items():
        if name in ATTACKERS:
            continue
        trainer = SiteTrainer(
            study, client.cohort.part("train"), preprocessor, site=name, round_=results["rounds_done"] + 1
        )
        memory = Memory(store.folder / "memory" / name / client.digest).before(results["best_round"] + 1)
        load_weights(trainer.network, method.personal(trainer, received, memory))
        test = client.cohort.part("test")
        for columns, each in zip((test.columns, Backdoor().triggered(test.columns, preprocessor)), found, strict=True):
            p = trainer.engine.predict(trainer.network, preprocessor.apply(columns))
            each.append(p[test.y == 0])
    return [np.concatenate(each) for each in found]


def over_seeds(rows, attack: str, strategy: str, column: str):
    """The mean over seeds with its interval by Student's t."""
    from fedhealth.evaluation.student import mean_of_runs

    return mean_of_runs([row[column] for row in rows if (row["attack"], row["strategy"]) == (attack, strategy)])


def lost(rows, attack: str, strategy: str):
    """The mean change of the AUROC by the attack, on the same seeds, with its paired interval."""
    from fedhealth.evaluation.student import mean_of_runs

    under, without = (
        {row["seed"]: row["auroc"] for row in rows if (row["attack"], row["strategy"]) == (name, strategy)}
        for name in (attack, "plain")
    )
    return mean_of_runs([under[seed] - without[seed] for seed in sorted(under)])


def words_of(attack: str) -> str:
    return "no attack" if attack == "plain" else attack.replace("_", " ")


def said(found) -> str:
    half = "" if math.isnan(found.high) else f" ± {found.high - found.value:.3f}"
    return f"{found.value:.3f}{half}"


def table(rows, strategies) -> str:
    """AUROC by strategy and attack, and what the backdoor did."""
    lines = [
        f"| AUROC | {' | '.join(map(words_of, ATTACKS))} |",
        f"|---|{'---|' * len(ATTACKS)}",
    ]
    for strategy in strategies:
        cells = []
        for attack in ATTACKS:
            change = lost(rows, attack, strategy)
            mark = " ▼" if change.high < 0 else " ▲" if change.low > 0 else ""
            cells.append(said(over_seeds(rows, attack, strategy, "auroc")) + mark)
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    lines += [
        "",
        "| scored as the event, of those without it | no attack | with the trigger | backdoor | with the trigger |",
        "|---|---|---|---|---|",
    ]
    for strategy in strategies:
        cells = [
            said(over_seeds(rows, attack, strategy, column))
            for attack, column in itertools.product(("plain", "backdoor"), ("clean", "triggered"))
        ]
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows, strategies, path: Path) -> None:
    """A panel an attack with what it took off the AUROC, and one with the backdoor's success."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "robustness", "font.size": 8, "svg.fonttype": "none", "font.family": "sans-serif"}
    attacks, names = [attack for attack in ATTACKS if attack != "plain"], list(strategies)[::-1]
    figure, panels = plt.subplots(1, len(attacks) + 1, figsize=(12, 3.2), sharey=True, layout="constrained")
    low = min(lost(rows, attack, name).value for attack in attacks for name in names)
    for panel, attack in zip(panels, attacks, strict=False):
        for place, name in enumerate(names):
            found = lost(rows, attack, name)
            colour = "#0b6e4f" if found.low > 0 else "#b3261e" if found.high < 0 else "#5f6b76"
            if not math.isnan(found.low):
                panel.plot([found.low, found.high], [place, place], color=colour, lw=1.4, solid_capstyle="butt")
            panel.plot(found.value, place, "o", color=colour, ms=4)
        panel.axvline(0, color="#9aa4ad", lw=0.8, ls=(0, (4, 3)))
        panel.set_title(words_of(attack), fontsize=9, loc="left")
        panel.set_xlim(1.15 * min(low, -0.02), 0.1)
    for place, name in enumerate(names):
        clean, triggered = (over_seeds(rows, "backdoor", name, column).value for column in ("clean", "triggered"))
        panels[-1].plot([clean, triggered], [place, place], color="#9aa4ad", lw=1.4)
        panels[-1].plot(clean, place, "o", color="#5f6b76", ms=4)
        panels[-1].plot(triggered, place, "o", color="#b3261e", ms=4)
    panels[-1].set_title("backdoor's success", fontsize=9, loc="left")
    panels[-1].set_xlim(-0.03, 1.03)
    for panel in panels:
        panel.set_yticks(range(len(names)), names)
        panel.tick_params(length=0)
        panel.grid(axis="y", color="#eef1f3", lw=4)
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(
        "AUROC at the honest hospitals less the same strategy's without an attack; line: 95 % interval over seeds. Last panel: "
        "share of patients without\nthe event who are scored as the event, as they are (grey) and with the trigger on (red)",
        fontsize=8,
    )
    figure.savefig(path, metadata={"Date": None})


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict[str, object]]:
    from rich.progress import track

    from fedhealth.synthetic.folders import write_sites

    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(words)
    attacks, strategies = chosen.attacks.split(","), chosen.strategies.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sites = [Path(folder) / str(seed) for seed in range(chosen.seeds)]
        for seed, place in enumerate(sites):
            write_sites(place, h=1.0, n=HOSPITALS, seed=seed, size=SIZE)
        jobs = [
            (attack, strategy, seed, chosen.rounds, str(sites[seed]))
            for seed, strategy, attack in itertools.product(range(chosen.seeds), strategies, attacks)
        ]
        if chosen.workers < 2:
            rows = [one(job) for job in track(jobs, description="runs")]
        else:
            with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
                rows = list(track(pool.map(one, jobs), total=len(jobs), description="runs"))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    if set(attacks) == set(ATTACKS):
        text = table(rows, strategies)
        (out / "table.md").write_text(text)
        draw(rows, strategies, out / "robustness.svg")
        print(text)
    return rows


if __name__ == "__main__":
    main()
