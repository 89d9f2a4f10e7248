"""A private study from end to end: what is charged is what leaves, and nothing leaves beside it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

from fedhealth.compose import options
from fedhealth.core.errors import SettingError
from fedhealth.core.privacy_event import PoissonSampledGaussian, event_from
from fedhealth.evaluation.sparse import dense
from fedhealth.places import builtin_sites
from fedhealth.privacy import accountant
from fedhealth.privacy.ledger import Entry, Ledger
from fedhealth.report.findings import findings
from fedhealth.simulate import checked, clients, open_run, run

pytestmark = pytest.mark.slow

SITES = ("galen-heart", "harrow-fen", "port-amity")
PRIVATE = ("privacy=dp_sgd", "privacy.epsilon=6")
#: No solving: the noise is given.
GIVEN = ("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1.1")


def conducted(config):
    simulation = checked(config)
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    return store


def ledger(store, site):
    return Ledger(store.folder / "ledgers" / site / "ledger.sqlite")


def charged(store, site):
    return [(row.what, event_from(row.event)) for row in ledger(store, site).rows()]


def reported(simulation, store):
    documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
    return findings(simulation.study, history=store.read_history(), manifest=store.read_manifest(), **documents)


def test_what_a_hospital_is_charged_over_a_study_is_the_epsilon_of_the_study(smoke):
    store = conducted(smoke(*PRIVATE, "privacy.evaluate_every=2", "rounds=5"))
    for site in SITES:
        rows = charged(store, site)
        assert [what for what, _ in rows] == [
            "query.shape", "train", "train", "evaluate", "train", "train", "evaluate", "train", "evaluate",
        ]  # fmt: skip
        assert accountant.epsilon([event for _, event in rows], 1e-5) == pytest.approx(6.0, rel=2e-3)
        assert accountant.epsilon([event for _, event in rows], 1e-5) <= 6.0


def test_no_true_count_no_mean_and_no_loss_reaches_the_coordinator(smoke):
    config = smoke(*GIVEN)
    simulation = checked(config)
    true = {name: client.cohort.shape for name, client in clients(simulation).items()}
    store = conducted(config)
    found = store.read_json("statistics.json")
    assert found["first"] == found["second"] == {}
    assert any(found["shapes"][site] != [s.train, s.validation, s.test] for site, s in true.items())
    assert all(row["train_loss"] is None for row in store.read_history())
    results = store.read_json("results.json")
    assert all(set(numbers) <= {"shared", "min-cell", "num-examples"} for numbers in results["came_with"].values())
    for site, shape in true.items():
        assert results["came_with"][site]["num-examples"] != shape.test
        told = dense(results["sums"][site])
        assert len(told) == 40
        assert not np.array_equal(told, np.rint(told))


def test_the_report_prints_the_epsilon_with_all_that_it_depends_on(smoke):
    # Little noise on scores, and many patients to test on: results of a few are withheld now and then.
    config = smoke(
        *PRIVATE, "privacy.epsilon=30", "privacy.evaluation_noise=0.5", "split={train: 0.3, validation: 0.1, test: 0.6}"
    )
    store = conducted(config)
    report = reported(checked(config), store)
    for words in ("ε = 30, δ = 1e-05", "a patient with all records", "added or removed", "the coordinator included",
                  "Poisson sampling of patients at rate 0.1", "PLD"):  # fmt: skip
        assert words in report["privacy"]["statement"]
    assert report["study"]["privacy"] == "dp_sgd"
    assert any("noisy histograms of 20 bins" in note for note in report["notes"])
    assert report["groups"] == []
    assert any("raised no alarm: canaries" in note for note in report["notes"])


def test_a_seed_repeats_a_run_bit_by_bit_and_the_report_calls_it_not_private(smoke, tmp_path):
    stores = [
        conducted(smoke(*GIVEN, "privacy.insecure_seed=5", f"run.folder={tmp_path / name}")) for name in ("one", "two")
    ]
    one, two = (store.read_json("results.json") for store in stores)
    assert one["weights_sha256"] == two["weights_sha256"]
    assert one["sums"] == two["sums"]
    assert one["privacy"].startswith("NOT PRIVATE")
    assert "ε" not in one["privacy"]
    assert not stores[0].read_manifest()["privacy_audit"]
    assert all(accountant.epsilon([event for _, event in charged(store, SITES[0])], 1e-5) == np.inf for store in stores)


def test_without_a_seed_two_runs_differ(smoke, tmp_path):
    found = [conducted(smoke(*GIVEN, "rounds=1", f"run.folder={tmp_path / name}")) for name in ("one", "two")]
    assert len({store.read_json("results.json")["weights_sha256"] for store in found}) == 2


def without_last_checkpoint(store):
    """The run as a crash would have left it, once its last round had been answered."""
    last = max(store.rounds())
    shutil.rmtree(store.folder / "checkpoints" / f"{last:05d}")
    assert max(store.rounds()) == last - 1


def test_a_round_that_is_run_again_after_a_crash_gets_the_answers_it_got_at_no_cost(smoke):
    config = smoke(*GIVEN)
    store = conducted(config)
    before, results = charged(store, SITES[0]), store.read_json("results.json")
    without_last_checkpoint(store)
    run(checked(config), store, lambda row: None)
    assert charged(store, SITES[0]) == before
    assert store.read_json("results.json") == results


def test_a_round_that_was_cut_short_stays_spent_and_the_study_ends_where_its_promise_does(smoke):
    config = smoke(*GIVEN)
    simulation = checked(config)
    store = open_run(simulation)

    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(simulation, store, stop)
    for name in SITES:  # a third round was charged, and the hospital killed before its answer was kept
        row = next(row for row in ledger(store, name).rows() if row.what == "train")
        ledger(store, name).charge(
            Entry(row.study, row.digest, row.what, event_from(row.event), row.view, row.cohort),
            epsilon_cap=np.inf, delta=1e-5,
        )  # fmt: skip
    run(simulation, store, lambda row: None)
    assert [what for what, _ in charged(store, SITES[0])] == ["query.shape", "train", "train", "train", "evaluate"]
    results = store.read_json("results.json")
    assert results["rounds_done"] == 2
    assert results["stopped_because"] == "the hospitals' privacy budget for training is spent"


def own_sites(tmp_path, **policy):
    """The smoke study's hospitals, with this policy at harrow-fen."""
    for name in SITES:
        shutil.copytree(builtin_sites() / name, tmp_path / "sites" / name)
    path = tmp_path / "sites" / "harrow-fen" / "site.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["policy"] |= policy
    path.write_text(yaml.safe_dump(manifest))
    return f"sites.folder={tmp_path / 'sites'}"


def test_a_hospital_whose_budget_is_spent_leaves_the_round_and_the_study_goes_on(smoke, tmp_path):
    training = PoissonSampledGaussian(noise_multiplier=1.1, sampling_rate=0.1, count=20)
    cap = accountant.epsilon([training], 1e-5) * 1.05
    store = conducted(smoke(*GIVEN, own_sites(tmp_path, epsilon_cap=cap), "rules.quorum=2"))
    failed = [row["failed"] for row in store.read_history()]
    assert failed[:2] == [[], []]
    assert failed[2] == [{"site": "harrow-fen", "reason": "refused: the hospital's privacy budget does not allow it"}]
    assert [what for what, _ in charged(store, "harrow-fen")] == ["query.shape", "train", "train"]
    assert ledger(store, "harrow-fen").spent("harrow-fen", delta=1e-5).epsilon <= cap


def test_a_ledger_outside_the_run_binds_the_next_study_too(smoke, tmp_path):
    folder = own_sites(tmp_path, epsilon_cap=30.0, ledger=str(tmp_path / "own.sqlite"))
    conducted(smoke(*GIVEN, folder, "rounds=1", f"run.folder={tmp_path / 'one'}"))
    conducted(smoke(*GIVEN, folder, "rounds=1", "seed=8", f"run.folder={tmp_path / 'two'}"))
    rows = Ledger(tmp_path / "own.sqlite").rows()
    assert len(rows) == 6
    assert len({row.digest for row in rows}) == 2


def test_a_batch_larger_than_a_cohort_is_refused_before_training(smoke):
    with pytest.raises(SettingError, match="`training.batch_size` must be at most a hospital's training patients"):
        conducted(smoke(*GIVEN, "privacy.sampling_rate=null", "training.batch_size=5000"))


@pytest.mark.slow
@pytest.mark.parametrize("stem", options("strategy"))
def test_every_strategy_is_refused_or_is_charged_for_all_the_steps_that_it_takes(smoke, stem, monkeypatch):
    from fedhealth.site.private_engine import PrivateEngine

    left = []
    charge = PrivateEngine.charge

    def counted(self, training):
        found = charge(self, training)
        left.append(self.left)
        return found

    monkeypatch.setattr(PrivateEngine, "charge", counted)
    settings = {"krum": ["strategy.num_malicious_nodes=0"], "multikrum": ["strategy.num_malicious_nodes=0", "strategy.num_nodes_to_select=2"],
                "bulyan": ["strategy.num_malicious_nodes=0"], "fedtrimmedavg": ["strategy.beta=0.34"]}  # fmt: skip
    words = [*GIVEN, f"strategy={stem}", "model=mlp", "model.hidden=[4]", "rounds=2", *settings.get(stem, [])]
    if stem == "fedbn":
        words.append("model.normalisation=layer")
    try:
        config = smoke(*words)
        checked(config)
    except SettingError as error:
        assert stem in ("newton", "afl", "apfl", "qfedavg", "finetune", "fedsgd"), error  # noqa: PT017 - others must run
        return
    store = conducted(config)
    fits = {"fedrep": 2, "ditto": 2}.get(stem, 1)
    rows = charged(store, SITES[0])
    assert [event.count for what, event in rows if what == "train"] == [10 * fits] * 2
    # The audit at the end of every private run takes a training of its own.
    assert left.count(0) == 2 * len(SITES) + 1
    assert min(left) == 0
