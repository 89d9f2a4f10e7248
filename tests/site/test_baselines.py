"""The comparisons: trained by the federation's own rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.preprocessor import Preprocessor
from fedhealth.evaluation.moments import MomentLayout, first_pass, global_means, global_moments, second_pass
from fedhealth.simulate import checked, clients
from fedhealth.site import baselines
from fedhealth.site.engines.batched import Batched


@pytest.fixture
def simulation(smoke):
    return lambda *words: checked(smoke("run.folder=null", *words))


def scaling(study, client) -> Preprocessor:
    part, layout = client.cohort.part("train"), MomentLayout(study.features)
    first = first_pass(layout, part.columns, part.y, min_cell=1)
    second = second_pass(layout, part.columns, global_means(layout, first), min_cell=1)
    return Preprocessor.from_moments(study.features, global_moments(layout, first, second))


def just(simulation, name):
    return {name: clients(simulation)[name]}


@pytest.fixture
def fits(monkeypatch):
    """The training settings of each round that any baseline ran."""
    seen = []
    honest = Batched.fit_all

    def fit_all(self, jobs):
        seen.extend(job.training for job in jobs)
        return honest(self, jobs)

    monkeypatch.setattr(Batched, "fit_all", fit_all)
    return seen


def test_the_pooled_model_gets_as_many_steps_as_all_hospitals_together(simulation, fits):
    found = simulation("training.steps=5", "rounds=2")
    those = clients(found)
    baselines.pooled(found.study, those, scaling(found.study, next(iter(those.values()))))
    assert [training.steps for training in fits] == [15, 15]


def test_a_baseline_stops_early_when_the_federation_would(simulation, fits):
    found = simulation("rounds=40", "rules.patience=2", "training.learning_rate=3.0", "model=mlp")
    baselines.local(found.study, just(found, "galen-heart"))
    assert len(fits) < 40


@pytest.mark.parametrize("watch", ["auroc", "log_loss"])
def test_a_baseline_keeps_its_best_round_by_the_watched_measure(simulation, watch, monkeypatch):
    found = simulation("rounds=6", f"rules.watch={watch}", "training.learning_rate=1.0")
    study, galen = found.study, just(found, "galen-heart")
    seen = []
    honest = baselines.watched
    monkeypatch.setattr(baselines, "watched", lambda sums, name: seen.append((name, honest(sums, name))) or seen[-1][1])
    preprocessor, best = baselines.local(study, galen)["galen-heart"]
    assert {name for name, _ in seen} == {watch}
    at = int(np.argmin([value for _, value in seen])) + 1
    _, again = baselines.local(replace(study, rounds=at), galen)["galen-heart"]
    x = preprocessor.apply(galen["galen-heart"].cohort.part("test").columns)
    assert (Batched().predict(best, x) == Batched().predict(again, x)).all()


@pytest.mark.parametrize("engine", ["plain", "batched"])
def test_a_hospital_that_trains_alone_gets_the_same_model_whoever_trains_beside_it(simulation, engine):
    words = ("rounds=6", "rules.patience=1", "training.learning_rate=1.0", "model=mlp", f"engine={engine}")
    found = simulation(*words)
    beside = baselines.local(found.study, clients(found))
    assert len(beside) > 1
    for name, (preprocessor, network) in beside.items():
        scaling_alone, alone = baselines.local(found.study, just(found, name))[name]
        assert preprocessor == scaling_alone
        for one, other in zip(network.state_dict().values(), alone.state_dict().values(), strict=True):
            assert one.numpy().tobytes() == other.numpy().tobytes()


def test_hospitals_train_alone_in_one_stack_each_until_its_own_last_round(simulation, monkeypatch):
    found, rounds = simulation("rounds=12", "rules.patience=1", "training.learning_rate=3.0"), []
    honest = Batched.fit_all
    monkeypatch.setattr(Batched, "fit_all", lambda self, jobs: rounds.append(len(jobs)) or honest(self, jobs))
    baselines.local(found.study, clients(found))
    assert rounds[0] == len(found.study.roster)
    assert rounds == sorted(rounds, reverse=True)
    assert 0 < rounds[-1] < rounds[0]
