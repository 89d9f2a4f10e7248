"""Hospitals that a study draws for itself, without folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.core.errors import SettingError
from fedhealth.simulate import checked, clients, open_run, run
from fedhealth.synthetic.folders import write_sites


def finished(config):
    simulation = checked(config)
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    return store


def drawn(smoke, *words):
    return smoke("sites=generated", "sites.count=4", "sites.patients=80", "rounds=2", *words)


def test_a_study_of_drawn_hospitals_runs_to_its_results(smoke, tmp_path):
    store = finished(drawn(smoke, f"run.folder={tmp_path / 'run'}"))
    assert set(store.read_json("results.json")["sums"]) == {f"hospital-{k:07d}" for k in (1, 2, 3, 4)}
    shapes = store.read_json("statistics.json")["shapes"]
    assert all(60 < sum(shape) <= 80 for shape in shapes.values())


def test_a_drawn_hospital_is_the_same_among_others(smoke):
    few, more = (clients(checked(drawn(smoke, f"sites.count={n}", "sites.h=1"))) for n in (2, 5))
    for name, client in few.items():
        np.testing.assert_array_equal(client.cohort.patients, more[name].cohort.patients)


def test_a_drawn_hospital_is_the_one_that_would_be_written(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.simulate.NAME", "hospital-{:02d}")
    written = write_sites(tmp_path, h=0.7, n=2, seed=7, size=90)
    ours = checked(drawn(smoke, "sites.count=2", "sites.patients=90", "sites.h=0.7")).manifests
    theirs = checked(smoke(f"sites.folder={tmp_path}", "sites.names=null")).manifests
    assert len(written) == 2
    assert ours == theirs


def test_too_little_room_for_cohorts_changes_nothing_but_time(smoke, tmp_path):
    wide, narrow = (
        finished(drawn(smoke, f"engine.cohort_bytes={n}", f"run.folder={tmp_path / str(n)}")) for n in (1 << 30, 1)
    )
    models = [load_file(store.folder / "model.safetensors") for store in (wide, narrow)]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("sites.count=0", "`sites.count` must be from 1"),
        ("sites.patients=3", "`sites.patients` must be from 60"),
        ("sites.h=-1", "h must be 0 or more"),
        ("sites.folder=here", "`sites.count` draws hospitals, found sites.folder"),
    ],
)
def test_what_can_not_be_drawn_is_refused_in_one_line(smoke, word, rule):
    with pytest.raises(SettingError) as refused:
        checked(drawn(smoke, word))
    assert rule in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_audited_drawn_hospital_keeps_its_log(smoke, tmp_path):
    store = finished(drawn(smoke, "run.audit=true", f"run.folder={tmp_path / 'run'}"))
    assert {path.name for path in (store.folder / "audit").iterdir()} >= {f"hospital-{k:07d}" for k in range(1, 5)}
    rows = [json.loads(line) for line in (store.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["answered"] for row in rows] == [4, 4]
