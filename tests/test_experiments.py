"""What the experiments claim: their tables stand in their READMEs, and the claim that matters holds."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import ScoreSums
from fedhealth.evaluation.sparse import dense
from fedhealth.simulate import checked, open_run, run
from fedhealth.synthetic.folders import write_sites

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


TABLES = sorted(path for path in EXPERIMENTS.glob("*/*.md") if path.name != "README.md")


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_a_readme_shows_the_table_its_experiment_wrote(table):
    assert table.read_text().strip() in (table.parent / "README.md").read_text()


@pytest.fixture
def heart(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "heart"))
    yield importlib.import_module("run"), importlib.import_module("flamby")
    for name in ("run", "flamby"):
        sys.modules.pop(name, None)


@pytest.fixture
def robustness(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "robustness"))
    yield importlib.import_module("run")
    sys.modules.pop("run", None)


@pytest.mark.slow
def test_at_four_real_hospitals_the_federation_passes_the_published_figures(heart, real_data, tmp_path):
    run, flamby = heart
    run.prepared(flamby.centres(real_data), tmp_path)
    sums = run.fedhealth_sums(tmp_path, seed=0)["FedAvg"]
    # FLamby publishes .685 for FedAvg and .735 pooled (arXiv 2210.04620).
    assert np.mean([measures.accuracy(site).value for site in sums]) >= 0.79
    assert measures.auroc(sum(sums[1:], sums[0])).value >= 0.87


@pytest.mark.slow
def test_flambys_protocol_gives_flambys_published_accuracy(heart, real_data):
    _, flamby = heart
    found = flamby.centres(real_data)
    each = [flamby.scores(found, seed) for seed in range(5)]
    means = {
        way: np.mean([np.mean([((p >= 0.5) == y).mean() for p, y in one[way]]) for one in each]) for way in each[0]
    }
    assert means["pooled, tests scaled per hospital"] == pytest.approx(0.735, abs=0.01)
    assert means["FedAdagrad"] == pytest.approx(0.731, abs=0.015)
    assert means["FedAvg"] == pytest.approx(0.685, abs=0.03)
    assert means["each hospital alone"] == pytest.approx(0.730, abs=0.03)


@pytest.mark.parametrize("strategy", ["fedavg", "ditto"])
def test_patients_without_a_trigger_score_as_in_the_hospitals_own_histograms(robustness, smoke, monkeypatch, strategy):
    monkeypatch.setattr(robustness, "ATTACKERS", ("harrow-fen",))
    simulation = checked(smoke(f"strategy={strategy}", "model=mlp"))
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    clean, triggered = robustness.scores(simulation, store)
    vectors = [dense(v) for name, v in store.read_json("results.json")["sums"].items() if name != "harrow-fen"]
    negatives = sum(ScoreSums.from_vector(np.array(v[: ScoreSums.width()])).negatives for v in vectors)
    np.testing.assert_array_equal(np.histogram(clean, bins=len(negatives), range=(0, 1))[0], negatives)
    assert clean.shape == triggered.shape
    # Everybody has the same trigger in place of values of their own.
    assert not np.isclose(clean, triggered).any()


@pytest.mark.slow
def test_a_label_flip_costs_fedavg_its_auroc_and_krum_nothing(robustness, monkeypatch, tmp_path):
    write_sites(tmp_path / "sites", h=0.0, n=11, seed=1, size=600)
    monkeypatch.setattr(robustness, "ATTACKERS", tuple(f"hospital-{k:02d}" for k in range(1, 5)))
    monkeypatch.setitem(robustness.STRATEGIES, "krum", ["strategy.num_malicious_nodes=4"])
    found = {
        (attack, strategy): robustness.one((attack, strategy, 1, 8, str(tmp_path / "sites")))["auroc"]
        for attack in ("plain", "label_flip")
        for strategy in ("fedavg", "krum")
    }
    assert found["label_flip", "fedavg"] < found["plain", "fedavg"] - 0.05
    assert found["label_flip", "krum"] > found["plain", "krum"] - 0.02
    assert found["label_flip", "krum"] > found["label_flip", "fedavg"] + 0.05


@pytest.mark.slow
def test_the_robustness_experiment_made_small_writes_its_table_and_its_plot(robustness, monkeypatch, tmp_path):
    monkeypatch.setattr(robustness, "ATTACKS", {name: robustness.ATTACKS[name] for name in ("plain", "backdoor")})
    words = ["--seeds", "1", "--rounds", "2", "--attacks", "plain,backdoor", "--strategies", "fedavg", "--workers", "1"]
    rows = robustness.main(words, out=tmp_path)
    assert [(row["attack"], row["strategy"]) for row in rows] == [("plain", "fedavg"), ("backdoor", "fedavg")]
    assert all(0.1 <= row["clean"] < 0.11 and 0 <= row["triggered"] <= 1 for row in rows)
    assert f"| fedavg | {rows[0]['auroc']:.3f} | {rows[1]['auroc']:.3f} |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "robustness.svg").read_text().count("backdoor") >= 2
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3


@pytest.fixture
def newton(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "newton"))
    yield importlib.import_module("run")
    for name in ("run", "pooled"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_newton_reaches_the_pooled_fit_of_both_models_in_rounds_where_fedavg_and_scaffold_do_not(newton, tmp_path):
    found = newton.main(["--rounds", "10", "--sites", "smoke"], out=tmp_path)
    for model in newton.MODELS:
        ends = {strategy: found[model, strategy][0][-1] for strategy in newton.STRATEGIES}
        assert ends["newton"] < 1e-6
        assert min(ends["fedavg"], ends["scaffold"]) > 1e-3
    assert (tmp_path / "table.md").read_text().count("| newton |") == 2
    assert (tmp_path / "newton.svg").stat().st_size > 1000


def test_the_round_that_counts_is_the_one_from_which_on_it_stays_near(newton):
    assert newton.first_within([0.5, 0.05, 0.2, 0.05, 0.01], 0.1) == "4"
    assert newton.first_within([0.05, 0.01], 0.1) == "1"
    assert newton.first_within([0.5, 0.2], 0.1) == "not in 2"


@pytest.fixture
def privacy(monkeypatch):
    def loaded(name: str):
        monkeypatch.syspath_prepend(str(EXPERIMENTS / name))
        return importlib.import_module("run")

    yield loaded
    sys.modules.pop("run", None)


@pytest.mark.slow
def test_a_private_step_sums_what_opacus_sums_and_takes_less_time(privacy, tmp_path):
    rows = privacy("privacy_speed").main(["--steps", "40", "--repeats", "3"], out=tmp_path)
    assert all(row["apart"] < 1e-5 for row in rows)
    assert all(row["ratio"] > 1.5 for row in rows)
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(rows)


@pytest.mark.slow
def test_private_rounds_of_many_hospitals_at_once_have_the_bits_of_one_by_one(privacy, monkeypatch, tmp_path):
    run = privacy("privacy_speed")
    monkeypatch.setattr(run, "ROUNDS", ((3, "logistic"), (3, "mlp 64-32"), (1, "cnn 32-32")))
    *rows, over_time = run.main(["--hospitals", "--repeats", "1"], out=tmp_path)
    assert [row["apart"] for row in [*rows, over_time]] == [0.0, 0.0, 0.0]
    # Two ways of the same steps with noise of their own: each is near the other's model.
    assert all(row["auroc"] == pytest.approx(row["auroc of Opacus"], abs=0.03) for row in rows)
    assert "auroc" not in over_time
    text = (tmp_path / "hospitals.md").read_text()
    assert text.count("\n") == 4 + len([*rows, over_time])
    assert "| 1 | cnn 32-32 | 16 |" in text


@pytest.mark.slow
def test_the_privacy_experiment_made_small_writes_its_tables_and_its_plot(privacy, monkeypatch, tmp_path):
    run = privacy("privacy_utility")
    monkeypatch.setattr(run, "EPSILONS", (4.0, float("inf")))
    monkeypatch.setattr(run, "STEPS", 8)
    rows = run.main(["--seeds", "1", "--hospitals", "3", "--workers", "1"], out=tmp_path)
    assert [(row["way"], row["epsilon"]) for row in rows] == [
        ("local", 4.0), ("distributed", 4.0), ("curator", 4.0), ("local", float("inf"))
    ]  # fmt: skip
    assert all(0.5 < row["auroc"] < 1 for row in rows)
    assert "| 4 |" in (tmp_path / "table.md").read_text()
    # Whatever leaves beside training, more of it takes more noise in training.
    noise = [float(line.split("|")[3]) for line in (tmp_path / "price.md").read_text().splitlines()[2:]]
    assert noise == sorted(noise)
    assert (tmp_path / "privacy_utility.svg").stat().st_size > 1000


def test_the_prices_in_the_readme_are_those_of_the_command(privacy):
    readme = EXPERIMENTS / "privacy_utility" / "README.md"
    assert privacy("privacy_utility").price().strip() in readme.read_text()


@pytest.fixture
def strategies(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "strategies"))
    yield importlib.import_module("run")
    sys.modules.pop("run", None)


def measured(setting: str, strategy: str, gains) -> list[dict]:
    """Runs of a strategy that reaches 0.7 and so much more, seed by seed."""
    return [
        {"setting": setting, "strategy": strategy, "seed": seed, "bytes": 1e6}
        | dict.fromkeys(("union", "mean", "worst"), 0.7 + gain)
        for seed, gain in enumerate(gains)
    ]


def test_a_strategy_is_marked_only_where_its_gain_over_fedavg_is_told_from_chance(strategies, tmp_path):
    steady, scattered = [0.021, 0.02, 0.019, 0.02, 0.02], [0.06, -0.03, 0.05, -0.02, 0.04]
    rows = [
        row
        for setting in strategies.SETTINGS
        for name, gains in (
            ("fedavg", [0.0] * 5),
            ("afl", steady),
            ("krum", [-g for g in steady]),
            ("ditto", scattered),
        )
        for row in measured(setting, name, gains)
    ]
    names = ["fedavg", "afl", "krum", "ditto"]
    lines = {line.split(" | ")[0].strip("| "): line for line in strategies.table(rows, names).splitlines()[2:]}
    assert {name: (lines[name].count("▲"), lines[name].count("▼")) for name in names} == {
        "fedavg": (0, 0), "afl": (7, 0), "krum": (0, 7), "ditto": (0, 0),
    }  # fmt: skip
    strategies.draw(rows, names, tmp_path / "strategies.svg")
    assert (tmp_path / "strategies.svg").read_text().count("quantity skew") >= 1


@pytest.mark.slow
def test_a_stopped_comparison_of_strategies_goes_on_with_the_runs_it_lacks(strategies, tmp_path):
    words = ["--seeds", "1", "--rounds", "2", "--settings", "label skew", "--workers", "1"]
    first = strategies.main([*words, "--only", "fedavg"], out=tmp_path)
    both = strategies.main([*words, "--only", "fedavg,newton", "--go-on"], out=tmp_path)
    assert [(row["setting"], row["strategy"]) for row in both] == [("label skew", "fedavg"), ("label skew", "newton")]
    assert both[0]["mean"] == pytest.approx(first[0]["mean"], abs=1e-4)
    assert all(0.4 < row["mean"] < 1 for row in both)
    kept = strategies.stored(tmp_path / "results.csv")
    assert [row["worst"] for row in kept] == pytest.approx([row["worst"] for row in both], rel=1e-4)


@pytest.fixture
def icu(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "icu"))
    yield importlib.import_module("run")
    sys.modules.pop("run", None)


def test_the_federation_of_intensive_care_units_passes_the_units_alone_and_the_table_is_its_results(icu):
    rows = icu.known()
    summaries = "logistic regression on summaries"
    assert np.mean(icu.of(rows, summaries, "federated", "all stays")) >= 0.83
    assert icu.table(rows) == (EXPERIMENTS / "icu" / "table.md").read_text()
    gained = np.subtract(*(icu.of(rows, summaries, who, "all stays") for who in ("federated", "alone")))
    assert (gained > 0).all()


@pytest.mark.process
def test_ten_million_patients_in_parquet_take_less_than_two_gib(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "sources"))
    sources = importlib.import_module("run")
    try:
        peaks = []
        for rows in (200_000, 1_000_000):
            source = json.dumps(sources.made("parquet", rows, tmp_path))
            peaks.append(sources.alone(["--child", "cohort", source, str(tmp_path)])["peak"])
    finally:
        sys.modules.pop("run", None)
    # What a patient takes, told from a million: the experiment measures ten.
    each = (peaks[1] - peaks[0]) / 800_000
    assert peaks[0] + each * 9_800_000 < 2 * 2**30


@pytest.mark.slow
def test_a_step_with_shared_noise_is_measured_beside_the_plain_one_stage_by_stage(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "secagg"))
    step = importlib.import_module("step")
    monkeypatch.setattr(step, "MODELS", {"logistic": step.MODELS["logistic"]})
    plain, private = step.main(["--repeats", "2"], out=tmp_path)
    for name in ("step", "watch"):
        sys.modules.pop(name, None)
    assert (plain["words"], plain["noise"]) == (63, 0)
    assert all(private[stage] > 0 for stage in step.STAGES)
    assert (tmp_path / "step.md").read_text().count("\n") == 4
