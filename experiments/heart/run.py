"""Does federation help four real hospitals? FLamby's protocol and FedHealth's, on the same test patients.

    FEDHEALTH_DATA=… python experiments/heart/run.py [--seeds 10]

writes table.md beside itself.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from flamby import COLUMNS, centres, scores
from sklearn.metrics import roc_auc_score

from fedhealth.compose import composed, resolved
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import ScoreSums
from fedhealth.evaluation.sparse import dense
from fedhealth.places import builtin_sites
from fedhealth.simulate import checked, open_run, run

HERE = Path(__file__).parent


def prepared(found, folder: Path) -> None:
    """Write the hospitals' rows with FLamby's split, and the manifests that read them."""
    for name, centre in found.items():
        home = folder / name
        home.mkdir(parents=True)
        part = np.full(len(centre.y), "train", dtype=object)
        part[centre.test] = "test"
        with (home / "patients.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, "num", "part"])
            writer.writerows(
                [*(f"{value:g}" for value in row), where] for row, where in zip(centre.rows, part, strict=True)
            )
        manifest = yaml.safe_load((builtin_sites() / name / "site.yaml").read_text())
        manifest["source"] = {"kind": "csv", "path": "patients.csv", "split": "part"}
        (home / "site.yaml").write_text(yaml.safe_dump(manifest))


def fedhealth_sums(folder: Path, seed: int) -> dict[str, list[ScoreSums]]:
    """FedHealth's default study of heart disease: the score sums of each hospital, by way of training."""
    with tempfile.TemporaryDirectory() as place:
        overrides = ["experiment=heart", "features.indicators=false", f"sites.folder={folder}", "sites.names=null"]
        config = resolved(composed([*overrides, f"seed={seed}", f"run.folder={place}/run"]))
        store = open_run(checked(config))
        run(checked(config), store, lambda _: None)
        width = ScoreSums.width()
        results, baselines = store.read_json("results.json")["sums"], store.read_json("baselines.json")
        ways = {"each hospital alone": baselines["local"], "FedAvg": results, "pooled": baselines["pooled"]}
        names = list(centres_order(folder))
        return {
            way: [ScoreSums.from_vector(dense(by_site[name])[:width]) for name in names]
            for way, by_site in ways.items()
        }


def centres_order(folder: Path) -> list[str]:
    return [name for name in ("cleveland", "hungary", "switzerland", "long-beach") if (folder / name).is_dir()]


def interval(values: list[float]) -> str:
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {half:.3f}"


def row(way: str, accuracy: list[list[float]], union: list[float]) -> str:
    sites = " | ".join(f"{np.mean([a[i] for a in accuracy]):.3f}" for i in range(4))
    return f"| {way} | {sites} | {interval([float(np.mean(a)) for a in accuracy])} | {interval(union)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    data = os.environ.get("FEDHEALTH_DATA")
    if not data:
        sys.exit("FEDHEALTH_DATA must name the folder that holds uci_heart_disease, found nothing. Set it.")
    found = centres(Path(data))
    lines = [
        "| | Cleveland | Hungary | Switzerland | Long Beach | mean accuracy | union AUROC |",
        "|---|---|---|---|---|---|---|",
        "| **FLamby's protocol** | | | | | | |",
    ]
    flamby = [scores(found, seed) for seed in seeds]
    for way in flamby[0]:
        accuracy = [[float(((p >= 0.5) == y).mean()) for p, y in one[way]] for one in flamby]
        union = [roc_auc_score(*(np.concatenate([pair[k] for pair in one[way]]) for k in (1, 0))) for one in flamby]
        lines.append(row(way, accuracy, union))
    lines.append("| **FedHealth's default, no missing indicators** | | | | | | |")
    with tempfile.TemporaryDirectory() as place:
        prepared(found, Path(place))
        ours = [fedhealth_sums(Path(place), seed) for seed in seeds]
    for way in ours[0]:
        accuracy = [[measures.accuracy(sums).value for sums in one[way]] for one in ours]
        union = [measures.auroc(sum(one[way][1:], one[way][0])).value for one in ours]
        lines.append(row(way, accuracy, union))
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
