"""Turns: hospitals that wait for one another lose nothing by it, and leave nothing behind."""

import gc
import weakref

import numpy as np
import pytest
import torch

from fedhealth.core.errors import DataError
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.site.engines.batched import Batched
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.kernels.private import PrivateJob
from fedhealth.site.kernels.score import ScoreJob
from fedhealth.site.turns import SumJob, Turns, together
from fedhealth.strategies.method import Fitted

LAYOUT = SummaryLayout(bins=10)


def job(rows, outcome):
    weights = {"0.weight": np.array([[1.0]], dtype=np.float32), "0.bias": np.zeros(1, dtype=np.float32)}
    x = np.array(rows, dtype=np.float32)[:, None]
    return SumJob(ScoreJob(NETWORK, weights, x), LAYOUT, np.array(outcome), {})


NETWORK = torch.nn.Sequential(torch.nn.Linear(1, 1))


def answers(jobs):
    turns = {name: Turns() for name in jobs}
    works = {name: (turns[name], lambda name=name: turns[name].end_with(jobs[name], np.copy)) for name in jobs}
    return together(works, Batched(), lambda name, error: error)


def test_each_hospital_is_told_the_sums_of_its_own_scores():
    found = answers({"ash": job([-2, 0, 2], [0, 1, 1]), "elm": job([1], [0])})

    for name, rows, outcome in (("ash", [-2, 0, 2], [0, 1, 1]), ("elm", [1], [0])):
        probability = 1 / (1 + np.exp(-np.array(rows, dtype=float)))
        assert found[name] == pytest.approx(ScoreSums.of(probability, np.array(outcome), bins=10).to_vector(), abs=1e-6)


def test_a_hospital_whose_scores_are_no_numbers_fails_alone():
    whole = {"ash": job([-2, 0, 2], [0, 1, 1]), "elm": job([1], [0])}

    found = answers({**whole, "yew": job([np.nan], [0])})

    assert isinstance(found["yew"], DataError)
    for name, sums in answers(whole).items():
        assert np.array_equal(found[name], sums)


def test_work_is_not_run_again_for_its_end_and_fails_there_alone():
    runs, turns = [], {"ash": Turns(), "elm": Turns()}

    def work(name):
        runs.append(name)
        turns[name].end_with(job([1], [0]), lambda sums: sums[name] if name == "elm" else sums.sum())

    works = {name: (turns[name], lambda name=name: work(name)) for name in turns}
    found = together(works, Batched(), lambda name, error: error)

    assert runs == ["ash", "elm"]
    assert found["ash"] > 0
    assert isinstance(found["elm"], IndexError)


def test_work_that_is_done_leaves_nothing_for_the_collector():
    class Kept:
        def __init__(self, turns):
            self.turns = turns

    class Idle(Batched):
        def fit_all(self, jobs):
            return [Fitted({}, 0.0, 0) for _ in jobs]

    turns, seen = Turns(), []

    def work():
        kept = turns.once(lambda: Kept(turns))
        seen.append(weakref.ref(kept))
        turns.fitted(lambda: FitJob(NETWORK, {}, np.zeros((1, 1)), np.zeros(1), None, None))
        turns.end_with(job([1], [0]), lambda sums: kept)

    gc.disable()
    try:
        together({"ash": (turns, work)}, Idle(), lambda name, error: error)
        assert len(seen) == 2
        assert seen[0]() is None, "the hospital's work is still held"
    finally:
        gc.enable()


def test_a_private_job_is_never_trained_without_noise():
    class Engine:
        def __init__(self):
            self.plain, self.private = [], []

        def fit_all(self, jobs):
            self.plain += jobs
            return [Fitted({}, 0.0, 0) for _ in jobs]

        def fit_private(self, jobs):
            self.private += jobs
            return [Fitted({}, 1.0, 0) for _ in jobs]

    open_ = FitJob(NETWORK, {}, np.zeros((1, 1)), np.zeros(1), None, None)
    closed = PrivateJob(NETWORK, {}, np.zeros((1, 1)), np.zeros(1), None, None, engine=None)
    turns, engine = {"ash": Turns(), "elm": Turns()}, Engine()
    jobs = {"ash": closed, "elm": open_}

    works = {name: (turns[name], lambda name=name: turns[name].fitted(lambda: jobs[name]).loss) for name in jobs}
    found = together(works, engine, lambda name, error: error)

    assert (engine.plain, engine.private, found) == ([open_], [closed], {"ash": 1.0, "elm": 0.0})
