"""Two real runs, compared from the command line."""

from __future__ import annotations

import json

import pytest

from fedhealth import cli


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One seed of the smoke study by two strategies."""
    folder = tmp_path_factory.mktemp("runs")
    for strategy in ("fedavg", "fedadagrad"):
        words = ["experiment=smoke", "rounds=2", f"strategy={strategy}", "run.report=false"]
        assert cli.main(["simulate", *words, f"run.folder={folder / strategy}"]) == 0
    return folder


def test_two_runs_are_compared_by_what_their_reports_say(capsys, runs):
    assert cli.main(["report", "--compare", str(runs / "fed*"), "--target", "0.5"]) == 0
    out = capsys.readouterr().out
    found = json.loads((runs / "comparison" / "compare.json").read_text())

    assert [group["label"] for group in found["groups"]] == ["strategy=fedadagrad", "strategy=fedavg"]
    for group, name in zip(found["groups"], ("fedadagrad", "fedavg"), strict=True):
        report = json.loads((runs / name / "report.json").read_text())
        rounds = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        assert group["outcomes"]["union_auroc"]["value"] == report["union"]["federated"]["auroc"]["value"]
        assert group["bytes"]["value"] == sum(row["bytes_up"] + row["bytes_down"] for row in rounds)
        shown = [row["auroc"]["value"] for row in group["curve"]]
        assert shown == pytest.approx([row["auroc"]["value"] for row in rounds], rel=1e-3)  # a report has four digits
        assert group["reach"]["rounds"]["value"] == 1
        assert f"{report['union']['federated']['auroc']['value']:.3f}" in out
    assert "All runs have one seed, so there is no interval and no test" in out.replace("\n", " ")


def test_the_files_go_where_one_asks(capsys, runs, tmp_path):
    assert cli.main(["report", "--compare", str(runs / "fedavg"), "--out", str(tmp_path / "paper" / "table")]) == 0
    assert sorted(path.name for path in (tmp_path / "paper" / "table").iterdir()) == [
        f"compare.{kind}" for kind in ("csv", "html", "json", "svg", "tex")
    ]
    assert "Differences from" not in capsys.readouterr().out


def test_runs_that_hold_other_hospitals_are_refused(capsys, runs, tmp_path):
    words = ["experiment=smoke", "rounds=1", "sites.names=[galen-heart,port-amity,millbrook]", "run.report=false"]
    assert cli.main(["simulate", *words, f"run.folder={tmp_path / 'two'}"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "--compare", str(runs / "fedavg"), str(tmp_path / "two")]) == 2
    line = capsys.readouterr().err
    assert "must have the same `sites.names`, found [galen-heart,harrow-fen,port-amity] in" in line
    assert "and [galen-heart,millbrook,port-amity] in" in line
    assert line.count("\n") == 1


def test_a_run_that_was_stopped_is_refused_with_the_command_that_goes_on(capsys, runs, tmp_path):
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "config.yaml").write_bytes((runs / "fedavg" / "config.yaml").read_bytes())
    assert cli.main(["report", "--compare", str(runs / "fedavg"), str(stopped)]) == 2
    line = capsys.readouterr().err
    assert f"found {stopped} stopped after round 0" in line
    assert f"fedhealth simulate --resume {stopped}" in line
