"""How long does a round of networks over time take, one hospital after the other and all at once?

    python experiments/speed/series.py [--repeats 5]

writes series.md beside itself. Both ways train the same network from the same weights on the same mini-batches of 32, one
pass over each hospital's patients, in one process on one core; the weights are compared first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from fedhealth.core.training import LocalTraining
from fedhealth.models.cnn import Cnn
from fedhealth.models.gru import Gru
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.site.engines.batched import Batched
from fedhealth.site.engines.plain import Plain
from fedhealth.site.kernels.fit import FitJob

HERE = Path(__file__).parent
#: Two days by the hour of 12 channels, beside 4 columns that have no time.
STEPS, CHANNELS, STATIC = 48, 12, 4
MODELS = {"gru 32": Gru(steps=STEPS, static=STATIC), "cnn 32-32": Cnn(steps=STEPS, static=STATIC)}
TRAINING = LocalTraining(epochs=1, batch_size=32, learning_rate=0.1)


def rounds(model, sites, patients):
    """A round by each way, as what takes no argument, and how many steps it has."""
    rng, width = np.random.default_rng(sites), STATIC + STEPS * CHANNELS
    network = first_network(model, width, seed=1)
    weights = weights_of(network)
    data = [(rng.normal(size=(n, width)).astype(np.float32), (rng.random(n) < 0.3).astype(np.float32))
            for n in rng.integers(int(0.75 * patients), int(1.25 * patients), sites)]  # fmt: skip

    def jobs():
        return [FitJob(network, weights, x, y, TRAINING, np.random.default_rng(k)) for k, (x, y) in enumerate(data)]

    def one_by_one():
        found = []
        for job in jobs():
            load_weights(network, weights)
            Plain().fit(network, job.x, job.y, TRAINING, job.rng)
            found.append(weights_of(network))
        return found

    def at_once():
        return [fitted.weights for fitted in Batched().fit_all(jobs())]

    return one_by_one, at_once, sum(job.steps for job in jobs())


def main(words: list[str] | None = None, out: Path = HERE, sizes=((8, 500), (100, 200))) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = []
    for sites, patients in sizes:
        for name, model in MODELS.items():
            one_by_one, at_once, steps = rounds(model, sites, patients)
            pairs = zip(one_by_one(), at_once(), strict=True)
            apart = max(float(abs(one[key] - other[key]).max()) for one, other in pairs for key in one)
            took: dict[str, list[float]] = {"one_by_one": [], "at_once": []}
            for _ in range(chosen.repeats):
                # In turn, and of the processor's time: what else the machine does strikes both.
                for way in (one_by_one, at_once):
                    start = time.process_time()
                    way()
                    took[way.__name__].append(time.process_time() - start)
            medians = {way: statistics.median(each) for way, each in took.items()}
            rows.append({"sites": sites, "model": name, "steps": steps, **medians, "apart": apart})
    lines = ["| hospitals | model | steps of all | one by one, s | at once, s | times as fast | weights differ by |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['sites']} | {r['model']} | {r['steps']} | {r['one_by_one']:.3f} | {r['at_once']:.3f} "
        f"| {r['one_by_one'] / r['at_once']:.1f} | {r['apart']:.0e} |"
        for r in rows
    ]
    (out / "series.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return rows


if __name__ == "__main__":
    main()
