"""Hospitals that answer in blocks: by processes or in one, together or apart, they give one study."""

from __future__ import annotations

import json

import numpy as np
import pytest
from marks import slow
from safetensors.numpy import load_file

from fedhealth import simulate
from fedhealth.privacy.ledger import Ledger
from fedhealth.runtime import block
from fedhealth.simulate import checked, open_run, run


def finished(config):
    simulation = checked(config)
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    return store


def model(store):
    return load_file(store.folder / "model.safetensors")


def rows(store):
    return [json.loads(line) for line in (store.folder / "metrics.jsonl").read_text().splitlines()]


def told(store):
    """What a round says but for how long it took."""
    return [{key: value for key, value in row.items() if key != "took_s"} for row in rows(store)]


@pytest.mark.process
def test_two_processes_give_the_bytes_of_one_together_and_apart(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(block, "MOST", 4)
    for apart in (32, 2):
        monkeypatch.setattr(simulate, "APART", apart)
        one, two = (
            finished(smoke(f"run.folder={tmp_path / f'{apart}-{p}'}", "sites=demo", f"runtime.processes={p}"))
            for p in (1, 2)
        )
        assert all(np.array_equal(model(one)[name], array) for name, array in model(two).items())
        assert told(one) == told(two)


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", *slow("feddyn", "fedadam", "ditto", "finetune")])
def test_a_batched_study_and_a_native_one_are_the_plain_one(smoke, tmp_path, strategy):
    words = ("model=mlp", "model.hidden=[8]", f"strategy={strategy}", "rounds=2")
    plain, *others = (
        finished(smoke(*words, f"engine={e}", f"run.folder={tmp_path / e}")) for e in ("plain", "batched", "native")
    )
    for other in others:
        for name, array in model(plain).items():
            np.testing.assert_allclose(model(other)[name], array, atol=2e-5)
        assert rows(other)[-1]["train_loss"] == pytest.approx(rows(plain)[-1]["train_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("strategy=fedavg", "privacy.clipping=adaptive"), ("strategy=ditto", "model=mlp", "model.hidden=[8]")],
    ids=str,
)
def test_a_private_batched_study_is_the_plain_one_and_is_charged_as_it_is(smoke, tmp_path, words):
    private = ("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1.1", "privacy.insecure_seed=5")
    plain, batched = (
        finished(smoke(*private, *words, "rounds=2", f"engine={e}", f"run.folder={tmp_path / e}"))
        for e in ("plain", "batched")
    )
    assert all(np.array_equal(model(batched)[name], array) for name, array in model(plain).items())
    sums, charges = ([], [])
    for store in (plain, batched):
        sums.append(store.read_json("results.json")["sums"])
        charges.append([
            [(row.what, row.event) for row in Ledger(file).rows()]
            for file in sorted((store.folder / "ledgers").glob("*/ledger.sqlite"))
        ])  # fmt: skip
    assert sums[0] == sums[1]
    assert charges[0] == charges[1]
    assert len(charges[0]) == 3


@pytest.mark.parametrize("strategy", ["fedavg", *slow("scaffold", "fednova", "afl")])
def test_hospitals_that_answer_together_give_what_they_give_apart(smoke, tmp_path, monkeypatch, strategy):
    words = ("sites=demo", f"strategy={strategy}", "rounds=2", "rules.quorum=8")
    apart = finished(smoke(*words, f"run.folder={tmp_path / 'apart'}"))
    monkeypatch.setattr(simulate, "APART", 1)
    together = finished(smoke(*words, f"run.folder={tmp_path / 'together'}"))
    for name, array in model(apart).items():
        np.testing.assert_allclose(model(together)[name], array, atol=1e-6)
    for one, two in zip(rows(apart), rows(together), strict=True):
        for key in ("answered", "trained_by", "scored_by", "events", "others", "messages", "bytes_up", "bytes_down"):
            assert two[key] == one[key], key
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-6)


def test_a_hospital_that_refuses_is_named_and_the_others_stand_together(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "APART", 1)
    folder = tmp_path / "sites"
    for name in ("galen-heart", "harrow-fen", "port-amity", "norrvik"):
        own = folder / name
        own.mkdir(parents=True)
        text = (simulate.builtin_sites() / name / "site.yaml").read_text()
        own.joinpath("site.yaml").write_text(
            text.replace("policy:", "policy:\n  paused: true") if name == "norrvik" else text
        )
    store = finished(smoke(f"sites.folder={folder}", "sites.names=null", "rules.quorum=3"))
    for row in rows(store):
        assert row["trained_by"] == ["galen-heart", "harrow-fen", "port-amity"]
        assert {failure["site"] for failure in row["failed"]} == {"norrvik"}
        assert "paused" in row["failed"][0]["reason"]
