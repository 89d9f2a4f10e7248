"""Which questions are the same: what decides the answer counts, and whoever is asked, and under what name, does not."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.split import Split
from fedhealth.core.study import Study
from fedhealth.core.tabulation import Tabulation
from fedhealth.runtime.codec import Request
from fedhealth.secagg.content.question import task_of

MODEL = {"w": np.arange(4, dtype=np.float32).reshape(2, 2), "b": np.zeros((), dtype=np.int64)}
CONFIG = {"server-round": 1, "lr": 0.1}
STATISTICS = ("query.shape", "query.moments", "query.spread")


def asked(study, purpose="train", arrays=MODEL, config=CONFIG) -> bytes:
    return task_of(Request(purpose, 1, dict(arrays), dict(config)), study)


def test_a_task_changes_with_the_model_and_the_instruction(smoke_study):
    task = asked(smoke_study)
    assert task == asked(smoke_study, arrays=dict(reversed(MODEL.items())), config={"lr": 0.1, "server-round": 1})
    others = [
        asked(smoke_study, "evaluate"),
        asked(smoke_study, config={**CONFIG, "server-round": 2}),
        asked(smoke_study, config={**CONFIG, "server-round": "1"}),
        asked(smoke_study, arrays={**MODEL, "w": MODEL["w"].T}),
        asked(smoke_study, arrays={**MODEL, "w": MODEL["w"].reshape(4)}),
        asked(smoke_study, arrays={**MODEL, "w": MODEL["w"].astype(np.float64)}),
        asked(smoke_study, arrays={"w": MODEL["w"]}),
    ]
    assert len({task, *others}) == 8


def changed(study: Study, field: str) -> Study:
    """The study with another value there."""
    other = {
        "name": "another",
        "title": "Another",
        "rounds": study.rounds + 1,
        "roster": study.roster[:-1],
        "identities": {},
        "rules": replace(study.rules, timeout_s=1.0),
        "server_optimiser": {"_target_": "another"},
        "secagg": {"_target_": "another"},
        "tabulation": Tabulation(tables=(("age",),)),
        "seed": study.seed + 1,
        "training": replace(study.training, epochs=study.training.epochs + 1),
        "task": replace(study.task, positive_above=study.task.positive_above + 1),
        "features": replace(study.features, features=study.features.features[1:], groups={}),
        "split": Split(train=0.5, validation=0.3, test=0.2),
    }.get(field, {"_target_": "another"})
    return replace(study, **{field: other})


# By part of a study: whether a statistic, and whether training, is another question with it.
PARTS = {
    **dict.fromkeys(
        ("name", "title", "rounds", "roster", "identities", "rules", "server_optimiser", "secagg", "tabulation"), (0, 0)
    ),
    **dict.fromkeys(("seed", "training", "model", "strategy", "privacy", "engine"), (0, 1)),
    **dict.fromkeys(("task", "features", "split"), (1, 1)),
}


def test_every_part_of_a_study_is_tested_here():
    assert set(PARTS) == {field.name for field in dataclasses.fields(Study)}


@pytest.mark.parametrize(("part", "is_another"), PARTS.items())
def test_a_part_of_the_study_makes_another_question_where_it_decides_the_answer(smoke_study, part, is_another):
    other = changed(smoke_study, part)
    for purpose in STATISTICS:
        assert (asked(other, purpose) != asked(smoke_study, purpose)) == is_another[0]
    for purpose in ("train", "evaluate"):
        assert (asked(other, purpose) != asked(smoke_study, purpose)) == is_another[1]


def test_what_comes_along_with_a_statistic_makes_no_other_question_of_it(smoke_study):
    plain = asked(smoke_study, "query.shape", {}, {})
    assert asked(smoke_study, "query.shape", {}, {"again": 1}) == plain
    assert asked(smoke_study, "query.shape", {"more": np.zeros(1)}, {}) == plain
    means = [{"means": np.array([0.5, value])} for value in (1.0, np.nextafter(1.0, 2.0))]
    assert asked(smoke_study, "query.spread", means[0]) == asked(smoke_study, "query.spread", means[1]) != plain
    assert asked(smoke_study, "evaluate", means[0]) != asked(smoke_study, "evaluate", means[1])


def test_other_words_and_another_order_make_no_other_question(smoke_study):
    features = smoke_study.features
    shown = tuple(replace(feature, label=f"{feature.label} (new)") for feature in reversed(features.features))
    reworded = replace(
        smoke_study,
        features=replace(features, name="another", features=shown),
        task=replace(smoke_study.task, name="another", title="Another", positive_label="yes", negative_label="no"),
    )
    for purpose in STATISTICS:
        assert asked(reworded, purpose) == asked(smoke_study, purpose)
