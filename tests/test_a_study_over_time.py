"""A whole study over time, from the hospitals' tables to the report, against the same numbers worked out patient by patient."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from sklearn.metrics import roc_auc_score

from fedhealth import cli
from fedhealth.core.errors import DataError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.report import page
from fedhealth.simulate import checked, clients, open_run, run
from fedhealth.site import baselines
from fedhealth.site.trainer import training_of

pytestmark = pytest.mark.slow

SURVIVAL = ("task=survival", "model=cox", "strategy=newton", "training.steps=20", "training.learning_rate=0.5")


@pytest.fixture
def ended(smoke):
    """The simulation, its folder and its report, of the survival task with some overrides."""

    def made(*words: str):
        simulation = checked(smoke(*SURVIVAL, *words))
        store = open_run(simulation)
        run(simulation, store, lambda row: None)
        return simulation, store, cli._write_report(simulation, store.folder)

    return made


def baseline(weight, event, days, horizon) -> float:
    """Breslow's estimate with Efron's ties, event by event."""
    found = 0.0
    for day in np.unique(days[(event == 1) & (days <= horizon)]):
        dead = (days == day) & (event == 1)
        for k in range(dead.sum()):
            found += 1 / (weight[days >= day].sum() - k / dead.sum() * weight[dead].sum())
    return found


def kaplan_meier(event, days, horizon) -> float:
    alive = 1.0
    for day in np.unique(days[(event == 1) & (days <= horizon)]):
        alive *= 1 - ((days == day) & (event == 1)).sum() / (days >= day).sum()
    return 1 - alive


def test_the_report_says_what_a_look_at_every_patient_says(ended):
    simulation, store, report = ended("run.baselines=[local,pooled,oracle]")
    with safe_open(store.folder / "model.safetensors", "np") as file:
        header, weight = json.loads(file.metadata()["fedhealth"]), file.get_tensor("weight")
    preprocessor = Preprocessor.from_json(header["preprocessor"])
    right = pairs = 0.0
    risk, status, expected, observed, censored = [], [], 0.0, 0.0, 0
    for client in clients(simulation).values():
        train, test = client.cohort.part("train"), client.cohort.part("test")
        score = [(preprocessor.apply(part.columns) @ weight.T)[:, 0].astype(float) for part in (train, test)]
        own = 1 - np.exp(-baseline(np.exp(score[0]), train.y, train.days, 365) * np.exp(score[1]))
        for i in np.flatnonzero(test.y == 1):
            later = (test.days > test.days[i]) | ((test.days == test.days[i]) & (test.y == 0))
            pairs += later.sum()
            right += (score[1][later] < score[1][i]).sum() + (score[1][later] == score[1][i]).sum() / 2
        known = (test.days >= 365) | (test.y == 1)
        risk.append(own[known])
        status.append(((test.y == 1) & (test.days <= 365))[known])
        expected, observed = expected + own.sum(), observed + len(test) * kaplan_meier(test.y, test.days, 365)
        censored += int((~known).sum())
    found = report["union"]["federated"]
    assert found["c_index"]["value"] == pytest.approx(right / pairs, abs=1e-4)
    assert found["observed_to_expected"]["value"] == pytest.approx(observed / expected, rel=1e-3)
    assert found["auroc"]["value"] == pytest.approx(
        roc_auc_score(np.concatenate(status), np.concatenate(risk)), abs=0.005
    )
    assert report["follow_up"]["horizon"] == "365 days"
    assert report["follow_up"]["patients"] == sum(len(each) for each in risk) + censored
    assert report["follow_up"]["censored"] == (censored if censored >= 10 else None)
    # The truth orders patients best, and one model of all comes near the federation's.
    c = {who: measures["c_index"]["value"] for who, measures in report["union"].items()}
    assert c["oracle"] > c["federated"] > 0.6
    assert c["pooled"] == pytest.approx(c["federated"], abs=0.03)
    text = page.html(report)
    assert "Harrell’s C, federated" in text
    assert "AUROC at 365 days" in text


def test_another_horizon_asks_another_question_of_the_same_fit(ended, tmp_path):
    _, _, year = ended()
    _, _, month = ended("task.follow_up.horizon=30", f"run.folder={tmp_path / 'month'}")
    assert [r["follow_up"]["horizon"] for r in (year, month)] == ["365 days", "30 days"]
    assert [row["train_loss"] for row in year["rounds"]] == [row["train_loss"] for row in month["rounds"]]
    events = [sum(row["events"] for row in r["groups"] if row["n"] is not None) for r in (year, month)]
    assert events[1] < events[0]


def test_fedavg_fits_a_cox_model_by_steps_on_all_of_a_hospitals_patients(ended):
    simulation, _, report = ended("strategy=fedavg", "rounds=6")
    assert training_of(simulation.study, 1, 77).batch_size == 77
    losses = [row["train_loss"] for row in report["rounds"]]
    assert losses == sorted(losses, reverse=True)
    assert report["union"]["federated"]["c_index"]["value"] > 0.6


def test_a_model_of_all_patients_in_one_place_keeps_the_hospitals_apart(smoke):
    simulation = checked(smoke(*SURVIVAL, "run.folder=null"))
    by_name = clients(simulation)
    each = list(by_name.values())
    preprocessor, _ = baselines.local(simulation.study, by_name)[next(iter(by_name))]
    x, outcome = baselines._together(preprocessor, each, "train")
    assert x.shape == (len(outcome), preprocessor.width)
    assert [int((outcome[:, 2] == k).sum()) for k in range(3)] == [len(c.cohort.part("train")) for c in each]


# --- hospitals with tables of their own ---


@pytest.fixture
def tabular(smoke, tmp_path):
    """The study over three CSV hospitals whose rows `patients` gives."""

    def config(patients, **manifest):
        for seed, name in enumerate(("ash", "oak", "yew")):
            home = tmp_path / "sites" / name
            home.mkdir(parents=True)
            own = {
                "name": name, "title": name.title(), "policy": {"min_patients": 5, "min_cell": 1, "min_cohort": 3},
                "source": {"kind": "csv", "path": "patients.csv"}, **manifest,
            }  # fmt: skip
            (home / "site.yaml").write_text(yaml.safe_dump(own))
            lines = ["age,sex,died,followed", *(",".join(map(str, row)) for row in patients(seed))]
            (home / "patients.csv").write_text("\n".join(lines) + "\n")
        found = smoke(*SURVIVAL, f"sites.folder={tmp_path / 'sites'}", "sites.names=null")
        age = {"name": "age", "label": "Age", "unit": "a", "range": [0, 120]}
        found["features"] = {"name": "two", "features": [age, {"name": "sex", "kind": "binary"}], "groups": {}}
        follow_up = {"time": "followed", "unit": "years", "horizon": 1.0}
        found["task"] = {"name": "death", "title": "Death", "outcome": "died", "follow_up": follow_up}
        return found

    return config


def elderly(seed, n=80, died=None):
    rng = np.random.default_rng(seed)
    age = rng.integers(30, 90, n)
    until, end = rng.exponential(3 * np.exp((60 - age) / 10)), rng.uniform(0.5, 3, n)
    event = (until <= end).astype(int) if died is None else np.full(n, died)
    return list(zip(age, rng.integers(0, 2, n), event, np.round(np.minimum(until, end), 3), strict=True))


def test_tables_with_times_are_a_study(tabular):
    simulation = checked(tabular(elderly))
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    report = cli._write_report(simulation, store.folder)
    assert report["follow_up"]["horizon"] == "1 year"
    assert report["union"]["federated"]["c_index"]["value"] > 0.6


def test_a_study_in_which_everybody_had_the_event_can_be_fitted(tabular):
    simulation = checked(tabular(lambda seed: elderly(seed, died=1)))
    run(simulation, open_run(simulation), lambda row: None)


def test_a_study_without_an_event_is_refused(tabular):
    simulation = checked(tabular(lambda seed: elderly(seed, died=0)))
    with pytest.raises(DataError, match=r"must hold an event, found \d+ without and 0 with the event"):
        run(simulation, open_run(simulation), lambda row: None)


@pytest.mark.slow
def test_hazards_by_interval_learn_by_averaging_and_rank_near_the_true_hazard(tmp_path):
    words = ["experiment=survival", "model=hazards", "strategy=fedavg", "sites=smoke", "rounds=12", "training.steps=null",
             "training.learning_rate=0.05", "run.baselines=[oracle]", "run.report=false", f"run.folder={tmp_path / 'run'}"]  # fmt: skip
    assert cli.main(["simulate", *words]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found, best = (report["union"][who]["c_index"]["value"] for who in ("federated", "oracle"))
    assert best - 0.12 < found < best + 0.02
