"""The peers of experiments/speed reach one model: what is compared is speed alone."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SPEED = Path(__file__).parents[1] / "experiments" / "speed"


def module(name):
    spec = importlib.util.spec_from_file_location(f"speed_{name}", SPEED / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def peers():
    return module("peers")


def test_fedhealths_rounds_are_those_of_plain_torch(peers):
    data = peers.Data(40)
    *_, by_torch = peers.by_torch(data, 1)
    for more in ({}, {"plain": True}):
        *_, by_fedhealth = peers.by_engine(data, 1, **more)
        for name, array in by_torch.items():
            np.testing.assert_allclose(by_fedhealth[name], array, atol=1e-5)


def test_a_peer_that_does_not_install_is_a_row_that_says_so_and_one_with_another_model_is_void():
    run = module("run")
    row = {"sites": 8, "rounds_s": [1.0, 0.2, 0.4], "whole_s": 3.0, "peak_bytes": 1e9, "auroc": 0.8}
    lines = run.table(
        [{"peer": "torch", **row}, {"peer": "fedhealth", **row}, {"peer": "x", **row, "auroc": 0.7},
         {"peer": "y", "sites": 8, "error": "y==1 does not install here"}]
    ).splitlines()  # fmt: skip
    assert "| 1.00 (1.00 to 1.00) |" in lines[3]
    assert "| void |" in lines[4]
    assert "y==1 does not install here" in lines[5]


@pytest.mark.slow
def test_rounds_of_networks_over_time_reach_one_model_either_way(tmp_path):
    rows = module("series").main(["--repeats", "1"], out=tmp_path, sizes=((2, 40),))
    assert all(row["apart"] < 1e-4 for row in rows)
    assert (tmp_path / "series.md").read_text().count("\n") == 2 + len(rows)
