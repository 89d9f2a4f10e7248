"""How fast is a round? FedHealth beside its peers: the same patients, model, batches and rounds.

    python experiments/speed/run.py [--sites 8 100 1000] [--rounds 5] [--only fedhealth torch jax …]

Every engine is a process of its own, so that memory and start are its own. A peer that needs another environment
gets one beside this file, in `.env-<name>`; one that can't be installed or run is a row that says so. What is measured
takes the place of the same row in results.json, with the day, the processor and its load, from which table.md, the
README's table and speed.svg are made. Two have tables of their own, by programs that are run last: `studies`, whole
studies, masked and private ones among them, and `opacus`, whose private rounds stand beside FedHealth's in
experiments/privacy_speed. The rule of a row: its model's AUROC on the test patients equals plain torch's to 0.002, or FedHealth's where torch was not
measured; else it is void.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import machine, measured_on

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
    "nvflare": (TORCH, "nvflare==2.9.0"),
}
INSIDE = ("torch", "fedhealth", "fedhealth 2", "native", "native 2", "plain engine", "ray")
PEERS = (*INSIDE, *NEEDS)
#: Multiplications and additions of one patient's step of the MLP; nobody needs the gradient of the first layer's input.
FLOPS = 4 * 30 * 64 + 6 * (64 * 32 + 32)
#: Of more sites than this a peer is not measured, and why.
MOST = {
    "torch": (1000, "one site after the other"),
    "plain engine": (1000, "one site after the other"),
    "pfl-research": (1000, "one site after the other"),
    "ray": (100, "a message to an actor for each site"),
    "nvflare": (8, "a process for each site"),
}
#: Those that are many processes.
TREES = ("ray", "nvflare")
#: What has a table of its own, and the program that makes it.
BESIDE = {
    "studies": (str(HERE / "studies.py"),),
    "opacus": (str(HERE.parent / "privacy_speed" / "run.py"), "--hospitals", "--repeats", "3"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=(*PEERS, *BESIDE), default=[*PEERS, *BESIDE])
    chosen = parser.parse_args()
    if chosen.rounds < 2:
        parser.error("--rounds must be 2 or more: the first, which loads and compiles, is told by itself")
    kept = HERE / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"core": 0.0, "rows": []}
    # What a busy machine gives is not its limit.
    found["core"] = max(found["core"], core())
    for sites in chosen.sites:
        for peer in (peer for peer in PEERS if peer in chosen.only):
            row = {"peer": peer, "sites": sites, **machine(), **measured(peer, sites, chosen.rounds)}
            found["rows"] = [each for each in found["rows"] if (each["peer"], each["sites"]) != (peer, sites)] + [row]
            print(json.dumps(row), flush=True)
            kept.write_text(json.dumps(found, indent=1) + "\n")
    rows = sorted(found["rows"], key=lambda row: (row["sites"], PEERS.index(row["peer"])))
    (HERE / "table.md").write_text(table(rows))
    readme = HERE / "README.md"
    pattern = re.compile(r"Measured [^\n]*:\n\n\| sites \| engine \|.*?\n(?=\n)", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: table(rows), readme.read_text(), count=1))
    draw(rows, found["core"])
    for name, command in BESIDE.items():
        if name in chosen.only:
            subprocess.run([sys.executable, *command], check=True)


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
    most, why = MOST.get(peer, (sites, ""))
    if sites > most:
        return {"error": f"not measured: {why}"}
    try:
        python = environment(peer)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {"error": f"{NEEDS[peer][-1]} does not install here"}
    began, peak = time.perf_counter(), 0
    command = [python, str(HERE / "peers.py"), peer, str(sites), str(rounds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        while True:
            try:
                # No oftener: to look at a dozen processes' memory takes a tenth of a second.
                out, wrong = ran.communicate(timeout=2)
                break
            except subprocess.TimeoutExpired:
                if peer in TREES:
                    peak = max(peak, sum(map(memory, family(ran.pid))))
                if time.perf_counter() - began > 600:
                    for pid in family(ran.pid):
                        os.kill(pid, signal.SIGKILL)
                    return {"error": "not done in 10 minutes"}
    said = [line for line in out.splitlines() if line.startswith("{")]
    if ran.returncode or not said:
        last = (wrong.strip().splitlines() or ["ended without a word"])[-1]
        return {"error": "does not run: " + re.sub(r"/\S+|\|", "…", last)[:90]}
    row = json.loads(said[-1]) | {"whole_s": time.perf_counter() - began}
    return row | ({"peak_bytes": peak} if peak else {})


def family(root: int) -> set[int]:
    """A process and all under it."""
    parents, found = {}, {root}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory(pid: int) -> int:
    """Bytes of a process, what it shares with others divided among them; 0 where it has ended."""
    with contextlib.suppress(OSError):
        told = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return 1024 * int(told[1]) if told else 0
    return 0


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
        measured_on(rows),
        "",
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
                f"{row['peak_bytes'] / 1e9:.2f} | {row['auroc']:.4f} | {row['load']} |"
            )
    return "\n".join(lines) + "\n"


def spread(row: dict, ours: dict) -> str:
    """How many times FedHealth's round it takes, by medians, and at least and at most from any round to any."""
    if row is ours:
        return "1"
    theirs, own = row["rounds_s"][1:], ours["rounds_s"][1:]
    middle = statistics.median(theirs) / statistics.median(own)
    return f"{middle:.2f} ({min(theirs) / max(own):.2f} to {max(theirs) / min(own):.2f})"


def draw(rows: list[dict], core: float) -> None:
    """Seconds a round by number of sites, log-log, over the floating-point limit of one core."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "fedhealth", "font.size": 9}
    figure, axes = plt.subplots(figsize=(7.6, 4))
    # One colour more than matplotlib's ten: NVFlare's point would be torch's.
    axes.set_prop_cycle(color=[*mpl.color_sequences["tab10"], "black"])
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
