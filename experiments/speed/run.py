"""How fast is a round? FedHealth beside its peers: the same patients, model, batches and rounds.

    python experiments/speed/run.py [--sites 8 100 1000] [--rounds 5] [--only fedhealth torch jax …]

Every engine is a process of its own, so that memory and start are its own. A peer that needs another environment
gets one beside this file, in `.env-<name>`; one that can't be installed or run is a row that says so. What is measured
takes the place of the same row in results.json, from which table.md, the README's table and speed.svg are made. The
rule of a row: its model's AUROC on the test patients equals plain torch's to 0.002, or FedHealth's where torch was not
measured; else it is void.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0"
)

HERE = Path(__file__).parent
#: What is not in FedHealth's own environment. FedJAX wants a JAX of its own time.
TORCH = "torch==2.13.0"
OF_2024 = (
    "jax==0.4.25",
    "jaxlib==0.4.25",
    "numpy==1.26.4",
    "scipy==1.12.0",
    "dm-haiku==0.0.12",
    "optax==0.2.2",
    "chex==0.1.86",
)
NEEDS = {
    "jax": ("jax==0.10.2",),
    "fedjax": (*OF_2024, "fedjax==0.0.17"),
    "pfl-research": (TORCH, "pfl==0.6.0"),
}
INSIDE = ("torch", "fedhealth", "fedhealth 2", "plain engine", "ray")
PEERS = (*INSIDE, *NEEDS)
#: Multiplications and additions of one patient's step of the MLP; nobody needs the gradient of the first layer's input.
FLOPS = 4 * 30 * 64 + 6 * (64 * 32 + 32)
#: Of more sites than this a peer that asks one site after the other, each in a message, is not measured.
MOST = {"ray": 100, "pfl-research": 1000, "torch": 1000, "plain engine": 1000}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    chosen = parser.parse_args()
    if chosen.rounds < 2:
        parser.error("--rounds must be 2 or more: the first, which loads and compiles, is told by itself")
    kept = HERE / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"core": 0.0, "rows": []}
    found["core"] = core()
    for sites in chosen.sites:
        for peer in chosen.only:
            if sites > MOST.get(peer, sites):
                continue
            load = os.getloadavg()[0]
            row = {"peer": peer, "sites": sites, **measured(peer, sites, chosen.rounds), "load": round(load, 1)}
            found["rows"] = [each for each in found["rows"] if (each["peer"], each["sites"]) != (peer, sites)] + [row]
            print(json.dumps(row), flush=True)
            kept.write_text(json.dumps(found, indent=1) + "\n")
    rows = sorted(found["rows"], key=lambda row: (row["sites"], PEERS.index(row["peer"])))
    (HERE / "table.md").write_text(table(rows))
    readme = HERE / "README.md"
    pattern = re.compile(r"\| sites \| engine \|.*?\n(?=\n)", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: table(rows), readme.read_text(), count=1))
    draw(rows, found["core"])


def core() -> float:
    """Multiplications and additions of a core in a second, in products of matrices that fit its cache; the best of many."""
    import numpy as np

    a = np.random.default_rng(1).random((512, 512), dtype=np.float32)
    took = []
    for _ in range(40):
        began = time.perf_counter()
        a @ a
        took.append(time.perf_counter() - began)
    return 2 * 512**3 / min(took)


def measured(peer: str, sites: int, rounds: int) -> dict:
    """What one engine took; an "error" where it could not run."""
    try:
        python = environment(peer)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {"error": f"{NEEDS[peer][-1]} does not install here"}
    began = time.perf_counter()
    command = [python, str(HERE / "peers.py"), peer, str(sites), str(rounds)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "not done in 10 minutes"}
    said = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not said:
        last = (ran.stderr.strip().splitlines() or ["ended without a word"])[-1]
        return {"error": "does not run: " + re.sub(r"/\S+|\|", "…", last)[:90]}
    return json.loads(said[-1]) | {"whole_s": time.perf_counter() - began}


def environment(peer: str) -> str:
    """The interpreter that has the peer."""
    if peer in INSIDE:
        return sys.executable
    folder = HERE / f".env-{peer}"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # Torch goes first and by its exact version, so that no other package pulls in a larger build.
        for packages in ([TORCH] if TORCH in NEEDS[peer] else [], NEEDS[peer]):
            if packages:
                subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, timeout=600)
        (folder / "whole").touch()
    return str(python)


def table(rows: list[dict]) -> str:
    lines = [
        "| sites | engine | s a round, median (range) | times FedHealth's | CPU s a round | first round, s | start to end, s | peak, GB | AUROC | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for sites in dict.fromkeys(row["sites"] for row in rows):
        here = [row for row in rows if row["sites"] == sites]
        ours = next((row for row in here if row["peer"] == "fedhealth" and "error" not in row), None)
        base = next((row for row in here if row["peer"] == "torch" and "error" not in row), ours)
        for row in here:
            if "error" in row:
                lines.append(f"| {sites:,} | {row['peer']} | {row['error']} | | | | | | | |")
                continue
            later = row["rounds_s"][1:]
            middle = statistics.median(later)
            ratio = "" if ours is None else spread(row, ours)
            cpu = f"{row['cpu_s']:.4f}" if "cpu_s" in row else "–"
            void = base is None or not abs(base["auroc"] - row["auroc"]) <= 0.002
            lines.append(
                f"| {sites:,} | {row['peer']} | {middle:.4f} ({min(later):.4f} to {max(later):.4f}) | "
                f"{'void' if void else ratio} | {cpu} | {row['rounds_s'][0]:.2f} | {row['whole_s']:.1f} | "
                f"{row['peak_bytes'] / 1e9:.2f} | {row['auroc']:.4f} | {row.get('load', '–')} |"
            )
    return "\n".join(lines) + "\n"


def spread(row: dict, ours: dict) -> str:
    """How many times FedHealth's round it takes, by medians, and from best to best and worst to worst."""
    theirs, own = row["rounds_s"][1:], ours["rounds_s"][1:]
    ends = sorted((min(theirs) / min(own), max(theirs) / max(own)))
    return f"{statistics.median(theirs) / statistics.median(own):.2f} ({ends[0]:.2f} to {ends[1]:.2f})"


def draw(rows: list[dict], core: float) -> None:
    """Seconds a round by number of sites, log-log, over the floating-point limit of one core."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "fedhealth", "font.size": 9}
    figure, axes = plt.subplots(figsize=(7.6, 4))
    for peer in dict.fromkeys(row["peer"] for row in rows):
        found = [row for row in rows if row["peer"] == peer and "error" not in row]
        if found:
            seconds = [statistics.median(row["rounds_s"][1:]) for row in found]
            axes.plot([row["sites"] for row in found], seconds, marker="o", ms=4, label=peer)
    sizes = sorted({(row["sites"], row["patients"]) for row in rows if "error" not in row})
    axes.plot([s for s, _ in sizes], [n * FLOPS / core for _, n in sizes], "k--", lw=1, label="limit of one core")
    axes.set(xscale="log", yscale="log", xlabel="sites", ylabel="seconds a round")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(HERE / "speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
