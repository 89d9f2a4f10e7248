"""What a step costs a hospital under masks, with privacy=distributed beside none, on the same patients in one run.

    python experiments/secagg/step.py [--repeats 21]

One of eight hospitals is watched: its gradient, the rounding to whole numbers, its share of the noise, and its five
steps of the protocol. Every patient is in every step on both sides. Writes step.md beside itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from watch import Watch

from fedhealth.core.update import Update
from fedhealth.models.logistic import Logistic
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.noise import NoiseSource, wide
from fedhealth.privacy.noise_share import NoiseShare, spare_noise
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.masked import Masked
from fedhealth.secagg.protocol.codec import encode
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.terms import Terms
from fedhealth.site.engines.plain import Plain
from fedhealth.site.masked_round import with_noise
from fedhealth.site.summing_engine import SummingEngine

HERE = Path(__file__).parent
SITES, PATIENTS, WIDTH = 8, 256, 62
MODELS = {"logistic": Logistic(), "mlp 64": Mlp(hidden=(64,)), "mlp 1000-935": Mlp(hidden=(1000, 935))}
STAGES = ("gradient", "rounding", "noise", "masking")
#: The coordinator's work at the end: what noise all hospitals don't need together, drawn again and taken off.
TAKEN = "taken off"
MASKED = Masked(min_cohort=6, colluders=1)
PRIVATE = Distributed(epsilon=None, noise_multiplier=1.1, sampling_rate=1.0, max_grad_norm=1.0)


def people() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(PATIENTS, WIDTH)).astype(np.float32)
    return x, (rng.random(PATIENTS) < 0.3).astype(np.float32)


class Round:
    """The hospitals of one question whose answers lie so in the vector; the first is watched."""

    def __init__(self, content, spare=()) -> None:
        self.content, self.watch, self.spare = content, Watch(), spare
        identities = {f"site-{i}": Ed25519PrivateKey.generate() for i in range(SITES)}
        roster = {name: key.public_key().public_bytes_raw() for name, key in identities.items()}
        terms = Terms("step", 1, roster, MASKED.min_cohort, 1, content.layout(SITES), bytes(32))
        self.sites = {
            name: SiteSession.start(terms, name, key, floor=3, seed=os.urandom(32), spare=spare)
            for name, key in identities.items()
        }
        self.server = ServerSession(terms, seed=os.urandom(32), spare_from=tuple(least for least, _ in spare))
        self.layout = terms.layout

    def encoded(self, update: Update):
        weight, values = self.content.values(update)
        return encode(self.layout, weight, values, self.sites["site-0"].rounding_key)

    def masked(self, words) -> None:
        def each(verb: str, told) -> None:
            for name, site in self.sites.items():
                step, given = getattr(site, verb), told(name)
                who = "masking" if name == "site-0" else "others"
                self.server.take(name, self.watch.time(who, step, *given))

        each("advertise", lambda _: ())
        cohort = self.server.cohort()
        each("share", lambda _: (cohort,))
        inboxes = self.server.inboxes()
        each("mask", lambda name: (inboxes[name], words))
        survivors = self.server.survivors()
        each("confirm", lambda _: (survivors,))
        quorum = self.server.quorum()
        each("reveal", lambda _: (quorum,))
        total = self.server.total()
        if self.spare:
            self.watch.time(TAKEN, spare_noise, self.content.lattice, self.server.spare, len(total) - 1)


def step(network, x, y, *, is_private: bool) -> dict[str, float]:
    """Seconds of the watched hospital's processor, by stage."""
    shapes = {f"gradient:{name}": tuple(weight.shape) for name, weight in network.named_parameters()}
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    if is_private:
        lattice, source = PRIVATE.lattice("train", size, rounds=1, sharing=MASKED.sharing(SITES)), NoiseSource()
        share = NoiseShare(lattice, source)
        made = Round(Noised(shapes, lattice), share.spare)
        engine = SummingEngine(mechanism=PRIVATE, rate=1.0, left=1, most=PATIENTS, source=source)
    else:
        made, engine = Round(MASKED.averages(shapes, ("loss",), is_by_patients=True)), Plain()
    watch = made.watch
    loss, gradient = watch.time("gradient", engine.gradient, network, x, y)
    arrays = {f"gradient:{name}": array for name, array in gradient.items()}
    update = Update(1, arrays) if is_private else Update(PATIENTS, arrays, {"loss": loss})
    words = watch.time("rounding", made.encoded, update)
    if is_private:
        words = watch.time("noise", with_noise, words, share)
    made.masked(words)
    return {stage: watch.seconds.get(stage, 0.0) for stage in (*STAGES, TAKEN)}


def main(words: list[str] | None = None, out: Path = HERE) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    repeats = parser.parse_args(words).repeats
    torch.set_num_threads(1)
    x, y = people()
    wide(1, NoiseSource())  # makes the alias table, once a process
    rows, lines = [], ["| model | words | step | gradient | rounding | noise | masking | in all, ms | times plain | taken off, ms |",
                       "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, model in MODELS.items():
        network = first_network(model, WIDTH, seed=1)
        size = sum(weight.numel() for weight in network.parameters())
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        # In turn, so that what else the machine does strikes both.
        for _ in range(repeats + 1):
            for is_private, each in found.items():
                each.append(step(network, x, y, is_private=is_private))
        # The first of each loads what the others have.
        plain, private = ([sum(one[stage] for stage in STAGES) for one in each[1:]] for each in found.values())
        ratio = statistics.median(ours / theirs for ours, theirs in zip(private, plain, strict=True))
        for is_private, each in found.items():
            stages = {stage: 1000 * statistics.median(one[stage] for one in each[1:]) for stage in (*STAGES, TAKEN)}
            total = 1000 * statistics.median(private if is_private else plain)
            shown = " | ".join(f"{stages[stage]:.2f}" for stage in STAGES)
            title, times = ("distributed", f"{ratio:.1f}") if is_private else ("plain", "1.0")
            lines.append(f"| {name} | {size:,} | {title} | {shown} | {total:.1f} | {times} | {stages[TAKEN]:.2f} |")
            rows.append({"words": size, "ms": total, "ratio": ratio if is_private else 1.0, **stages})
            print(lines[-1], flush=True)
    (out / "step.md").write_text("\n".join(lines) + "\n")
    return rows


if __name__ == "__main__":
    main()
