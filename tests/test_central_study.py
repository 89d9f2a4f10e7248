"""A study with the coordinator's noise, from end to end: what gets out of it, and what its report says."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file

from fedhealth.core.errors import QuorumError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.privacy_event import Unbounded, event_from
from fedhealth.places import builtin_sites
from fedhealth.privacy.ledger import Ledger
from fedhealth.report.findings import findings
from fedhealth.report.page import html
from fedhealth.simulate import checked, open_run, run
from fedhealth.site.client import Client

pytestmark = pytest.mark.slow

SITES = ("galen-heart", "harrow-fen", "port-amity")
CENTRAL = ("privacy=central",)


def conducted(config):
    simulation = checked(config)
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    return store


def weights(store):
    return load_file(store.folder / "model.safetensors")


def own_sites(tmp_path, **policy):
    """The smoke study's hospitals, with this policy at harrow-fen."""
    for name in SITES:
        shutil.copytree(builtin_sites() / name, tmp_path / "sites" / name)
    path = tmp_path / "sites" / "harrow-fen" / "site.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["policy"] |= policy
    path.write_text(yaml.safe_dump(manifest))
    return f"sites.folder={tmp_path / 'sites'}"


@pytest.fixture
def asked(monkeypatch):
    """Every request that a hospital of this process gets, and what it answers, as (purpose, round, metrics)."""
    heard = []
    closed = Client.closed  # what every answer passes last, whether hospitals answer one by one or together

    def listening(self, opened, update, memory, keys):
        sealed = closed(self, opened, update, memory, keys)
        heard.append((opened.request.purpose, opened.request.round_, dict(sealed.metrics)))
        return sealed

    monkeypatch.setattr(Client, "closed", listening)
    return heard


def test_nothing_is_asked_but_counts_training_and_the_last_models_results_and_no_loss_is_told(smoke, asked):
    store = conducted(smoke(*CENTRAL))
    assert {(purpose, round_) for purpose, round_, _ in asked} == {
        ("query.shape", 0), ("train", 1), ("train", 2), ("train", 3), ("evaluate", 4),
    }  # fmt: skip
    assert all(metrics == {} for purpose, _, metrics in asked if purpose == "train")
    assert [(row["train_loss"], row["watched"], row["answered"]) for row in store.read_history()] == [
        (None, None, 3)
    ] * 3
    assert store.read_json("results.json")["best_round"] == 3


def test_the_models_file_holds_no_number_of_a_patient_but_the_noised_weights(smoke):
    config = smoke(*CENTRAL)
    store = conducted(config)
    with safe_open(store.folder / "model.safetensors", framework="numpy") as found:
        header = json.loads(found.metadata()["fedhealth"])
    assert header.keys() == {"study", "task", "model", "preprocessor"}
    assert header["preprocessor"] == json.loads(
        json.dumps(Preprocessor.from_spec(checked(config).study.features).to_json())
    )


def test_the_model_moves_by_the_clip_at_most_a_round_beside_the_noise(smoke):
    store = conducted(
        smoke(
            *CENTRAL,
            "privacy.epsilon=null",
            "privacy.noise_multiplier=1e-4",
            "privacy.insecure_seed=1",
            "privacy.clipping_norm=0.01",
        )
    )
    models = [store.load(round_).model for round_ in (1, 2, 3)]
    for before, after in pairwise(models):
        moved = np.concatenate([np.ravel(after[name].astype(np.float64) - before[name]) for name in after])
        assert 0.001 < np.linalg.norm(moved) < 0.01 + 1e-4


def test_the_report_says_for_whom_it_holds_and_against_whom_not(smoke):
    config = smoke(*CENTRAL, "privacy.epsilon=5", "run.baselines=[local, pooled, oracle]")
    store = conducted(config)
    documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
    report = findings(
        checked(config).study, history=store.read_history(), manifest=store.read_manifest(), **documents
    )  # fmt: skip
    for words in ("for hospitals, by the coordinator", "(ε = 5, δ = 1e-05) for a hospital with all its patients",
                  "not against the coordinator, who sees each update", "have no noise and no bound"):  # fmt: skip
        assert words in report["privacy"]["statement"]
    assert report["study"]["privacy"] == "central"
    assert any("the one of round 3, the last;" in note for note in report["notes"])
    page = html(report)
    assert "(ε = 5, δ = 1e-05) for a hospital" in page
    assert "the model of round 3 was kept, the last" in page
    assert "standardised by federated means" not in page
    assert "chosen on validation" not in page


def test_a_seed_repeats_a_run_bit_by_bit_and_its_results_call_it_not_private(smoke, tmp_path):
    one, two = (conducted(smoke(*CENTRAL, "privacy.insecure_seed=5", f"run.folder={tmp_path / n}")) for n in "ab")
    assert one.read_json("results.json") == two.read_json("results.json")
    assert one.read_json("results.json")["privacy"].startswith("NOT PRIVATE")
    assert "ε" not in one.read_json("results.json")["privacy"]


def test_without_a_seed_two_runs_differ(smoke, tmp_path):
    one, two = (weights(conducted(smoke(*CENTRAL, "rounds=1", f"run.folder={tmp_path / n}"))) for n in "ab")
    assert not any(np.array_equal(one[name], two[name]) for name in one)


def test_a_round_cut_short_before_it_was_stored_has_been_shown_to_nobody(smoke, asked, monkeypatch):
    from fedhealth.server.store import Store

    simulation = checked(smoke(*CENTRAL))
    store = open_run(simulation)
    save = Store.save

    def cut(self, checkpoint):
        if checkpoint.round_ == 2:
            raise KeyboardInterrupt
        save(self, checkpoint)

    monkeypatch.setattr(Store, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        run(simulation, store, lambda row: None)
    assert {(purpose, round_) for purpose, round_, _ in asked} == {("query.shape", 0), ("train", 1), ("train", 2)}
    monkeypatch.setattr(Store, "save", save)
    run(simulation, store, lambda row: None)
    assert store.read_json("results.json")["rounds_done"] == 3


def test_a_seeded_run_that_was_cut_short_goes_on_to_the_same_bits(smoke, tmp_path):
    whole = conducted(smoke(*CENTRAL, "privacy.insecure_seed=5", f"run.folder={tmp_path / 'whole'}"))
    simulation = checked(smoke(*CENTRAL, "privacy.insecure_seed=5"))
    store = open_run(simulation)

    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(simulation, store, stop)
    run(simulation, store, lambda row: None)
    assert store.read_json("results.json") == whole.read_json("results.json")


def test_one_hospital_that_does_not_answer_ends_the_study(smoke, tmp_path):
    with pytest.raises(QuorumError, match="harrow-fen refused"):
        conducted(smoke(*CENTRAL, own_sites(tmp_path, paused=True)))


def test_to_a_hospital_it_is_a_study_without_bound_which_a_cap_refuses(smoke, tmp_path):
    path = tmp_path / "own.sqlite"
    conducted(smoke(*CENTRAL, own_sites(tmp_path, ledger=str(path))))
    rows = Ledger(path).rows()
    assert [(event_from(row.event), row.view) for row in rows] == [(Unbounded(), "updates")]
    shutil.rmtree(tmp_path / "sites")
    with pytest.raises(QuorumError, match="budget does not allow it"):
        conducted(smoke(*CENTRAL, own_sites(tmp_path, epsilon_cap=100.0), f"run.folder={tmp_path / 'capped'}"))


def test_a_hospital_that_attacks_moves_the_model_no_further_than_any_other(smoke):
    store = conducted(
        smoke(
            *CENTRAL, "privacy.epsilon=null", "privacy.noise_multiplier=1e-4", "privacy.insecure_seed=1", "rounds=2",
            "attack=scaled", "attack.sites=[port-amity]",
        )
    )  # fmt: skip
    before, after = (store.load(round_).model for round_ in (1, 2))
    moved = np.concatenate([np.ravel(after[name].astype(np.float64) - before[name]) for name in after])
    assert np.linalg.norm(moved) < 1.001


@pytest.mark.parametrize(
    "words", [["task=survival", "model=cox"], ["strategy=fedprox", "server_optimiser=adam", "model=mlp"]]
)
def test_times_to_an_event_and_other_steps_on_the_noised_mean_run_too(smoke, words):
    results = conducted(smoke(*CENTRAL, *words)).read_json("results.json")
    assert results["rounds_done"] == 3
    assert "(ε = 8, δ = 1e-05) for a hospital" in results["privacy"]
