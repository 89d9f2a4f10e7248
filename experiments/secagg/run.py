"""What secure aggregation costs: FedHealth's protocol beside the functions of Flower's SecAgg+, in one run.

    python experiments/secagg/run.py [--quick]

Every message of ours is made, packed, read and checked; a site's time is the median over the
sites, and up to 50 sites both sides' the median of three rounds. Sites are lost between sharing
their keys and sending their vector. Writes table.md and times.png beside itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np
import secaggplus
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from watch import Cost, Watch, median

from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.secagg.protocol.graph import plan
from fedhealth.secagg.protocol.keys import public_bytes, vector_tag
from fedhealth.secagg.protocol.layout import Layout, Reals
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.streams import BLOCK_BYTES, add_streams, cipher_of
from fedhealth.secagg.protocol.terms import Terms

HERE = Path(__file__).parent
WEIGHT, WEIGHT_MAX, CLIP = 300, 1000, 8.0
COLLUDERS, LOSSES_PERCENT = 0, 30

HEAD = """\
| sites | parameters | lost | site, ms | Flower's | ratio | coordinator, ms | Flower's | ratio | bytes a site sends | Flower's vector |
|---|---|---|---|---|---|---|---|---|---|---|"""
CIPHER_HEAD = """\
| words | masks | masking, ms | AES-256-CTR alone | ratio | copying the words as often | masking on two threads |
|---|---|---|---|---|---|---|"""


def lost_of(n: int, percent: int) -> int:
    return max(1, round(n * percent / 100)) if percent else 0


class Bench:
    """One round of ours, with a watch on every site and the coordinator."""

    def __init__(self, n: int, d: int) -> None:
        identities = {f"site-{i:03d}": Ed25519PrivateKey.generate() for i in range(n)}
        roster = {name: identity.public_key().public_bytes_raw() for name, identity in identities.items()}
        layout = Layout((Reals("model", d, CLIP),), WEIGHT_MAX, n)
        self.terms = Terms("benchmark", 1, roster, 3, COLLUDERS, layout, bytes(32), LOSSES_PERCENT)
        self.sites = {
            name: SiteSession.start(self.terms, name, identity, floor=3, seed=os.urandom(32))
            for name, identity in identities.items()
        }
        self.watch, self.sent = Watch(), dict.fromkeys(self.terms.names, 0)
        self.server = self.watch.time("server", lambda: ServerSession(self.terms, seed=os.urandom(32)))
        self.beside = 0

    def step(self, name: str, verb, *told: bytes) -> None:
        """A site's step, from the bytes it is told to those it sends, and the coordinator taking them."""
        packed = self.watch.time(name, lambda: verb(*map(unpack, told)).pack())
        self.sent[name] += len(packed)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        self.watch.time("server", lambda: self.server.take(name, unpack(packed)))
        self.beside = max(self.beside, tracemalloc.get_traced_memory()[1] - before)

    def told(self, close) -> bytes:
        return self.watch.time("server", lambda: close().pack())

    def run(self, lost: int, values: np.ndarray) -> Cost:
        layout, left = self.terms.layout, self.terms.names[lost:]
        for name, site in self.sites.items():
            self.step(name, site.advertise)
        cohort = self.told(self.server.cohort)
        for name, site in self.sites.items():
            self.step(name, site.share, cohort)
        inboxes = self.watch.time("server", lambda: {to: inbox.pack() for to, inbox in self.server.inboxes().items()})

        def masked(site: SiteSession):
            words = encode(layout, WEIGHT, {"model": values}, site.rounding_key)
            return lambda inbox: site.mask(inbox, words)

        for name in left:
            self.step(name, self.watch.time(name, masked, self.sites[name]), inboxes[name])
        survivors = self.told(self.server.survivors)
        for name in left:
            self.step(name, self.sites[name].confirm, survivors)
        quorum = self.told(self.server.quorum)
        for name in left:
            self.step(name, self.sites[name].reveal, quorum)
        total = self.watch.time("server", lambda: decode(layout, self.server.total(), len(left)))
        if np.abs(total.sums["model"] / total.weight - values).max() > 1e-4:
            raise RuntimeError("the sum is wrong")
        site_s = statistics.median(self.watch.seconds[name] for name in left)
        return Cost(site_s, self.watch.seconds["server"], max(self.sent.values()))


def cipher_row(d: int, streams: int, repeats: int = 7) -> str:
    """Masking, the cipher alone and copying, in turns; medians of wall time."""
    words, other = np.zeros(d, "<u4"), np.zeros(d, "<u4")
    keys = [os.urandom(32) for _ in range(streams)]
    zeros, out = memoryview(bytes(BLOCK_BYTES)), bytearray(BLOCK_BYTES + 16)

    def cipher() -> None:
        for key in keys:
            enciphering = cipher_of(key)
            for start in range(0, words.nbytes, BLOCK_BYTES):
                enciphering.update_into(zeros[: words.nbytes - start], out)

    def copies() -> None:
        for _ in range(streams):
            np.copyto(other, words)

    ways = (lambda: add_streams(words, keys, []), cipher, copies, lambda: add_streams(words, keys, [], threads=2))
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, times in zip(ways, found, strict=True):
            began = time.perf_counter()
            way()
            times.append(time.perf_counter() - began)
    masking, alone, copying, threaded = (1000 * statistics.median(times) for times in found)
    return (
        f"| {d:,} | {streams} | {masking:.1f} | {alone:.1f} | {masking / alone:.2f} | {copying:.1f} | {threaded:.1f} |"
    )


def tag_ms(d: int, repeats: int = 9) -> float:
    words, watch = np.zeros(d, "<u4"), Watch()
    key = X25519PrivateKey.from_private_bytes(os.urandom(32))
    for repeat in range(repeats):
        watch.time(str(repeat), vector_tag, key, public_bytes(key), b"", 0, words)
    return 1000 * statistics.median(watch.seconds.values())


def held(n: int, d: int) -> str:
    """What the coordinator needs beside its sum and the vector it was just sent."""
    tracemalloc.start()
    bench = Bench(n, d)
    bench.run(0, np.zeros(d, np.float32))
    tracemalloc.stop()
    return f"{bench.beside / 1024:.0f} KiB with {n} sites"


def plot(rows: list[tuple[int, int, int, Cost, Cost]]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    largest = max(d for _, d, *_ in rows)
    shown = [row for row in rows if row[1] == largest]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    places = np.arange(len(shown))
    for axis, who, side in ((axes[0], "A site", "site_s"), (axes[1], "The coordinator", "server_s")):
        for label, at, shift, colour in (("FedHealth", 3, -0.2, "#0b6e99"), ("Flower SecAgg+", 4, 0.2, "#c9a227")):
            axis.bar(places + shift, [getattr(row[at], side) for row in shown], 0.4, label=label, color=colour)
        axis.set_yscale("log")
        axis.set_xticks(places, [f"{n} sites, {lost} lost" for n, _, lost, *_ in shown], rotation=60, ha="right")
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{who}, {largest:,} parameters", fontsize=9)
    axes[0].set_ylabel("seconds a round")
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "times.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few sites and parameters, and no files written")
    quick = parser.parse_args().quick
    sites, sizes = ((8, 12), (1000, 10_000)) if quick else ((8, 50, 100, 200), (10_000, 1_000_000))
    large = 100_000 if quick else 10_000_000
    rows, lines = [], [HEAD]
    for n in sites:
        peers, threshold = plan(n, COLLUDERS, LOSSES_PERCENT)
        for d in sizes:
            values = np.random.default_rng(0).uniform(-0.1, 0.1, d).astype(np.float32)
            for lost in (lost_of(n, percent) for percent in (0, 10, 30)):
                of = (n, peers, threshold, lost, (WEIGHT, WEIGHT_MAX), CLIP, values)
                rounds = range(3 if n <= 50 else 1)
                mine = median([Bench(n, d).run(lost, values) for _ in rounds])
                theirs = median([secaggplus.cost(*of) for _ in rounds])
                rows.append((n, d, lost, mine, theirs))
                each = (mine.site_bytes - 4 * d) / peers
                lines.append(
                    f"| {n} | {d:,} | {lost} | {1000 * mine.site_s:.1f} | {1000 * theirs.site_s:,.0f} "
                    f"| {theirs.site_s / mine.site_s:.1f} | {1000 * mine.server_s:,.0f} | {1000 * theirs.server_s:,.0f} "
                    f"| {theirs.server_s / mine.server_s:,.0f} | 4 a parameter, {each:.0f} a peer "
                    f"| {theirs.site_bytes / d:.0f} a parameter |"
                )
                print(lines[-1], flush=True)
    one = Bench(8, large).run(0, np.zeros(large, np.float32))
    words = sizes[-1]
    lines += ["", CIPHER_HEAD, *(cipher_row(d, n) for d, n in ((words, 8), (words, 50), (large, 8)))]
    memory = " and ".join(held(n, words) for n in sites[:2])
    lines += [
        "",
        f"One of 8 sites with {large:,} parameters takes {one.site_s:.2f} s.",
        f"Of both sides' time, the tag of {words:,} words takes {tag_ms(words):.2f} ms a vector.",
        f"Beside its sum and the vector that comes in, the coordinator needs {memory}.",
    ]
    print("\n".join(lines[len(rows) + 1 :]))
    if not quick:
        (HERE / "table.md").write_text("\n".join(lines) + "\n")
        plot(rows)


if __name__ == "__main__":
    main()
