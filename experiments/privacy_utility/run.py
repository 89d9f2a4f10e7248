"""What does epsilon cost? AUROC against a patient's epsilon, for few and many hospitals, and the price of each thing that leaves.

    python experiments/privacy_utility/run.py [--seeds 3] [--hospitals 4,8,20] [--workers 2]

Three ways to add the noise: `local`, the whole of it at each hospital (privacy=dp_sgd); `distributed`, a
share at each under masks (privacy=distributed); `curator`, once, by somebody trusted who has all patients.

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
#: Where runs lie: in memory, where there is a place for it, since a masked hospital waits for its disk at every message.
MEMORY = next((str(place) for place in [Path("/dev/shm")] if place.is_dir()), None)  # noqa: S108 - simulated patients
#: Chosen on seeds 1 and 2 of eight hospitals, at epsilon 1 and 4; the runs below have seeds from 11 on.
TRAINING = ["training.steps=10", "training.learning_rate=0.5", "privacy.sampling_rate=0.2"]
#: Without privacy, mini-batches of 32 in one pass a round.
PLAIN = ["privacy=plain", "training.learning_rate=0.2"]


#: Of distributed noise and the curator's, whose rounds are steps; chosen on seeds 1 and 2 of eight hospitals, by the curator.
STEPS, RATE = 50, 0.2
LEARNING = {0.5: 1.0, 1.0: 1.5, 2.0: 2.0, 4.0: 4.0, 8.0: 4.0}
WAYS = ("local", "distributed", "curator")


def beside(epsilon: float) -> list[str]:
    """The noise on counts and scores, which take about a sixth of epsilon."""
    return [f"privacy.epsilon={epsilon}", f"privacy.statistics_noise={20 / epsilon}",
            f"privacy.evaluation_noise={8 / epsilon}"]  # fmt: skip


def words_of(way: str, hospitals: int, epsilon: float) -> list[str]:
    """The overrides of a study."""
    if math.isinf(epsilon):
        return PLAIN
    if way == "local":
        return ["privacy=dp_sgd", *beside(epsilon), *TRAINING]
    masks = ["secagg=masked", f"secagg.min_cohort={max(3, math.ceil(0.7 * hospitals))}", "secagg.colluders=1"]
    return ["privacy=distributed", *beside(epsilon), *masks, "strategy=fedsgd", f"rounds={STEPS}",
            f"strategy.learning_rate={LEARNING[epsilon]}", f"privacy.sampling_rate={RATE}"]  # fmt: skip


def one(job: tuple[str, int, float, int, str]) -> dict[str, float | str]:
    """One study: the model's AUROC on all test patients, and the one that the private report gives."""
    way, hospitals, epsilon, seed, sites = job
    import numpy as np
    from safetensors.numpy import load

    from fedhealth.compose import composed, resolved
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.evaluation import measures
    from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
    from fedhealth.evaluation.sparse import dense
    from fedhealth.models.weights import load_weights
    from fedhealth.server.app import first_network
    from fedhealth.server.plan import plan_for
    from fedhealth.simulate import checked, clients, open_run, run
    from fedhealth.site.trainer import engine_of

    names = ",".join(f"hospital-{k:02d}" for k in range(1, hospitals + 1))
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        words = [f"sites.folder={sites}", f"sites.names=[{names}]", f"run.folder={folder}/run", f"seed={seed}"]
        words += [f"rounds={ROUNDS}", "run.baselines=[]", "run.report=false"]
        simulation = checked(resolved(composed([*words, *words_of(way, hospitals, epsilon)])))
        study, reported = simulation.study, math.nan
        scaling = Preprocessor.from_spec(study.features)
        network = first_network(plan_for(study).model, scaling.width, seed=study.seed)
        if way == "curator":
            curate(study, simulation, network, scaling, epsilon)
        else:
            store = open_run(simulation)
            run(simulation, store, lambda _: None)
            scaling = Preprocessor.from_json(store.read_json("statistics.json")["preprocessor"])
            load_weights(network, load((store.folder / "model.safetensors").read_bytes()))
            told = store.read_json("results.json")["sums"].values()
            whole, _ = SummaryLayout.of(study, grouped=True).unpack(np.sum([dense(each) for each in told], axis=0))
            reported = measures.auroc(whole).value
        exact = ScoreSums.empty()
        for client in clients(simulation).values():
            part = client.cohort.part("test")
            exact = exact + ScoreSums.of(engine_of(study).predict(network, part.matrix(scaling)), part.y)
    found = measures.auroc(exact)
    return {"way": way, "hospitals": hospitals, "epsilon": epsilon, "seed": seed, "auroc": found.value,
            "low": found.low, "high": found.high, "reported": reported}  # fmt: skip


def curate(study, simulation, network, scaling, epsilon: float) -> None:
    """Train the network as somebody would who has all patients: the same steps, with the noise put on once."""
    import numpy as np

    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.noise import NoiseSource
    from fedhealth.privacy.patient_level import Course
    from fedhealth.server.plan import plan_for
    from fedhealth.simulate import clients
    from fedhealth.site.private_engine import PrivateEngine

    mechanism = plan_for(study).mechanism
    course = Course(RATE, STEPS, mechanism.course(rounds=STEPS).noise_multiplier)
    parts = [client.cohort.part("train") for client in clients(simulation).values()]
    x, y = np.vstack([part.matrix(scaling) for part in parts]), np.concatenate([part.y for part in parts])
    engine = PrivateEngine(
        mechanism=mechanism, course=course, size=len(y), left=STEPS, bound=mechanism.max_grad_norm, source=NoiseSource()
    )
    training = LocalTraining(steps=STEPS, learning_rate=LEARNING[epsilon])
    engine.fit(network, x, y.astype(np.float32), training, np.random.default_rng(0))


def mean_of(rows: list[dict], way: str, hospitals: int, epsilon: float) -> tuple[float, float, float]:
    """The mean AUROC over seeds, each of which draws other patients, with its 95 % interval."""
    from fedhealth.core.measure import Measure
    from fedhealth.evaluation.measures import mean_measure

    own = [row for row in rows if (row["way"], row["hospitals"], row["epsilon"]) == (way, hospitals, epsilon)]
    found = mean_measure([Measure(row["auroc"], row["low"], row["high"]) for row in own])
    return found.value, found.low, found.high


def table(rows: list[dict], sizes: list[int]) -> str:
    """Markdown: a row an epsilon and a way, a column a number of hospitals."""
    lines = ["| ε | noise | " + " | ".join(f"{n} hospitals" for n in sizes) + " | reported less true |",
             "|---" * (len(sizes) + 3) + "|"]  # fmt: skip
    for epsilon in EPSILONS:
        for way in WAYS if math.isfinite(epsilon) else WAYS[:1]:
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*mean_of(rows, way, n, epsilon)) for n in sizes]
            off = [row["reported"] - row["auroc"] for row in rows if (row["way"], row["epsilon"]) == (way, epsilon)]
            spread = (sum(each**2 for each in off) / len(off)) ** 0.5
            last = "" if math.isnan(spread) else f"±{spread:.3f}"
            name, noise = ("none", "none") if math.isinf(epsilon) else (f"{epsilon:g}", way)
            lines.append(f"| {name} | {noise} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines) + "\n"


def apart(rows: list[dict], sizes: list[int]) -> str:
    """Markdown: how far the AUROC of distributed noise lies below the curator's, over all seeds, with its standard error."""
    lines = ["| ε | " + " | ".join(f"{n} hospitals" for n in sizes) + " | all |", "|---" * (len(sizes) + 2) + "|"]
    for epsilon in EPSILONS[:-1]:
        cells = []
        for some in [*([n] for n in sizes), sizes]:
            pairs = {}
            for row in rows:
                if row["epsilon"] == epsilon and row["hospitals"] in some and row["way"] != "local":
                    pairs.setdefault((row["hospitals"], row["seed"]), {})[row["way"]] = row["auroc"]
            found = [pair["curator"] - pair["distributed"] for pair in pairs.values()]
            mean = sum(found) / len(found)
            error = (sum((each - mean) ** 2 for each in found) / max(len(found) - 1, 1) / len(found)) ** 0.5
            cells.append(f"{mean:+.3f} ± {error:.3f}")
        lines.append(f"| {epsilon:g} | {' | '.join(cells)} |")
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


def plot(rows: list[dict], sizes: list[int], path: Path) -> None:
    """AUROC against epsilon: a panel a number of hospitals, a line a way to add the noise."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "fedhealth", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(sizes), figsize=(3.1 * len(sizes), 3.2), sharey=True, squeeze=False)
    epsilons = EPSILONS[:-1]
    looks = {"local": ("o", "-", "#0072b2"), "distributed": ("s", "-", "#d55e00"), "curator": ("^", "--", "#555555")}
    names = {"local": "at each hospital", "distributed": "shared under masks", "curator": "once, by a curator"}
    for axes, hospitals in zip(panels[0], sizes, strict=True):
        for shift, way in zip((-0.1, 0.0, 0.1), WAYS, strict=True):
            found = [mean_of(rows, way, hospitals, epsilon) for epsilon in epsilons]
            marker, line, colour = looks[way]
            arms = [[each[0] - each[1] for each in found], [each[2] - each[0] for each in found]]
            axes.errorbar(
                [k + shift for k in range(len(epsilons))], [each[0] for each in found], yerr=arms, marker=marker,
                linestyle=line, color=colour, markersize=4, linewidth=1.2, capsize=2, label=names[way],
            )  # fmt: skip
        axes.axhline(mean_of(rows, "local", hospitals, math.inf)[0], color="#999999", linewidth=0.8, linestyle=":",
                     label="no privacy")  # fmt: skip
        axes.set_title(f"{hospitals} hospitals", fontsize=9)
        axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
        axes.set_xlabel("ε of a patient (δ = 1e-5)")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("AUROC, all test patients")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="lower right", title="noise is added")
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict]:
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
        jobs = [
            (way, n, epsilon, seed, sites)
            for n in sizes
            for epsilon in EPSILONS
            for way in (WAYS if math.isfinite(epsilon) else WAYS[:1])
            for seed in seeds
        ]
        with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(one, jobs))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (out / "table.md").write_text(table(rows, sizes))
    (out / "apart.md").write_text(apart(rows, sizes))
    (out / "price.md").write_text(price())
    plot(rows, sizes, out / "privacy_utility.svg")
    print(table(rows, sizes), apart(rows, sizes), price(), sep="\n")
    return rows


if __name__ == "__main__":
    main()
