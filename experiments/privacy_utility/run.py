"""What does epsilon cost? AUROC against a patient's epsilon, for few and many hospitals, and the price of each thing that leaves.

    python experiments/privacy_utility/run.py [--seeds 3] [--hospitals 4,8,20] [--workers 2]

writes table.md, price.md, results.csv and privacy_utility.svg beside itself.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
SIZE, ROUNDS = 600, 10
#: Chosen on seeds 1 and 2 of eight hospitals, at epsilon 1 and 4; the runs below have seeds from 11 on.
TRAINING = ["training.steps=10", "training.learning_rate=0.5", "privacy.sampling_rate=0.2"]
#: Without privacy, mini-batches of 32 in one pass a round.
PLAIN = ["privacy=plain", "training.learning_rate=0.2"]


def private(epsilon: float) -> list[str]:
    """The overrides of a private study, its counts and scores taking about a sixth of epsilon."""
    noise = [f"privacy.statistics_noise={20 / epsilon}", f"privacy.evaluation_noise={8 / epsilon}"]
    return ["privacy=dp_sgd", f"privacy.epsilon={epsilon}", *noise, *TRAINING]


def one(job: tuple[int, float, int, str]) -> dict[str, float]:
    """One study: the model's AUROC on all test patients, and the one that the private report gives."""
    hospitals, epsilon, seed, sites = job
    import numpy as np
    from safetensors.numpy import load

    from fedhealth.compose import composed, resolved
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.evaluation import measures
    from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
    from fedhealth.models.weights import load_weights
    from fedhealth.server.app import first_network
    from fedhealth.server.plan import plan_for
    from fedhealth.simulate import checked, clients, open_run, run
    from fedhealth.site.trainer import engine_of

    names = ",".join(f"hospital-{k:02d}" for k in range(1, hospitals + 1))
    with tempfile.TemporaryDirectory() as folder:
        words = [f"sites.folder={sites}", f"sites.names=[{names}]", f"run.folder={folder}/run", f"seed={seed}"]
        words += [f"rounds={ROUNDS}", "run.baselines=[]", "run.report=false"]
        simulation = checked(resolved(composed([*words, *(PLAIN if math.isinf(epsilon) else private(epsilon))])))
        store = open_run(simulation)
        run(simulation, store, lambda _: None)
        study = simulation.study
        scaling = Preprocessor.from_json(store.read_json("statistics.json")["preprocessor"])
        network = first_network(plan_for(study).model, scaling.width, seed=study.seed)
        load_weights(network, load((store.folder / "model.safetensors").read_bytes()))
        told = store.read_json("results.json")["sums"]
        exact = ScoreSums.empty()
        for client in clients(simulation).values():
            part = client.cohort.part("test")
            exact = exact + ScoreSums.of(engine_of(study).predict(network, part.matrix(scaling)), part.y)
    reported, _ = SummaryLayout.of(study, grouped=True).unpack(
        np.sum([np.array(each) for each in told.values()], axis=0)
    )
    found = measures.auroc(exact)
    return {"hospitals": hospitals, "epsilon": epsilon, "seed": seed, "auroc": found.value, "low": found.low,
            "high": found.high, "reported": measures.auroc(reported).value}  # fmt: skip


def mean_of(rows: list[dict[str, float]], hospitals: int, epsilon: float) -> tuple[float, float, float]:
    """The mean AUROC over seeds, each of which draws other patients, with its 95 % interval."""
    from fedhealth.core.measure import Measure
    from fedhealth.evaluation.measures import mean_measure

    own = [row for row in rows if (row["hospitals"], row["epsilon"]) == (hospitals, epsilon)]
    found = mean_measure([Measure(row["auroc"], row["low"], row["high"]) for row in own])
    return found.value, found.low, found.high


def table(rows: list[dict[str, float]], sizes: list[int]) -> str:
    """Markdown: a row an epsilon, a column a number of hospitals."""
    lines = ["| ε | " + " | ".join(f"{n} hospitals" for n in sizes) + " | reported less true |",
             "|---" * (len(sizes) + 2) + "|"]  # fmt: skip
    for epsilon in EPSILONS:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*mean_of(rows, n, epsilon)) for n in sizes]
        off = [row["reported"] - row["auroc"] for row in rows if row["epsilon"] == epsilon]
        spread = (sum(each**2 for each in off) / len(off)) ** 0.5
        name = "none" if math.isinf(epsilon) else f"{epsilon:g}"
        lines.append(f"| {name} | {' | '.join(cells)} | ±{spread:.3f} |")
    return "\n".join(lines) + "\n"


def price() -> str:
    """Markdown: the noise multiplier that training needs for epsilon 2, as more and more leaves beside it."""
    from fedhealth.core.privacy_event import Gaussian
    from fedhealth.privacy.accountant import epsilon, noise_multiplier

    counts, scores = Gaussian(noise_multiplier=10.0), Gaussian(noise_multiplier=4.0)
    steps = [
        ("training alone", ()),
        ("and how many patients there are", (counts,)),
        ("and the test scores at the end", (counts, scores)),
        ("and one look at the validation scores", (counts, *[scores] * 2)),
        ("and two looks", (counts, *[scores] * 3)),
    ]
    lines = ["| what leaves | ε without training | noise multiplier of training |", "|---|---|---|"]
    for name, beside in steps:
        noise = noise_multiplier(epsilon_target=2.0, delta=1e-5, sampling_rate=0.2, steps=10 * ROUNDS, beside=beside)
        lines.append(f"| {name} | {epsilon(beside, 1e-5):.2f} | {noise:.2f} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, float]], sizes: list[int], path: Path) -> None:
    """AUROC against epsilon, a line a number of hospitals."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "fedhealth", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    places = range(len(EPSILONS))
    for shift, hospitals in zip((-0.08, 0.0, 0.08), sizes, strict=False):
        found = [mean_of(rows, hospitals, epsilon) for epsilon in EPSILONS]
        value = [each[0] for each in found]
        arms = [[each[0] - each[1] for each in found], [each[2] - each[0] for each in found]]
        axes.errorbar(
            [k + shift for k in places], value, yerr=arms, marker="o", capsize=3, label=f"{hospitals} hospitals"
        )
    axes.set_xticks(list(places), ["none" if math.isinf(epsilon) else f"{epsilon:g}" for epsilon in EPSILONS])
    axes.set_xlabel("ε of a patient over the whole study (δ = 1e-5)")
    axes.set_ylabel("AUROC, all test patients")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hospitals", default="4,8,20")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(words)
    sizes = [int(word) for word in chosen.hospitals.split(",")]

    from fedhealth.synthetic.folders import write_sites

    with tempfile.TemporaryDirectory() as folder:
        sites = str(Path(folder) / "sites")
        write_sites(Path(sites), h=1.0, n=max(sizes), seed=1, size=SIZE)
        seeds = range(11, 11 + chosen.seeds)
        jobs = [(n, epsilon, seed, sites) for n in sizes for epsilon in EPSILONS for seed in seeds]
        with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(one, jobs))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (out / "table.md").write_text(table(rows, sizes))
    (out / "price.md").write_text(price())
    plot(rows, sizes, out / "privacy_utility.svg")
    print(table(rows, sizes), price(), sep="\n")
    return rows


if __name__ == "__main__":
    main()
