"""How long does a private step take, beside a plain one and beside Opacus as its quick start uses it?

    python experiments/privacy_speed/run.py [--steps 200] [--repeats 7]

writes table.md beside itself. All three train the same model on the same patients at the same
expected batch, in one process on one core; the clipped sums are compared on one batch first.

    python experiments/privacy_speed/run.py --hospitals

writes hospitals.md in its place, and puts it into the README: a round of many hospitals, one after the other, all at
once by torch and in C, and by Opacus. All train the same model of the patients of experiments/speed (a series has patients of its own) from
the same weights, by as many steps at the same rate, clip and noise.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.core.training import LocalTraining
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.patient_level import Course
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.native import Native
from fedhealth.site.engines.plain import Plain
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.kernels.private import PrivateJob
from fedhealth.site.patient_gradients import clipped_sum
from fedhealth.site.private_engine import PrivateEngine

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "speed"))
from machine import machine, measured_on  # noqa: E402
from peers import Data, auroc_of  # noqa: E402

PATIENTS, WIDTH, RATE, NOISE, BOUND, LEARNING = 1200, 54, 64 / 1200, 1.1, 1.0, 0.1
MODELS = {"logistic": Logistic(), "mlp 64-32": Mlp(hidden=(64, 32)), "mlp 256-256": Mlp(hidden=(256, 256))}
#: Hospitals, and the models that they train; of a series 48 steps of 12 channels.
ROUNDS = (
    (8, "logistic"), (8, "mlp 64-32"), (100, "logistic"), (100, "mlp 64-32"), (8, "gru 32"), (8, "cnn 32-32")
)  # fmt: skip
SERIES = {"gru 32": Gru(steps=48), "cnn 32-32": Cnn(steps=48)}


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
    """Its quick start: a data loader, hooks and an optimiser, made private by one call. The weights after the steps."""
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator
    from torch.utils.data import DataLoader, TensorDataset

    # A GRU is put together anew, of layers that it has hooks for.
    network = network if ModuleValidator.is_valid(network) else ModuleValidator.fix(network)

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
    return network.state_dict()


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


class Hospitals:
    """The hospitals of a round and their model; each way gives every hospital's weights after a pass of private steps."""

    training = LocalTraining(epochs=1, batch_size=32, learning_rate=LEARNING)

    def __init__(self, sites: int, name: str) -> None:
        data = Data(sites)
        self.patients, self.test = list(zip(data.x, data.y, strict=True)), data.test
        if name in SERIES:
            rng = np.random.default_rng(sites)
            sizes = rng.integers(375, 625, sites)
            self.patients = [
                (rng.normal(size=(n, 576)).astype(np.float32), np.float32(rng.random(n) < 0.3)) for n in sizes
            ]
        self.model, self.width = (MODELS | SERIES)[name], self.patients[0][0].shape[1]
        self.network = first_network(self.model, self.width, seed=1)
        self.weights = weights_of(self.network)
        self.steps = [DpSgd().steps(self.training, 32 / len(y)) for _, y in self.patients]

    def jobs(self) -> list[PrivateJob]:
        found = []
        for place, (x, y) in enumerate(self.patients):
            mechanism, course = DpSgd(epsilon=None, noise_multiplier=NOISE), Course(32 / len(y), 10**6, NOISE)
            engine = PrivateEngine(
                mechanism=mechanism, course=course, size=len(y), left=10**6, bound=BOUND,
                source=NoiseSource(insecure_seed=place),
            )  # fmt: skip
            found.append(
                PrivateJob(self.network, self.weights, x, y, self.training, np.random.default_rng(0), engine=engine)
            )
        return found

    def one_by_one(self):
        found = []
        for job in self.jobs():
            load_weights(self.network, self.weights)
            job.engine.fit(self.network, job.x, job.y, self.training, job.rng)
            found.append(weights_of(self.network))
        return found

    def at_once(self, engine=Batched()):  # noqa: B008 - settings alone
        found = engine.fit_private(self.jobs())
        for refused in found:
            if isinstance(refused, Exception):
                raise refused
        return [fitted.weights for fitted in found]

    def in_c(self):
        return self.at_once(Native())

    def by_opacus(self):
        found = []
        # Its draws and its noise come from here; so the table says the same each time.
        torch.manual_seed(0)
        for (x, y), steps in zip(self.patients, self.steps, strict=True):
            network = first_network(self.model, self.width, seed=1)
            trained = opacus(network, x, y, steps, batch=32)
            found.append({name: array.detach().numpy() for name, array in trained.items()})
        return found

    def auroc(self, each) -> float:
        """Of the mean by patients of every hospital's weights, on the test patients."""
        sizes = [len(y) for _, y in self.patients]
        mean = {name: np.average([own[name] for own in each], axis=0, weights=sizes) for name in self.weights}
        load_weights(self.network, {name: array.astype(np.float32) for name, array in mean.items()})
        return auroc_of(Plain().score(self.network, self.test[0]), self.test[1])


def many(repeats: int, out: Path) -> list[dict]:
    """The rounds of many hospitals, also written as hospitals.md."""
    rows = []
    for sites, name in ROUNDS:
        asked = Hospitals(sites, name)
        row = {"sites": sites, "model": name, "steps": sum(asked.steps), **machine()}
        ways = {
            "one by one": asked.one_by_one, "at once": asked.at_once, "in C": asked.in_c, "Opacus": asked.by_opacus,
        }  # fmt: skip
        first, *others = (round_() for way, round_ in ways.items() if way != "Opacus")
        row["apart"] = max(
            float(abs(a[key] - b[key]).max())
            for other in others
            for a, b in zip(first, other, strict=True)
            for key in a
        )
        if name not in SERIES:
            row |= {"auroc": asked.auroc(first), "auroc of Opacus": asked.auroc(asked.by_opacus())}
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, round_ in ways.items():
                start = time.process_time()
                round_()
                took[way].append(time.process_time() - start)
        rows.append(row | took)
        print(rows[-1], flush=True)
    text = table_of(rows)
    (out / "hospitals.md").write_text(text)
    if out == HERE:
        readme, pattern = HERE / "README.md", re.compile(r"Measured [^\n]*:\n\n\| hospitals \|.*?\n(?=\n)", re.DOTALL)
        readme.write_text(pattern.sub(lambda _: text, readme.read_text(), count=1))
    return rows


def table_of(rows: list[dict]) -> str:
    lines = [
        measured_on(rows),
        "",
        "| hospitals | model | steps of all | one by one, s | at once, s | in C, s | Opacus, s | at once, times as fast as Opacus | in C | AUROC | Opacus's | weights differ by | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        opacus_s = f"{statistics.median(row['Opacus']):.3f}"
        start = f"| {row['sites']} | {row['model']} | {row['steps']} |"
        ours = " | ".join(f"{statistics.median(row[way]):.3f}" for way in ("one by one", "at once", "in C"))
        ratios = " | ".join(times(row["Opacus"], row[way]) for way in ("at once", "in C"))
        # A series is noise, of which there is nothing to learn.
        aurocs = " | ".join(f"{row[key]:.3f}" if key in row else "–" for key in ("auroc", "auroc of Opacus"))
        lines.append(f"{start} {ours} | {opacus_s} | {ratios} | {aurocs} | {row['apart']:.0e} | {row['load']} |")
    return "\n".join(lines) + "\n"


def times(theirs: list[float], ours: list[float]) -> str:
    """How many times as long: the median of the repeats, which take the ways in turn, and the least and most of them."""
    each = [one / other for one, other in zip(theirs, ours, strict=True)]
    return f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})"


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
