"""The peers of experiments/speed reach one model: what is compared is speed alone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SPEED = Path(__file__).parents[1] / "experiments" / "speed"


@pytest.fixture(autouse=True)
def beside_its_neighbours(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    yield
    sys.modules.pop("machine", None)


def module(name):
    spec = importlib.util.spec_from_file_location(f"speed_{name}", SPEED / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def peers():
    return module("peers")


def test_fedhealths_rounds_are_those_of_plain_torch(peers):
    data = peers.Data(40)
    *_, by_torch = peers.by_torch(data, 1)
    for more in ({}, {"plain": True}, {"native": True}):
        *_, by_fedhealth = peers.by_engine(data, 1, **more)
        for name, array in by_torch.items():
            np.testing.assert_allclose(by_fedhealth[name], array, atol=1e-5)


def test_a_peer_that_does_not_install_is_a_row_that_says_so_and_one_with_another_model_is_void():
    run = module("run")
    where = {"date": "2026-01-02", "cpu": "Abacus", "cores": 2, "load": 0.5}
    row = {"sites": 8, "rounds_s": [1.0, 0.2, 0.4], "whole_s": 3.0, "peak_bytes": 1e9, "auroc": 0.8, **where}
    lines = run.table(
        [{"peer": "torch", **row}, {"peer": "fedhealth", **row}, {"peer": "x", **row, "auroc": 0.7},
         {"peer": "y", "sites": 8, "error": "y==1 does not install here", **where}]
    ).splitlines()  # fmt: skip
    assert lines[0] == "Measured 2026-01-02 on 2 cores of Abacus:"
    # Medians of 0.3 s both; at least and at most 0.2 to 0.4, and 0.4 to 0.2.
    assert "| 1.00 (0.50 to 2.00) |" in lines[4]
    assert "| 1 |" in lines[5]
    assert "| void |" in lines[6]
    assert "y==1 does not install here" in lines[7]


def test_every_row_of_the_results_says_where_it_was_measured_and_every_peer_has_one():
    rows, run = json.loads((SPEED / "results.json").read_text())["rows"], module("run")
    assert all(row["cores"] > 0 and row["cpu"] and row["load"] >= 0 for row in rows)
    assert all(len(row["date"]) == len("2026-01-02") for row in rows)
    assert {row["peer"] for row in rows if row["sites"] == 8} == set(run.PEERS)


def test_a_peer_of_a_process_a_site_is_not_started_for_a_hundred():
    assert module("run").measured("nvflare", 100, 2) == {"error": "not measured: a process for each site"}


@pytest.mark.process
def test_the_memory_of_a_tree_of_processes_is_all_theirs():
    run = module("run")
    hold = "held = b'1' * {}; print('held', flush=True); input()"
    grandchild = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold.format(60_000_000)!r}]); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tree:
        tree.stdout.readline()
        family = run.family(tree.pid)
        taken = [run.memory(pid) for pid in family]
        tree.communicate(b"\n")
    assert len(family) == 2
    assert 60_000_000 < sum(taken) < 160_000_000
    assert run.memory(tree.pid) == 0


@pytest.mark.slow
def test_rounds_of_networks_over_time_reach_one_model_either_way(tmp_path):
    rows = module("series").main(["--repeats", "1"], out=tmp_path, sizes=((2, 40),))
    assert all(row["apart"] < 1e-4 for row in rows)
    assert (tmp_path / "series.md").read_text().count("\n") == 2 + len(rows)


@pytest.mark.process
@pytest.mark.slow
def test_a_masked_study_takes_its_time_and_reaches_the_plain_ones_model(monkeypatch, tmp_path):
    studies = module("studies")
    monkeypatch.setattr(studies, "STUDIES", {name: studies.STUDIES[name] for name in ("plain", "masked")})
    plain, masked = studies.main(["--rounds", "2"], out=tmp_path, sizes=((3, 400),))
    assert masked["auroc"] == pytest.approx(plain["auroc"], abs=0.002)
    assert len(masked["rounds_s"]) == len(plain["rounds_s"]) == 2
    assert (tmp_path / "studies.md").read_text().count("\n") == 6
