"""Every wrong word gets one line: the rule, what was found, the remedy; and the right exit code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fedhealth import cli
from fedhealth.server.store import Store


def said(capsys, *words: str) -> tuple[int, str]:
    code = cli.main(list(words))
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["experiment=smok"], 2, "`experiment` must be one of its parts, found experiment=smok. Did you mean smoke?"),
        (
            ["engine.executor=ray"],
            2,
            "`engine.executor` must be a key of the config, found no such key. Use runtime.executor=",
        ),
        (["rouns=3"], 2, "`rouns` must be a key of the config, found no such key. Did you mean rounds?"),
        (["rounds"], 2, "an override must read key=value, found 'rounds'"),
        (["rounds=abc"], 2, "`rounds` should be a valid integer"),
        (["rounds=0"], 2, "`rounds` must be at least 1, found 0"),
        (["~privacy"], 2, "`privacy` must be in the config, found nothing"),
        (["=3"], 2, "found"),
        (["training.learning_rate=nan"], 2, "every number of a config must be finite"),
        (["name=../../x"], 2, "`name` must be letters, digits, dashes and underscores, found '../../x'"),
        (["seed=-1"], 2, "`seed` must be 0 or more, found -1"),
        (["sites.names=[]"], 2, "`sites.names` must name at least one hospital, found none"),
        (["sites.names=[galen]"], 2, "found 'galen'. Did you mean galen-heart?"),
        (["sites.names=[norrvik,norrvik,millbrook]"], 2, "must name each hospital once"),
        (["sites.names=[../sites/norrvik]"], 2, "sites.names must name hospitals in"),
        (["sites.folder=/nowhere", "sites.names=null"], 2, "must name at least one hospital"),
        (["model=mlp", "model.hidden=3"], 2, "`hidden` should be a valid tuple, found 3"),
        (["model=mlp", "model.hidden=[]"], 2, "`hidden` must list widths of at least 1 and at most 4,096, found []"),
        (["model=mlp", "+model.hiden=[3]"], 2, "`hiden` is not a key here, found hiden=[3]. Did you mean hidden?"),
        (["strategy._target_=flwr.serverapp.strategy.Nope"], 2, "strategy._target_ must name an importable part"),
        (["strategy._target_=collections.OrderedDict", "~strategy.fraction_train"], 2, "strategy"),
        (["+strategy.foo=3"], 2, "`foo` is not a setting of flwr.serverapp.strategy.FedAvg"),
        (["strategy.fraction_train=0.5"], 2, "`strategy.fraction_train` must be 1, found 0.5"),
        (["training.learning_rate=-1"], 2, "`learning_rate` must be above 0, found -1"),
        (["rules.quorum=9"], 2, "`rules.quorum` must be at most the number of hospitals 3, found 9"),
        (["rules.fraction=0"], 2, "`rules.fraction` must lie in (0, 1], found 0"),
        (["rules.patience=2", "split={train: 0.7, validation: 0.0, test: 0.3}"], 2, "needs validation patients"),
        (["split.train=0.9"], 2, "must be at least 0 and sum to 1"),
        (["runtime.workers=-1"], 2, "`workers` must be 0 or more, found -1"),
        (["engine.device=gpu"], 2, "`device` must be auto, cpu, cuda or cuda:N, found 'gpu'"),
        (["run.baselines=[best]"], 2, "`run.baselines` may be local, pooled, oracle, found best"),
        (["task=heart", "features=heart"], 2, "galen-heart: a task must have a synthetic outcome, found 'heart'"),
        (["features=heart"], 2, "must be generated, found"),
        (["strategy=[1]"], 2, "the config must compose, found"),
        (["'a b'=3"], 2, "the config must compose, found"),
        (["model=mlp", "model.hidden=[99999999]"], 2, "at most 4,096, found [99999999]"),
        (["strategy=fedadagrad", "strategy.eta=much"], 2, "`strategy.eta` must be a number, found 'much'"),
        (["strategy.min_train_nodes=true"], 2, "`strategy.min_train_nodes` must be a whole number, found True"),
        (["strategy.min_available_nodes=4"], 2, "`strategy.min_available_nodes` must be at most the quorum 3, found 4"),
        (["+strategy.weighted_by_key=n"], 2, "`strategy.weighted_by_key` must be 'num-examples', as messages call it"),
        (
            ["runtime._target_=fedhealth.runtime.policy.Patience", "~runtime.workers"],
            2,
            "runtime._target_ must name a runtime, found 'fedhealth.runtime.policy.Patience'",
        ),
        (
            ["model._target_=fedhealth.models.mlp.SettingError"],
            2,
            "model._target_ must name a part with a method `network`",
        ),
        (["split={train: 0.8, validation: 0.2, test: 0.0}"], 2, "train and test must have a share above 0 each"),
        (["task.outcome=age"], 2, "a feature must be known before the outcome, found the outcome age itself"),
        (["features.groups.sex.column=sex"], 2, "a group's column must be a feature, found sex"),
        (["+source={kind: synthetic, size: 300, consent_rate: nan}"], 2, "every number of a config must be finite"),
        (["+source={kind: synthetic, size: 300, casemix: 3}"], 2, "`casemix` should be a dictionary"),
        (["+source.kind=csv"], 2, "`path` must be set, found nothing. Write path: patients.csv."),
        ([f"+source={{kind: csv, path: {'a' * 5000}}}"], 2, "must name a readable file, found File name too long"),
        (
            ["features.features=[{name: age, missing: ['?']}]", "features.groups={}"],
            2,
            "feature age: missing must list numbers where the feature is numeric, found '?'",
        ),
        (
            ["features.groups={age_band: {column: age, cuts: [65, 40]}}"],
            2,
            "group of age: cuts must rise strictly, found [65.0, 40.0]",
        ),
        (
            ["source=csv", "source.path=/nowhere/@site.csv"],
            2,
            "must name a file, found none at /nowhere/galen-heart.csv",
        ),
        (["attack=sign_flip"], 2, "`attack.sites` must name at least one hospital of the study, found none"),
        (["attack=sign_flip", "attack.sites=[galen]"], 2, "found 'galen'. Did you mean galen-heart?"),
        (["attack=scaled", "attack.sites=[galen-heart,galen-heart]"], 2, "`attack.sites` must name each hospital once"),
        (["attack=label_flip", "attack.share=1.5"], 2, "`share` must lie in (0, 1], found 1.5"),
        (["attack=gaussian", "attack.sigma=-1"], 2, "`sigma` must be above 0, found -1"),
        (["attack=sign_flip", "attack.factor=0"], 2, "`factor` must be above 0, found 0"),
        (["attack=scaled", "attack.factor=1"], 2, "`factor` must be above 1, found 1"),
        (
            ["attack=backdoor", "attack.sites=[galen-heart]", "attack.features=[sodum]", "attack.values=[3]"],
            2,
            "`features` must name numeric or binary features, found sodum. Did you mean sodium?",
        ),
        (["attack.sites=[galen-heart]"], 2, "`attack.sites` must be a key of the config"),
        (
            ["attack=label_flp"],
            2,
            "`attack` must be one of its parts, found attack=label_flp. Did you mean label_flip?",
        ),
        (["attack._target_=os.system"], 3, "attack must name a part of fedhealth.site.attacks, found 'os.system'"),
        (["privacy._target_=os.system"], 3, "privacy must name a part of fedhealth.privacy, found 'os.system'"),
        (["engine._target_=subprocess.run"], 3, "engine must name a part of fedhealth.site.engines"),
        (["model._target_=builtins.print"], 3, "model must name a part of fedhealth.models"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_wrong_word_gets_one_helpful_line(capsys, tmp_path, words, code, line):
    folder = tmp_path / "run"
    found, error = said(capsys, "simulate", "experiment=smoke", *words, f"run.folder={folder}")
    assert (found, line in error, error.count("\n")) == (code, True, 1), error
    assert not folder.exists(), "nothing is left behind by a run that never began"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["report", "/nowhere"], "a run's folder must hold config.yaml, found none in /nowhere"),
        (["simulate", "--resume", "/nowhere"], "a run's folder must hold config.yaml, found none in /nowhere"),
        (["simulate", "--resume", "/nowhere", "rounds=3"], "a resumed run must keep its config, found rounds=3"),
        (["sites", "list", "--folder", "/nowhere"], "a sites folder must hold <name>/site.yaml, found none"),
        (["sites", "list", "--folder", "/dev/null"], "a sites folder must hold <name>/site.yaml, found none"),
        (["sites", "new", "--h", "-1", "--out", "/nowhere"], "h must"),
        (
            ["sites", "new", "--n", "0", "--h", "-1", "--out", "/nowhere"],
            "h must be 0 or more and at most 20, found -1",
        ),
        (["sites", "new", "--h", "1e300", "--out", "/nowhere"], "h must be 0 or more and at most 20, found 1e+300"),
        (["sites", "new", "--h", "nan", "--out", "/nowhere"], "h must be 0 or more and at most 20, found nan"),
        (["sites", "new", "--n", "99999999999", "--out", "/nowhere"], "n must be at least 1 and at most 10,000, found"),
        (["sites", "new", "--n", "few", "--out", "/nowhere"], "found: argument --n: invalid int value: 'few'"),
        (["sites", "split", "/nowhere.csv", "--outcome", "y"], "/nowhere.csv"),
        (["sites", "split", "/dev", "--outcome", "y"], "the table must be a CSV file, found none at /dev"),
        (["report", "/dev/null"], "a run's folder must hold config.yaml, found none in /dev/null"),
        (["report"], "a report is of one RUN or compares RUNS, found neither"),
        ([], "a command must be as fedhealth --help says, found: the following arguments are required: COMMAND"),
        (["simulat"], "found: argument COMMAND: invalid choice: 'simulat'"),
        (["simulate", "-m", "seed=range(0,1,0)"], "found: range() arg 3 must not be zero"),
        (
            ["simulate", "-m", "seed=range(1,0)"],
            "a sweep must go over at least one value, found none in seed=range(1,0)",
        ),
        (["simulate", "-m", "seed=range(0,1000000000000)"], "a sweep must have at most 10,000 jobs, found more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_other_commands_answer_as_well(capsys, words, line):
    code, error = said(capsys, *words)
    assert (code, line in error, error.count("\n")) == (2, True, 1), error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x: [", "/configs/experiment/mine.yaml must be YAML, found a fault at line 1"),
        ("defaults: {a: b}", "defaults must be a list"),
        ("defaults: [{3: 4}]", "the config must compose"),
        ("defaults: [/experiment: mine]", "the config must compose"),
        ("# @package _global_\na: &a [*a]", "the config must compose"),
        ("# @package _global_\nrounds: ${oc.env:X", "the config must compose"),
        ('# @package _global_\ntitle: "a\\x1b[31m"', "words must be free of control characters, found one in 'title'"),
        ("# @package _global_\nsource: {kind: 3}", "source.kind must be named, found none"),
        ("# @package _global_\nrun: 3", "`run` must be a group of keys, found 3"),
        ("# @package _global_\n1: 2", "`1` must be a key of the config, found 1=2"),
    ],
)
def test_a_wrong_config_of_the_users_own_gets_one_line(capsys, tmp_path, monkeypatch, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(text)
    code, error = said(capsys, "simulate", "experiment=mine", "task=mortality")
    assert (code, line in error, error.count("\n")) == (2, True, 1), error
    assert not (tmp_path / "runs").exists()


def test_words_that_a_terminal_would_take_for_orders_are_shown_as_words(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hospital-01", "hospital-02", "hospital-03"):
        (tmp_path / "sites" / name).mkdir(parents=True)
        policy = "{min_patients: 5, min_cell: 1, min_cohort: 3}"
        text = (
            f"name: {name}\ntitle: '[/x] [red]{name[-2:]}'\npolicy: {policy}\nsource: {{kind: synthetic, size: 90}}\n"
        )
        (tmp_path / "sites" / name / "site.yaml").write_text(text)
    assert cli.main(["sites", "list", "--folder", "sites"]) == 0
    assert "[/x] [red]01" in capsys.readouterr().out
    words = ["experiment=smoke", "title='[/y] [bold]'", "sites.folder=sites", "sites.names=null", "rounds=1"]
    assert cli.main(["simulate", *words, "run.folder=run", "run.report=false"]) == 0
    shown = capsys.readouterr().out
    assert "[/y] [bold]: 3 hospitals" in shown
    assert "[/x] [red]01" in shown


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke") / "run"
    assert cli.main(["simulate", "experiment=smoke", "run.report=false", f"run.folder={folder}"]) == 0
    return folder


@pytest.fixture
def finished(smoke_run, tmp_path, capsys):
    """A finished run's folder, a test's own."""
    capsys.readouterr()
    return shutil.copytree(smoke_run, tmp_path / "runs" / "smoke" / "one")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\xfe[")


def nudge(path: Path) -> None:
    """Change one digit and nothing else."""
    text = path.read_text()
    place = re.search(r"\d(?=\D*$)", text).start()
    path.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


STORED = ("config.yaml", "metrics.jsonl", "statistics.json", "results.json", "baselines.json", "manifest.json")


@pytest.mark.parametrize("spoil", [cut, empty, garble, nudge])
@pytest.mark.parametrize("name", STORED)
def test_a_report_is_not_made_of_what_is_not_as_it_was_written(capsys, finished, name, spoil):
    before = (finished / "report.json").read_bytes()
    spoil(finished / name)
    code, error = said(capsys, "report", str(finished))
    assert (code, error.count("\n")) == (4, 1), error
    assert f"{finished / name} must be as it was written, found" in error
    assert (finished / "report.json").read_bytes() == before


def test_another_runs_results_are_not_this_ones(capsys, finished):
    store = Store(finished)
    store.write_json("results.json", {**store.read_json("results.json"), "parameters": 1})
    code, error = said(capsys, "report", str(finished))
    assert (code, error.count("\n")) == (4, 1)
    assert "results.json must be as it was written, found another SHA-256 than manifest.json names" in error


@pytest.mark.parametrize("spoil", [cut, empty, garble, nudge])
@pytest.mark.parametrize("name", [*STORED, "report.json"])
def test_a_broken_run_is_listed_as_such_beside_the_others(capsys, monkeypatch, finished, name, spoil):
    monkeypatch.chdir(finished.parents[2])
    shutil.copytree(finished, finished.with_name("two"))
    spoil(finished / name)
    code, listed, error = cli.main(["runs"]), *capsys.readouterr()
    one, two = listed.splitlines()[-2:]
    assert (code, error) == (0, "")
    assert one.split()[:2] == ["runs/smoke/one", "broken"]
    assert two.split()[:4] == ["runs/smoke/two", "done,", "3", "rounds"]


def test_a_run_that_was_stopped_is_no_broken_one(capsys, finished):
    (finished / "manifest.json").unlink()
    shutil.rmtree(finished / "checkpoints" / "00003")
    assert cli.main(["runs", "--folder", str(finished.parents[1])]) == 0
    assert "stopped after round 2" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [cut, empty, garble])
@pytest.mark.parametrize("name", ["config.yaml", "statistics.json"])
def test_a_run_does_not_go_on_from_what_is_not_as_it_was_written(capsys, finished, name, spoil):
    (finished / "manifest.json").unlink()
    spoil(finished / name)
    code, error = said(capsys, "simulate", "--resume", str(finished))
    assert (code, error.count("\n")) == (4, 1), error
    assert f"{finished / name} must be as it was written, found" in error


@pytest.mark.parametrize("name", STORED[1:])
def test_removing_a_stored_document_and_going_on_writes_it_anew(finished, name):
    before = {path.name: path.read_bytes() for path in finished.glob("*.safetensors")}
    (finished / name).unlink()
    assert cli.main(["simulate", "--resume", str(finished)]) == 0
    assert cli.main(["report", str(finished)]) == 0
    assert {path.name: path.read_bytes() for path in finished.glob("*.safetensors")} == before


def test_a_changed_checkpoint_ends_with_the_integrity_code(capsys, finished):
    path = finished / "checkpoints" / "00003" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, error = said(capsys, "simulate", "--resume", str(finished))
    assert (code, error.count("\n")) == (4, 1)
    assert "another SHA-256" in error


def test_a_report_is_rebuilt_from_the_stored_sums(finished):
    before = json.loads((finished / "report.json").read_text())
    (finished / "report.json").unlink()
    assert cli.main(["report", str(finished)]) == 0
    assert json.loads((finished / "report.json").read_text()) == before


def test_runs_are_listed(capsys, finished):
    assert cli.main(["runs", "--folder", str(finished.parents[1])]) == 0
    assert "done, 3 rounds" in capsys.readouterr().out


def test_the_runs_of_a_sweep_are_listed_too(capsys, finished):
    (finished.parent / "sweep").mkdir()
    finished.rename(finished.parent / "sweep" / "1-seed=1")
    assert cli.main(["runs", "--folder", str(finished.parents[1])]) == 0
    assert "done, 3 rounds" in capsys.readouterr().out


def test_the_config_is_printed_and_nothing_runs(capsys):
    assert cli.main(["simulate", "experiment=smoke", "rounds=5", "--cfg", "job"]) == 0
    assert "rounds: 5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_runs_every_combination(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "simulate",
        "-m",
        "experiment=smoke",
        "seed=1,2",
        "strategy=fedavg,fedadagrad",
        "rounds=1",
        "run.report=false",
    ]
    assert cli.main(words) == 0
    assert len(list(tmp_path.glob("runs/smoke/*/*/report.json"))) == 4
    out = capsys.readouterr().out
    assert "seed=2 strategy=fedadagrad" in out
    # What it says last compares the runs, and can be typed as it stands.
    command = out.splitlines()[-1].removeprefix("compare them: fedhealth ")
    assert cli.main([*shlex.split(command), "--target", "0.6"]) == 0
    assert "Differences from strategy=fedavg, paired by seed" in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/smoke/*/comparison/compare.*"))) == 5


def test_a_job_that_fails_is_said_in_one_line_and_its_code_ends_the_sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = "strategy=nope,fedavg", "privacy._target_=fedhealth.privacy.plain.Plain,os.system"
    code, error = said(capsys, "simulate", "-m", "experiment=smoke", "rounds=1", "run.report=false", *jobs)
    assert code == 2, "the first of two codes, 2 and 3"
    lines = error.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"fedhealth: job {k} of 4 failed" for k in (1, 2, 4)]
    assert "strategy=nope privacy._target_=os.system: `strategy` must be one of its parts" in lines[1]
    assert len(list(tmp_path.glob("runs/smoke/*/*/report.json"))) == 1


def test_a_list_among_the_values_of_a_sweep_is_said_as_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = "sites.names=[galen-heart,nowhere],[nowhere]"
    assert cli.main(["simulate", "-m", "experiment=smoke", "run.report=false", sweep]) == 2
    assert capsys.readouterr().out.count("sites.names=[galen-heart,nowhere]") == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a report is of one RUN or compares RUNS, found neither"),
        (["runs/a", "--compare", "runs/b"], "a report is of one RUN or compares RUNS, found both"),
        (["--compare", "/nowhere"], "--compare must name runs or folders of runs, found no config.yaml"),
        (["--compare", "HERE", "--target", "75"], "`--target` must be an AUROC between 0 and 1, found 75.0"),
        (
            ["--compare", "HERE", "--against", "fedavg"],
            "`--against` must be a group's label, found 'fedavg'. Known: strategy=fedavg",
        ),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else None,
)
def test_a_comparison_asked_for_wrongly_gets_one_helpful_line(capsys, finished, words, line):
    code, error = said(capsys, "report", *(word.replace("HERE", str(finished)) for word in words))
    assert (code, line in error, error.count("\n")) == (2, True, 1), error


def test_a_users_own_configs_are_found_where_they_stand(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text("# @package _global_\nrounds: 11\n")
    assert cli.main(["simulate", "experiment=mine", "--cfg", "job"]) == 0
    assert "rounds: 11" in capsys.readouterr().out


def test_a_run_keeps_a_checkpoint_a_round_and_all_that_the_readme_names(finished):
    assert Store(finished).rounds() == [1, 2, 3]
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "manifest.json", "model.safetensors", "results.json",
                     "statistics.json", "baselines.json", "report.json", "run.log"}  # fmt: skip
