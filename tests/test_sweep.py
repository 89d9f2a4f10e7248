from __future__ import annotations

from pathlib import Path

import pytest

from fedhealth.core.errors import QuorumError, SettingError
from fedhealth.sweep import conducted, to_compare

JOBS = [["experiment=smoke", f"seed={seed}", f"model.hidden=[{h},4]", "model=mlp"] for seed in (1, 2) for h in (8, 16)]


class Runs:
    """Runs nothing, but makes the folder as a run would; fails where it is told to."""

    def __init__(self, fails=()):
        self.configs, self.titles, self.fails = [], [], fails

    def __call__(self, config, title):
        self.configs.append(config)
        self.titles.append(title)
        folder = Path(config["run"]["folder"])
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        if len(self.titles) in self.fails:
            raise QuorumError("too few")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_job_has_a_folder_of_its_own_named_by_what_it_varies():
    jobs = list(conducted(JOBS, "now", Runs()))
    assert [job.title for job in jobs][:2] == ["seed=1 model.hidden=[8,4]", "seed=1 model.hidden=[16,4]"]
    assert [str(job.folder) for job in jobs] == [
        "runs/smoke/now/1-seed=1,model.hidden=_8,4_",
        "runs/smoke/now/2-seed=1,model.hidden=_16,4_",
        "runs/smoke/now/3-seed=2,model.hidden=_8,4_",
        "runs/smoke/now/4-seed=2,model.hidden=_16,4_",
    ]


def test_a_folder_that_is_asked_for_holds_the_jobs():
    run = Runs()
    jobs = list(conducted([[*job, "run.folder=mine"] for job in JOBS[:2]], "now", run))
    assert {job.folder.parent for job in jobs} == {Path("mine")}
    assert [Path(config["run"]["folder"]) for config in run.configs] == [job.folder for job in jobs]


@pytest.mark.slow
def test_ten_jobs_sort_as_they_ran():
    jobs = list(conducted([["experiment=smoke", f"seed={seed}"] for seed in range(10)], "now", Runs()))
    assert sorted(str(job.folder) for job in jobs) == [str(job.folder) for job in jobs]


def test_a_job_that_fails_does_not_end_the_sweep():
    run = Runs(fails=(2,))
    jobs = list(conducted(JOBS, "now", run))
    assert len(run.titles) == 4
    assert [type(job.fault) for job in jobs] == [type(None), QuorumError, type(None), type(None)]


def test_a_job_whose_config_is_wrong_never_begins():
    run = Runs()
    jobs = list(conducted([["experiment=smoke", "strategy=nope"], ["experiment=smoke", "strategy=fedavg"]], "now", run))
    assert run.titles == ["strategy=fedavg"]
    assert (jobs[0].folder, type(jobs[0].fault)) == (None, SettingError)


def test_a_config_without_a_run_is_left_to_who_runs_it():
    seen = []
    list(conducted([["experiment=smoke", "~run"]], "now", lambda config, title: seen.append("run" in config)))
    assert seen == [False]


def test_an_interrupt_ends_the_sweep():
    def interrupted(config, title):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(conducted(JOBS, "now", interrupted))


def test_a_whole_sweep_is_compared_by_its_folder():
    assert to_compare(list(conducted(JOBS, "now", Runs()))) == ["runs/smoke/now"]


def test_beside_a_run_that_is_not_done_the_others_are_named_one_by_one():
    jobs = list(conducted(JOBS[:3], "now", Runs(fails=(1,))))
    assert to_compare(jobs) == [str(job.folder) for job in jobs[1:]]


def test_one_run_is_not_compared():
    assert to_compare(list(conducted(JOBS[:2], "now", Runs(fails=(1,))))) == []
