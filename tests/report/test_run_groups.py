from __future__ import annotations

import dataclasses

import pytest

from fedhealth.core.errors import DataError, SettingError
from fedhealth.report.run_groups import grouped, labelled

FEDADAM = {"_target_": "flwr.serverapp.strategy.FedAdam", "fraction_train": 1.0, "eta": 0.1}


def labels(*runs):
    return labelled([group.settings for group in grouped(runs)])


def test_runs_of_one_config_are_one_group_over_its_seeds(run_of):
    groups = grouped([run_of(3), run_of(1, strategy="FedAdam"), run_of(1), run_of(2, strategy="FedAdam")])
    assert [[run.seed for run in group.runs] for group in groups] == [[1, 3], [1, 2]]


@pytest.mark.parametrize("aside", [{"name": "other"}, {"title": "Other"}, {"run": {"folder": "x", "report": False}}])
def test_what_computes_nothing_makes_no_group(run_of, aside):
    assert len(grouped([run_of(1), run_of(2, config=aside)])) == 1


def test_a_label_is_the_strategys_name_where_that_is_enough(run_of):
    lone = run_of(strategy="FedAvg")
    tuned = run_of(config={"strategy": FEDADAM, "training": {"learning_rate": 0.01}})
    assert labels(lone, tuned) == ["strategy=fedavg", "strategy=fedadam"]


def test_a_label_names_a_setting_where_the_strategy_is_not_enough(run_of):
    runs = [run_of(), *(run_of(config={"strategy": {**FEDADAM, "eta": eta}}) for eta in (0.1, 0.01))]
    assert labels(*runs) == [
        "strategy=fedavg",
        "strategy=fedadam strategy.eta=0.1",
        "strategy=fedadam strategy.eta=0.01",
    ]
    assert labels(*runs[1:]) == ["strategy.eta=0.1", "strategy.eta=0.01"]


def test_a_grid_is_told_apart_by_both_of_its_settings(run_of):
    runs = [run_of(strategy=s, config={"rounds": n}) for s in ("FedAvg", "FedAdam") for n in (2, 4)]
    assert labels(*runs)[1:3] == ["strategy=fedavg rounds=4", "strategy=fedadam rounds=2"]


def test_a_setting_that_one_group_lacks_is_said_to_be_unset(run_of):
    more = {"_target_": "flwr.serverapp.strategy.FedAvg", "fraction_train": 1.0, "arrayrecord_key": "w"}
    assert labels(run_of(), run_of(config={"strategy": more})) == [
        "strategy.arrayrecord_key=unset",
        "strategy.arrayrecord_key=w",
    ]


def test_two_strategies_of_one_name_are_told_apart_by_where_they_are(run_of):
    own = {"_target_": "mine.FedAvg", "fraction_train": 1.0}
    assert labels(run_of(), run_of(config={"strategy": own}))[1] == "strategy._target_=mine.FedAvg"


def test_values_are_said_as_an_override_has_them(run_of):
    mlp = {"_target_": "fedhealth.models.mlp.Mlp"}
    runs = [run_of(config={"model": {**mlp, "hidden": hidden}}) for hidden in ([64, 32], None)]
    assert labels(*runs) == ["model.hidden=[64,32]", "model.hidden=null"]
    assert labels(run_of(), runs[0]) == ["model=logistic", "model=mlp"]


def test_one_group_is_called_by_its_strategy(run_of):
    assert labels(run_of(1), run_of(2)) == ["strategy=fedavg"]


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"task": {"name": "readmission"}}, "the same `task.name`, found mortality in runs/a and readmission in runs/b"),
        ({"split": {"train": 0.8, "test": 0.4}}, "the same `split.train`, found 0.6 in runs/a and 0.8 in runs/b"),
        ({"source": {"kind": "synthetic", "size": 9}}, "the same `source.kind`, found nothing in runs/a and synthetic"),
        ({"sites": {"folder": "drawn", "names": None}}, "the same `sites.folder`, found nothing in runs/a and drawn"),
        (
            {"features": {"name": "mortality", "features": [{"name": "age"}]}},
            "the same `features.features.1.name`, found lactate in runs/a and nothing in runs/b",
        ),
        (
            {"features": {"name": "mortality", "features": [{"name": "age"}, {"name": "lactate", "bins": list(range(99))}]}},
            "found nothing in runs/a and [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22… in runs/b",
        ),
    ],
    ids=["task", "split", "source", "folder", "features", "long"],
)  # fmt: skip
def test_runs_that_ask_other_things_are_refused_by_key_and_values(run_of, other, line):
    with pytest.raises(SettingError) as refused:
        grouped([run_of(1, folder="runs/a"), run_of(1, folder="runs/b", config=other)])
    assert line in str(refused.value)


def test_runs_of_other_hospitals_are_refused_by_their_names(run_of):
    other = run_of(1, folder="runs/b")
    other.report["sites"].pop()
    with pytest.raises(SettingError, match=r"`sites.names`, found \[elm,oak\] in runs/a and \[oak\] in runs/b"):
        grouped([run_of(1, folder="runs/a"), other])


def test_hospitals_named_one_by_one_are_those_of_the_whole_folder(run_of):
    named = {"sites": {"folder": None, "names": ["oak", "elm"]}}
    assert len(grouped([run_of(1), run_of(2, config=named)])) == 1


def test_a_hospital_whose_patients_changed_between_runs_of_one_seed_is_refused(run_of):
    other = run_of(1, strategy="FedAdam", folder="runs/b")
    other.report["sites"][1]["test"] = 21
    with pytest.raises(SettingError, match="found 20 and 21 test patients at elm in runs/a and runs/b"):
        grouped([run_of(1, folder="runs/a"), other])
    other.report["sites"][1]["test"] = None
    assert len(grouped([run_of(1), other])) == 2


def test_a_run_that_repeats_anothers_results_counts_once(run_of):
    (group,) = grouped([run_of(1, folder="runs/a"), run_of(1, folder="runs/b"), run_of(2)])
    assert ([run.folder for run in group.runs], group.repeats) == (["runs/a", "runs/FedAvg-2"], ("runs/b",))


def test_two_results_for_one_config_and_seed_are_refused(run_of):
    with pytest.raises(SettingError, match="one result for a seed, found two for seed=1: runs/a and runs/b"):
        grouped([run_of(1, folder="runs/a"), run_of(1, folder="runs/b", union=0.8)])


def test_a_report_of_another_schema_is_refused(run_of):
    old = run_of(1, folder="runs/a")
    with pytest.raises(DataError, match="runs/a/report.json must have schema 1, found 0"):
        grouped([dataclasses.replace(old, report={**old.report, "schema": 0})])
