"""How long is a round of a whole study, plain, masked and private?

    python experiments/speed/studies.py [--rounds 4]

writes studies.md beside itself, and puts it into the README. Each study is a `fedhealth simulate` of its own, in one
process: gate, training, scores, files and all. A round's seconds
are those of metrics.jsonl, and the processor's what its checkpoint had spent more than the one before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, measured_on

HERE = Path(__file__).parent
SIZES = ((8, 2000), (32, 500))
#: What each sets beside the plain study. Shared noise is of one step a round.
STUDIES = {
    "plain": (),
    "masked": ("secagg=masked",),
    "private": ("privacy=dp_sgd", "privacy.epsilon=8", "privacy.sampling_rate=null"),
    "masked and private": ("secagg=masked", "privacy=distributed", "strategy=fedsgd", "strategy.learning_rate=2"),
}


def main(words: list[str] | None = None, out: Path = HERE, sizes=SIZES) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args(words)
    rows = []
    for sites, patients in sizes:
        for study, settings in STUDIES.items():
            rows.append(
                {"sites": sites, "study": study, **machine(), **simulated(sites, patients, settings, chosen.rounds)}
            )
            print(json.dumps(rows[-1]), flush=True)
    (out / "studies.md").write_text(table(rows))
    if out == HERE:
        readme = HERE / "README.md"
        pattern = re.compile(r"Measured [^\n]*:\n\n\| hospitals \| study \|.*?\n(?=\n)", re.DOTALL)
        readme.write_text(pattern.sub(lambda _: table(rows), readme.read_text(), count=1))
    return rows


def simulated(sites: int, patients: int, settings: tuple[str, ...], rounds: int) -> dict:
    """Seconds of each round and of the whole, what it took, and the AUROC on all test patients."""
    words = [
        "experiment=smoke", "model=mlp", "sites=generated", f"sites.count={sites}", f"sites.patients={patients}",
        f"rounds={rounds}", "run.report=false", "runtime.processes=1", *settings,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "fedhealth", "simulate", *words, f"run.folder={folder}/run"]
        study = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, ended, used = os.wait4(study.pid, 0)
        whole, study.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(ended)
        if study.returncode:
            return {"error": "did not end well"}
        report = json.loads((Path(folder) / "run" / "report.json").read_text())
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        states = [json.loads(state.read_text()) for state in sorted(Path(folder).glob("run/checkpoints/*/state.json"))]
        spent = [state["state"]["spent"]["cpu_s"] for state in states]
    return {
        "rounds_s": [json.loads(line)["took_s"] for line in lines],
        "rounds_cpu_s": [b - a for a, b in itertools.pairwise(spent)],
        "whole_s": whole,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "auroc": report["union"]["federated"]["auroc"]["value"],
    }


def table(rows: list[dict]) -> str:
    lines = [
        measured_on(rows),
        "",
        "| hospitals | study | s a round, median (range) | CPU s a round, median (range) | times the plain study's CPU s | start to end, s | CPU s in all | peak, GB | AUROC | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain = next(each for each in rows if (each["sites"], each["study"]) == (row["sites"], "plain"))
        if "error" in row or "error" in plain:
            lines.append(f"| {row['sites']} | {row['study']} | {row.get('error', '–')} | | | | | | | {row['load']} |")
            continue
        own, base = row["rounds_cpu_s"], plain["rounds_cpu_s"]
        ratio = f"{statistics.median(own) / statistics.median(base):.1f} ({min(own) / max(base):.1f} to {max(own) / min(base):.1f})"
        auroc = "withheld" if row["auroc"] is None else f"{row['auroc']:.3f}"
        lines.append(
            f"| {row['sites']} | {row['study']} | {middle(row['rounds_s'][1:])} | {middle(own)} | "
            f"{'1' if row is plain else ratio} | {row['whole_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_bytes'] / 1e9:.2f} | "
            f"{auroc} | {row['load']} |"
        )
    return "\n".join(lines) + "\n"


def middle(seconds: list[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


if __name__ == "__main__":
    main()
