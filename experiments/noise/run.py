"""What noise costs: the sampler beside numpy's and torch's normal and an exact one, in the same run.

    python experiments/noise/run.py

Writes table.md beside itself.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from fedhealth.core.lattice import Sharing
from fedhealth.privacy.alias_table import SIGMA, alias_table
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.noise import NoiseSource, narrow, noisy, wide
from fedhealth.privacy.noise_share import NoiseShare

HERE = Path(__file__).parent
DRAWS, ROUNDS, SLOW = 1 << 20, 15, 300


def main() -> None:
    sys.path.insert(0, str(HERE.parents[1] / "tests" / "privacy"))
    import cks  # the oracle of the tests

    torch.set_num_threads(1)
    began = time.perf_counter()
    alias_table()
    table_ms = 1000 * (time.perf_counter() - began)
    source, rng, exact = NoiseSource(), np.random.default_rng(1), random.SystemRandom()
    total = rng.standard_normal(DRAWS)
    # Of eight hospitals, six at least of which are in a sum: for eight, for seven and for six.
    shared = Distributed(epsilon=None, noise_multiplier=1.1, sampling_rate=0.1)
    lattice = shared.lattice("train", DRAWS, rounds=1, sharing=Sharing(8, 6, 1))
    ways = {
        "numpy `standard_normal`": (DRAWS, lambda: rng.standard_normal(DRAWS)),
        "torch `randn`, float32": (DRAWS, lambda: torch.randn(DRAWS)),
        "torch, four draws as in a secure mode": (DRAWS, lambda: sum(torch.randn(DRAWS) for _ in range(4)) / 2),
        "`narrow`, parameter 1,024": (DRAWS, lambda: narrow(DRAWS, source)),
        "`wide`, parameter 491,521": (DRAWS, lambda: wide(DRAWS, source)),
        "a hospital's share, in three parts": (DRAWS, lambda: NoiseShare(lattice, source).draw(DRAWS)),
        "numpy: sum plus noise": (DRAWS, lambda: total + 1.5 * rng.standard_normal(DRAWS)),
        "`noisy`: rounding, noise, lattice": (
            DRAWS,
            lambda: noisy(total, noise_multiplier=1.5, sensitivity=1.0, source=source),
        ),
        "exact sampler, rational arithmetic": (
            SLOW,
            lambda: [cks.discrete_gaussian(SIGMA, exact) for _ in range(SLOW)],
        ),
    }
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine strikes all alike
        for name, (n, draw) in ways.items():
            began = time.perf_counter()
            draw()
            seconds[name].append((time.perf_counter() - began) / n)
    ns = {name: 1e9 * statistics.median(found) for name, found in seconds.items()}
    base = ns["numpy `standard_normal`"]
    lines = ["| way | ns a draw | times numpy's |", "|---|---|---|"]
    lines += [f"| {name} | {value:,.1f} | {value / base:,.1f} |" for name, value in ns.items()]
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"making the table: {table_ms:.0f} ms")


if __name__ == "__main__":
    main()
