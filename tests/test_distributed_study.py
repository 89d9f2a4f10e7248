"""A study whose hospitals share their noise, from end to end under masks."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors

from fedhealth.core.errors import SettingError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, event_from
from fedhealth.core.update import ALL
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.evaluation.sparse import dense
from fedhealth.privacy import accountant
from fedhealth.privacy.ledger import Ledger
from fedhealth.report.findings import findings
from fedhealth.simulate import checked, clients, open_run, run

pytestmark = pytest.mark.slow

SITES = ["galen-heart", "harrow-fen", "norrvik", "port-amity"]
FOUR = (f"sites.names=[{','.join(SITES)}]", "rules.quorum=3")
SHARED = ("privacy=distributed", "secagg=masked", "strategy=fedsgd")
GIVEN = (*SHARED, "privacy.epsilon=null", "privacy.noise_multiplier=1")


def conducted(simulation):
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    return store


def charged(store, name):
    return Ledger(store.folder / "ledgers" / name / "ledger.sqlite").rows()


def test_each_hospital_is_charged_for_what_it_adds_to_and_the_report_says_against_whom_it_holds(smoke):
    simulation = checked(smoke(*FOUR, *SHARED, "privacy.epsilon=6", "rounds=3"))
    store = conducted(simulation)
    for name in SITES:
        rows = charged(store, name)
        assert [row.what for row in rows] == ["query.shape", *["train"] * 3, "evaluate"]
        assert {row.view for row in rows} == {"sums"}
        events = [event_from(row.event) for row in rows]
        assert accountant.epsilon(events, 1e-5) == pytest.approx(6.0, rel=2e-3)
        assert isinstance(events[1], PoissonSampledGaussian)
        assert events[-1] == Gaussian(noise_multiplier=4.0)
    results = store.read_json("results.json")
    assert "ε = 6, δ = 1e-05" in results["privacy"]
    for words in ("up to 1 hospital on its side", "the coordinator alone", "opens a hospital's masks"):
        assert words in results["privacy"]
    assert set(results["sums"]) == {ALL}
    noisy = dense(results["sums"][ALL])
    assert not np.array_equal(noisy, np.rint(noisy))
    documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
    report = findings(simulation.study, history=store.read_history(), manifest=store.read_manifest(), **documents)
    assert report["study"]["privacy"] == "distributed"
    assert any("raised no alarm" in note for note in report["notes"])
    # The interval has the noise of all four shares in it, three of which make the whole, of 4 patients a cell.
    whole, _ = SummaryLayout.of(simulation.study, grouped=True).unpack(noisy)
    expected = measures.auroc(whole, noise=4 * (4 / 3) ** 0.5)
    assert report["union"]["federated"]["auroc"]["low"] == pytest.approx(expected.low, abs=1e-4)
    assert expected.low < measures.auroc(whole, noise=4 * (1 / 3) ** 0.5).low - 0.01


def test_with_next_to_no_noise_it_is_gradient_descent_on_all_patients_clipped_one_by_one(smoke):
    """Everybody in every step, and the noise of a millionth: worked out by a loop over patients."""
    quiet = ("privacy.noise_multiplier=1e-5", "privacy.sampling_rate=1", "privacy.max_grad_norm=0.8",
             "privacy.statistics_noise=1e-3", "privacy.evaluation_noise=1e-3")  # fmt: skip
    simulation = checked(smoke(*FOUR, *GIVEN, *quiet, "rounds=3", "strategy.learning_rate=0.7"))
    store = conducted(simulation)
    scaling = Preprocessor.from_spec(simulation.study.features)
    parts = [client.cohort.part("train") for client in clients(simulation).values()]
    x = np.vstack([part.matrix(scaling) for part in parts]).astype(np.float64)
    y = np.concatenate([part.y for part in parts])
    design, at = np.hstack([x, np.ones((len(y), 1))]), np.zeros(x.shape[1] + 1)
    for _ in range(3):
        total = np.zeros_like(at)
        for row, outcome in zip(design, y, strict=True):
            gradient = (1 / (1 + np.exp(-row @ at)) - outcome) * row
            total += gradient * min(1.0, 0.8 / np.linalg.norm(gradient))
        at = at - 0.7 * total / len(y)
    found = load_tensors((store.folder / "model.safetensors").read_bytes())
    np.testing.assert_allclose(np.append(found["weight"], found["bias"]), at, atol=2e-5)


def test_a_masked_private_study_answers_no_more_than_its_epsilon_was_worked_out_for(smoke, monkeypatch):
    """A coordinator that plans more rounds than it told: the hospitals go by the study they approved."""
    from fedhealth.server import rounds

    simulation = checked(smoke(*FOUR, *GIVEN, "rounds=2"))
    monkeypatch.setattr(rounds, "_stop_reason", lambda study, progress: "")
    inner = rounds._round
    monkeypatch.setattr(
        rounds, "_round", lambda plan, grid, scaling, progress: [inner(plan, grid, scaling, progress) for _ in "12"][-1]
    )
    store = conducted(simulation)
    assert [row.what for row in charged(store, SITES[0])].count("train") == 2
    assert "spent" in store.read_json("results.json")["stopped_because"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["secagg=plain"], "Use secagg=masked"),
        (["strategy=fedavg"], "Use strategy=fedsgd"),
        (["strategy=scaffold"], "Use strategy=fedsgd"),
        (["model=mlp", "model.normalisation=batch"], "model.normalisation=layer"),
        (["task=survival", "model=cox"], "whose partial likelihood compares them"),
        (["privacy.noise_multiplier=100", "model=mlp", "model.hidden=[4096,4096]"], "rounding must add at most 5%"),
        (["secagg.colluders=3", "secagg.min_cohort=3"], "secagg.min_cohort` must be at least 5"),
        (["privacy.sampling_rate=null"], "sampling_rate"),
    ],
)
def test_what_can_not_be_shared_is_refused_before_anything_runs(smoke, words, said):
    with pytest.raises(SettingError, match=said):
        checked(smoke(*FOUR, *GIVEN, *words))
