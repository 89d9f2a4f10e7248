"""How fast is a round? FedHealth beside its peers: the same patients, model, batches and rounds, in one run.

    python experiments/speed/run.py [--sites 8 100 1000] [--rounds 5] [--only fedhealth torch jax ray]

Every engine is a process of its own, so that memory and start are its own. A peer that needs another environment
gets one beside this file, in `.env-<name>`; one that can't be installed is a row that says so. Writes table.md and
speed.svg. The rule of a row: its model's AUROC on the test patients equals plain torch's to 0.002, else it is void.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")

HERE = Path(__file__).parent
#: What is not in FedHealth's own environment.
NEEDS = {"jax": "jax==0.10.2"}
INSIDE = ("torch", "fedhealth", "fedhealth 2", "plain engine", "ray")
PEERS = (*INSIDE, "jax")
#: Multiplications and additions of one patient's step of the MLP, and of a core in a second where nothing else limits it.
FLOPS, CORE = 6 * (30 * 64 + 64 * 32 + 32), 1e11


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(PEERS))
    parser.add_argument("--most-on-ray", type=int, default=100)
    chosen = parser.parse_args()
    rows = []
    for sites in chosen.sites:
        for peer in chosen.only:
            if peer == "ray" and sites > chosen.most_on_ray:
                continue
            rows.append({"peer": peer, "sites": sites, **measured(peer, sites, chosen.rounds)})
            print(json.dumps(rows[-1]), flush=True)
    (HERE / "table.md").write_text(table(rows))
    draw(rows)


def measured(peer: str, sites: int, rounds: int) -> dict:
    """What one engine took; an "error" where it could not run."""
    try:
        python = environment(peer)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {"error": f"{NEEDS[peer]} does not install here"}
    began = time.perf_counter()
    command = [python, str(HERE / "peers.py"), peer, str(sites), str(rounds)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "not done in 10 minutes"}
    said = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not said:
        return {"error": (ran.stderr.strip().splitlines() or ["ended without a word"])[-1][:90]}
    return json.loads(said[-1]) | {"whole_s": time.perf_counter() - began}


def environment(peer: str) -> str:
    """The interpreter that has the peer."""
    if peer in INSIDE:
        return sys.executable
    folder = HERE / f".env-{peer}"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", NEEDS[peer]], check=True, timeout=300)
        (folder / "whole").touch()
    return str(python)


def table(rows: list[dict]) -> str:
    lines = [
        "| sites | engine | s a round, median (range) | times FedHealth's | CPU s a round | first round, s | start to end, s | peak, GB | AUROC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for sites in dict.fromkeys(row["sites"] for row in rows):
        here = [row for row in rows if row["sites"] == sites]
        ours = next((row for row in here if row["peer"] == "fedhealth" and "error" not in row), None)
        base = next((row for row in here if row["peer"] == "torch" and "error" not in row), None)
        for row in here:
            if "error" in row:
                lines.append(f"| {sites:,} | {row['peer']} | {row['error']} | | | | | | |")
                continue
            later = row["rounds_s"][1:]
            middle = statistics.median(later)
            ratio = "" if ours is None else spread(row, ours)
            void = base is not None and abs(base["auroc"] - row["auroc"]) > 0.002
            lines.append(
                f"| {sites:,} | {row['peer']} | {middle:.4f} ({min(later):.4f} to {max(later):.4f}) | "
                f"{'void' if void else ratio} | {row.get('cpu_s', math.nan):.4f} | {row['rounds_s'][0]:.2f} | {row['whole_s']:.1f} | "
                f"{row['peak_bytes'] / 1e9:.2f} | {row['auroc']:.4f} |"
            )
    return "\n".join(lines).replace("nan", "–") + "\n"


def spread(row: dict, ours: dict) -> str:
    """How many times FedHealth's round it takes, by medians, and from best to best and worst to worst."""
    theirs, own = row["rounds_s"][1:], ours["rounds_s"][1:]
    ends = sorted((min(theirs) / min(own), max(theirs) / max(own)))
    return f"{statistics.median(theirs) / statistics.median(own):.2f} ({ends[0]:.2f} to {ends[1]:.2f})"


def draw(rows: list[dict]) -> None:
    """Seconds a round by number of sites, log-log, over the floating-point limit of one core."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "fedhealth", "font.size": 9}
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for peer in dict.fromkeys(row["peer"] for row in rows):
        found = [row for row in rows if row["peer"] == peer and "error" not in row]
        if found:
            seconds = [statistics.median(row["rounds_s"][1:]) for row in found]
            axes.plot([row["sites"] for row in found], seconds, marker="o", ms=4, label=peer)
    sizes = sorted({(row["sites"], row["patients"]) for row in rows if "error" not in row})
    axes.plot([s for s, _ in sizes], [n * FLOPS / CORE for _, n in sizes], "k--", lw=1, label="limit of one core")
    axes.set(xscale="log", yscale="log", xlabel="sites", ylabel="seconds a round")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
