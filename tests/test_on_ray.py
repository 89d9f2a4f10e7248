"""Whole studies on Ray: the bits of a study in one process, and nothing left running however it ends.

Flower and Ray take a quarter of a minute to start, so there are four starts and no more.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load as load_tensors

from fedhealth.compose import composed, resolved
from fedhealth.privacy.ledger import Ledger
from fedhealth.server.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.process]
STUDY = ("simulate", "experiment=smoke", "run.report=false")


def fedhealth(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fedhealth", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(*words: str) -> str:
    said, wrong = fedhealth(*words).communicate(timeout=120)
    assert not wrong
    return said


def processes() -> dict[int, tuple[int, str]]:
    """By id, every process's parent and state; one that is dead but not yet forgotten is left out."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return {int(pid): (int(parent), state) for pid, parent, state in rows if not state.startswith("Z")}


def family(pid: int) -> set[int]:
    """The processes that descend from one."""
    everybody, found = processes(), {pid}
    while more := {child for child, (parent, _) in everybody.items() if parent in found} - found:
        found |= more
    return found - {pid}


def until(process: subprocess.Popen, happened, limit_s: float = 240.0) -> set[int]:
    """Wait until something happened or the process ended; the ids of all it had started by then."""
    seen, deadline = set(), time.monotonic() + limit_s
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline, "it took too long"
        seen |= family(process.pid)
        time.sleep(0.5)
    return seen


def gone(seen: set[int]) -> bool:
    deadline = time.monotonic() + 10
    while seen & processes().keys():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def rounds(said: str) -> list[str]:
    return re.findall(r"^round .*$", said, flags=re.MULTILINE)


def test_a_masked_study_on_ray_gives_the_model_of_one_in_this_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    finished(*STUDY, "secagg=masked", "rounds=2", f"run.folder={here}")
    finished(*STUDY, "secagg=masked", "rounds=2", "runtime=ray", f"run.folder={there}")
    ours, theirs = (load_tensors((folder / "model.safetensors").read_bytes()) for folder in (there, here))
    for name, array in theirs.items():
        # Masks and rounding are drawn afresh.
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-6)
    assert Store(there).read_json("results.json")["counted"] == Store(here).read_json("results.json")["counted"]


def test_a_private_study_on_ray_charges_every_hospital_and_gives_the_bits_of_one_in_this_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    private = ("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1", "privacy.insecure_seed=3")
    finished(*STUDY, *private, "rounds=1", f"run.folder={here}")
    finished(*STUDY, *private, "rounds=1", "runtime=ray", f"run.folder={there}")
    for name in ("model.safetensors", "results.json", "statistics.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    for folder in (here, there):
        ledgers = sorted((folder / "ledgers").glob("*/ledger.sqlite"))
        assert len(ledgers) == 3
        assert all(len(Ledger(path).rows()) == 3 for path in ledgers)  # how many there are, a round, a look


def test_a_study_on_ray_gives_the_bits_of_one_in_this_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    # One hospital attacks, which its node on Ray must learn too.
    study = (*STUDY, "attack=gaussian", "attack.sites=[port-amity]")
    expected = finished(*study, f"run.folder={here}")
    process = fedhealth(*study, "runtime=ray", f"run.folder={there}")
    seen = until(process, lambda: False)
    said, wrong = process.communicate()
    assert (process.returncode, wrong) == (0, "")
    for name in ("model.safetensors", "results.json", "statistics.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert rounds(said) == rounds(expected)
    # Every process's lines are in the one log, and nothing else is.
    lines = [len((folder / "run.log").read_text().splitlines()) for folder in (here, there)]
    assert lines[0] == lines[1]
    # The SuperLink, the simulation, and of Ray its head and a worker at least.
    assert len(seen) >= 4
    assert gone(seen)


def csv_hospital(folder: Path, seed: int, rows: str = "", **policy) -> None:
    folder.mkdir(parents=True)
    floors = {"min_patients": 5, "min_cell": 1, "min_cohort": 3} | policy
    source = {"kind": "csv", "path": "patients.csv"}
    (folder / "site.yaml").write_text(
        yaml.safe_dump({"name": folder.name, "title": folder.name.title(), "policy": floors, "source": source})
    )
    rng = np.random.default_rng(seed)
    patients = [f"{age},{died}" for age, died in zip(rng.integers(30, 90, 80), rng.integers(0, 2, 80), strict=True)]
    (folder / "patients.csv").write_text("\n".join(["age,died", *patients]) + f"\n{rows}")


def test_a_hospital_that_refuses_is_named_in_the_same_line_as_without_ray(tmp_path):
    # A value no statistic could produce by chance.
    canary = "83.1415926"
    for seed, (name, more) in enumerate(
        {"ash": {"rows": f"{canary},1\n"}, "oak": {}, "elm": {"min_patients": 900}}.items()
    ):
        csv_hospital(tmp_path / "sites" / name, seed, **more)
    config = resolved(
        composed(["experiment=smoke", "runtime=ray", f"sites.folder={tmp_path / 'sites'}", "sites.names=null"])
    )
    age = {"name": "age", "label": "Age", "unit": "a", "range": [0, 120]}
    config["features"] = {"name": "one", "features": [age], "groups": {}}
    config["task"] = {"name": "death", "title": "Death", "outcome": "died"}
    said = {}
    for name, runtime in {"ray": config["runtime"], "local": resolved(composed([]))["runtime"]}.items():
        run = tmp_path / name
        run.mkdir()
        Store(run).write_config({**config, "runtime": runtime})
        process = fedhealth("simulate", "--resume", str(run))
        seen = until(process, lambda: False)
        said[name] = (process.communicate()[1], process.returncode)
    line = "fedhealth: at least 3 of 3 hospitals must answer, found 2. elm refused: fewer training patients"
    assert said["ray"][0].startswith(line)
    assert said["ray"] == said["local"]
    assert said["ray"][1] == 1
    assert gone(seen)
    written = [file for file in (tmp_path / "ray").rglob("*") if file.is_file()]
    assert {"flower.log", "run.log"} <= {file.name for file in written}
    assert not [file for file in written if canary.encode() in file.read_bytes()]


def test_a_study_goes_on_on_ray_stops_on_ctrl_c_and_goes_on_elsewhere_to_the_same_bits(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    finished(*STUDY, "rounds=60", "strategy=fedadagrad", f"run.folder={whole}")
    # What a run leaves that stopped after its second round, to be gone on with on Ray.
    shutil.copytree(whole, part, ignore=lambda _, names: [name for name in names if name.isdigit() and int(name) > 2])
    for name in ("results.json", "model.safetensors", "metrics.jsonl"):
        (part / name).unlink()
    config = Store(part).read_config()
    Store(part).write_config({**config, "runtime": resolved(composed(["runtime=ray"]))["runtime"]})
    process = fedhealth("simulate", "--resume", str(part))
    seen = until(process, (part / "checkpoints" / "00005").exists)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"fedhealth simulate --resume {part}" in wrong
    assert "Traceback" not in wrong
    assert rounds(said)[0].startswith("round   3/60")
    assert gone(seen)
    assert not (part / "model.safetensors").exists(), "it ended before it could be stopped"
    Store(part).write_config(config)
    finished("simulate", "--resume", str(part))
    assert (part / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
