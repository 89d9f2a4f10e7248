"""How long does a private step take, beside a plain one and beside Opacus as its quick start uses it?

    python experiments/privacy_speed/run.py [--steps 200] [--repeats 7]

writes table.md beside itself. All three train the same model on the same patients at the same
expected batch, in one process on one core; the clipped sums are compared on one batch first.

    python experiments/privacy_speed/run.py --hospitals

writes hospitals.md in its place: a round of many hospitals, one after the other, all at once, and by Opacus.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.training import LocalTraining
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.patient_level import Course
from fedhealth.site.engines.plain import Plain
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.kernels.private import PrivateJob, fit_private
from fedhealth.site.patient_gradients import clipped_sum
from fedhealth.site.private_engine import PrivateEngine

HERE = Path(__file__).parent
PATIENTS, WIDTH, RATE, NOISE, BOUND, LEARNING = 1200, 54, 64 / 1200, 1.1, 1.0, 0.1
#: Hospitals, and about how many patients each has.
SIZES = ((8, 2000), (100, 200))
MODELS = {"logistic": Logistic(), "mlp 64-32": Mlp(hidden=(64, 32)), "mlp 256-256": Mlp(hidden=(256, 256))}


def people():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(PATIENTS, WIDTH)).astype(np.float32)
    return x, (rng.random(PATIENTS) < 0.3).astype(np.float32)


def plain(network, x, y, steps):
    training = LocalTraining(steps=steps, batch_size=64, learning_rate=LEARNING)
    Plain().fit(network, x, y, training, np.random.default_rng(0))


def private(network, x, y, steps):
    mechanism = DpSgd(epsilon=None, noise_multiplier=NOISE, max_grad_norm=BOUND, sampling_rate=RATE)
    engine = PrivateEngine(
        mechanism=mechanism, course=Course(RATE, steps, NOISE), size=PATIENTS, left=steps, bound=BOUND,
        source=NoiseSource(),
    )  # fmt: skip
    engine.fit(network, x, y, LocalTraining(steps=steps, learning_rate=LEARNING), np.random.default_rng(0))


def opacus(network, x, y, steps, batch=64):
    """Its quick start: a data loader, hooks and an optimiser, made private by one call."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=batch)
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING)
    made, optimiser, loader = PrivacyEngine().make_private(
        module=network.train(), optimizer=optimiser, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=BOUND
    )
    taken = 0
    while taken < steps:
        for rows, outcome in loader:
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(made(rows).squeeze(1), outcome).backward()
            optimiser.step()
            taken += 1
            if taken == steps:
                break


def largest_difference(model, x, y) -> float:
    """Between our clipped sum and that of Opacus, over all weights, on one batch."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    rows, outcome = torch.from_numpy(x[:64]), torch.from_numpy(y[:64])
    theirs = GradSampleModule(first_network(model, WIDTH, seed=1), loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=BOUND,
        expected_batch_size=1, loss_reduction="sum",
    )  # fmt: skip
    binary_cross_entropy_with_logits(theirs(rows).squeeze(1), outcome, reduction="sum").backward()
    optimiser.pre_step()
    network = first_network(model, WIDTH, seed=1).double()
    names = [name for name, _ in network.named_parameters()]
    ours, _ = clipped_sum(ExactNetwork(network).gradients(rows.double(), outcome.double(), names), BOUND)
    pairs = zip(ours, theirs.parameters(), strict=True)
    return max(float((one.detach() - weight.summed_grad.ravel()).abs().max()) for one, weight in pairs)


def hospitals(sites, patients, model):
    """One pass of private training at each hospital, and how many steps that is: by each way what takes no argument."""
    rng, network = np.random.default_rng(sites), first_network(model, WIDTH, seed=1)
    weights, training = weights_of(network), LocalTraining(epochs=1, batch_size=32, learning_rate=LEARNING)
    data = [(rng.normal(size=(n, WIDTH)).astype(np.float32), (rng.random(n) < 0.3).astype(np.float32))
            for n in rng.integers(int(0.75 * patients), int(1.25 * patients), sites)]  # fmt: skip

    def jobs():
        for place, (x, y) in enumerate(data):
            mechanism, course = DpSgd(epsilon=None, noise_multiplier=NOISE), Course(32 / len(y), 10**6, NOISE)
            engine = PrivateEngine(
                mechanism=mechanism, course=course, size=len(y), left=10**6, bound=BOUND,
                source=NoiseSource(insecure_seed=place),
            )  # fmt: skip
            yield PrivateJob(network, weights, x, y, training, rng, engine=engine)

    def one_by_one():
        found = []
        for job in jobs():
            load_weights(network, weights)
            job.engine.fit(network, job.x, job.y, training, rng)
            found.append(weights_of(network))
        return found

    def at_once():
        return [fitted.weights for fitted in fit_private(list(jobs()))]

    steps = [DpSgd().steps(training, 32 / len(y)) for _, y in data]

    def by_opacus():
        for (x, y), count in zip(data, steps, strict=True):
            opacus(first_network(model, WIDTH, seed=1), x, y, count, batch=32)

    return {"one by one": one_by_one, "at once": at_once, "Opacus": by_opacus}, sum(steps)


def many(repeats: int, out: Path) -> list[dict[str, float]]:
    """The rounds of many hospitals, also written as hospitals.md."""
    rows = []
    for sites, patients in SIZES:
        for name, model in list(MODELS.items())[:2]:
            ways, steps = hospitals(sites, patients, model)
            took: dict[str, list[float]] = {way: [] for way in ways}
            pairs = zip(ways["one by one"](), ways["at once"](), strict=True)
            apart = max(float(abs(one[key] - other[key]).max()) for one, other in pairs for key in one)
            for _ in range(repeats):
                for way, round_ in ways.items():
                    start = time.process_time()
                    round_()
                    took[way].append(time.process_time() - start)
            medians = {way: statistics.median(each) for way, each in took.items()}
            rows.append({"sites": sites, "model": name, "steps": steps, **medians, "apart": apart})
    lines = ["| hospitals | model | steps of all | one by one, s | at once, s | Opacus, s | times as fast as one by one | as Opacus | weights differ by |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['sites']} | {r['model']} | {r['steps']} | {r['one by one']:.3f} | {r['at once']:.3f} | {r['Opacus']:.3f} "
        f"| {r['one by one'] / r['at once']:.1f} | {r['Opacus'] / r['at once']:.1f} | {r['apart']:.0e} |"
        for r in rows
    ]
    (out / "hospitals.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return rows


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--hospitals", action="store_true", help="time a round of many hospitals in place of one's steps"
    )
    chosen = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if chosen.hospitals:
        return many(chosen.repeats, out)
    x, y = people()
    rows = []
    for name, model in MODELS.items():
        took: dict[str, list[float]] = {"plain": [], "private": [], "opacus": []}
        for _ in range(chosen.repeats):
            # Of the processor's time, which other users of the machine take less from; and in turn, so that they strike all.
            for way in (plain, private, opacus):
                network = first_network(model, WIDTH, seed=1)
                start = time.process_time()
                way(network, x, y, chosen.steps)
                took[way.__name__].append((time.process_time() - start) / chosen.steps * 1e3)
        ratios = [theirs / ours for theirs, ours in zip(took["opacus"], took["private"], strict=True)]
        medians = {way: statistics.median(each) for way, each in took.items()}
        rows.append(
            {"model": name, **medians, "ratio": statistics.median(ratios), "apart": largest_difference(model, x, y)}
        )
    lines = ["| model | plain step, ms | private step, ms | Opacus, ms | times as fast as Opacus | clipped sums differ by |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['model']} | {r['plain']:.2f} | {r['private']:.2f} | {r['opacus']:.2f} | {r['ratio']:.1f} | {r['apart']:.0e} |"
        for r in rows
    ]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return rows


if __name__ == "__main__":
    main()
