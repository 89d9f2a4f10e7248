from __future__ import annotations

from pathlib import Path

import pytest

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.runs import above, beneath, named, read
from fedhealth.server.store import Store


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs: one by itself, and two of a sweep, the second unfinished."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/demo/lone", "runs/demo/sweep/1-seed=1", "runs/demo/sweep/2-seed=2"):
        path = Path(folder)
        (path / "checkpoints" / "00004").mkdir(parents=True)
        store = Store(path)
        store.write_config({"seed": 3})
        store.write_json("report.json", {"schema": 1})
        store.write_json("manifest.json", {"cohorts": {"oak": "abc"}, "files": {}})
    (path / "report.json").unlink()
    Path("runs/demo/comparison").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["runs/demo/lone"], ["lone"]),
        (["runs/demo"], ["lone", "sweep/1-seed=1", "sweep/2-seed=2"]),
        (["runs/demo/sweep", "runs/demo/lone"], ["sweep/1-seed=1", "sweep/2-seed=2", "lone"]),
        (["runs/demo/*/*seed=1"], ["sweep/1-seed=1"]),
        (["runs/demo/[ls]*"], ["lone", "sweep/1-seed=1", "sweep/2-seed=2"]),
        (["runs/demo/lone", "runs/*/lone"], ["lone"]),
    ],
    ids=" ".join,
)
def test_a_word_is_a_run_a_folder_of_runs_or_a_pattern(runs, words, found):
    assert named(words) == [Path("runs/demo") / name for name in found]


def test_a_pattern_may_begin_at_the_root(runs):
    assert named([f"{runs}/runs/demo/l*"]) == [runs / "runs" / "demo" / "lone"]


@pytest.mark.parametrize("word", ["/nowhere", "runs/demo/comparison", "runs/demo/x*"])
def test_a_word_that_names_no_run_is_refused(runs, word):
    with pytest.raises(SettingError, match="--compare must name runs or folders of runs, found no config.yaml in or"):
        named(["runs/demo/lone", word])


def test_nothing_is_beneath_what_is_not_there():
    assert list(beneath(Path("/nowhere"))) == []


def test_an_unfinished_run_is_refused_with_how_to_go_on(runs):
    with pytest.raises(SettingError) as refused:
        read(Path("runs/demo/sweep/2-seed=2"))
    assert "found runs/demo/sweep/2-seed=2 stopped after round 4" in str(refused.value)
    assert "fedhealth simulate --resume runs/demo/sweep/2-seed=2" in str(refused.value)


def test_a_run_is_read_with_its_config_report_and_fingerprints(runs):
    run = read(Path("runs/demo/lone"))
    assert (run.seed, run.report, run.cohorts) == (3, {"schema": 1}, {"oak": "abc"})


@pytest.mark.parametrize("name", ["config.yaml", "report.json"])
def test_a_file_that_is_not_whole_is_said_to_be_so(runs, name):
    Path("runs/demo/lone", name).write_text("{")
    with pytest.raises(IntegrityError, match=f"runs/demo/lone/{name} must be"):
        read(Path("runs/demo/lone"))


@pytest.mark.parametrize(
    ("folders", "common"),
    [
        (["runs/demo/a"], "runs/demo"),
        (["runs/demo/a", "runs/demo/s/b"], "runs/demo"),
        (["runs/demo/a", "runs/heart/b"], "runs"),
        (["/far/a", "/far/b"], "/far"),
    ],
)
def test_runs_have_a_folder_above_them_all(folders, common):
    assert above([Path(folder) for folder in folders]) == Path(common)


def test_a_run_from_here_and_one_from_the_root_have_one_too(runs):
    assert above([Path("runs/demo/a"), runs / "runs" / "heart" / "b"]) == runs / "runs"
