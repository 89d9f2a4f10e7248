"""From a proposal to a decision, by the commands a researcher and a hospital type."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedhealth import cli
from fedhealth.governance.audit import verified
from fedhealth.synthetic.folders import write_sites

PURPOSE = "To learn who needs care first"
DAYS = ("--until", "2999-06-30")


def said(capsys, *words):
    code = cli.main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three hospitals with keys, who all consider Anna's studies, and one study of hers."""
    folder, said = tmp_path_factory.mktemp("made"), io.StringIO()
    write_sites(folder / "drawn", h=1.0, n=3, seed=7)
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        cli.main(["study", "key", "--by", "Anna Berg", "--out", "anna.key"])
        for number in (1, 2, 3):
            with Path(f"drawn/hospital-0{number}/site.yaml").open("a") as file:
                file.write(said.getvalue().splitlines()[2] + "\n")
            cli.main(["site", "keys", "init", "--site", f"drawn/hospital-0{number}"])
        assert cli.main(proposing("smoke.study")) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of it, where the reader stands."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "place"))
    return tmp_path / "place"


@pytest.fixture
def proposed(place):
    return place / "smoke.study"


def proposing(out, *overrides, key="anna.key", days=DAYS):
    names = "sites.names=[hospital-01,hospital-02,hospital-03]"
    words = ["--purpose", PURPOSE, *days, "--by", "Anna Berg", "--key", key, "--out", out]
    return ["study", "propose", "experiment=smoke", names, *overrides, *words]


def propose(capsys, out, *overrides, key="anna.key", days=DAYS):
    return said(capsys, *proposing(out, *overrides, key=key, days=days))


SITE = ("--site", "drawn/hospital-01")


def test_a_clinician_reads_what_is_asked_and_how_to_decide(capsys, proposed):
    code, out, _ = said(capsys, "site", "inspect", proposed, *SITE)
    flat = " ".join(out.split())
    assert code == 0
    for words in (
        "Smoke study (smoke)", PURPOSE, "Anna Berg", "whose key this hospital knows", "2999-06-30 at the latest",
        "this hospital and 2 others: hospital-02, hospital-03", "Death in hospital: died or survived",
        "sensitive Diabetes, Chronic kidney disease", "how many patients train, validate and test", "3 times the model",
        "also by Age, Sex", "never a patient's row", "privacy none: no bound is given", "as installed here",
        f"fedhealth site approve {proposed} --site drawn/hospital-01 --until 2999-06-30",
    ):  # fmt: skip
        assert words in flat, words
    assert max(map(len, out.splitlines()[:-3])) <= 100


def test_the_fingerprint_is_the_same_for_both(capsys, place):
    _, theirs, _ = propose(capsys, "a.study")
    _, ours, _ = said(capsys, "site", "inspect", "a.study", *SITE)
    fingerprint = re.search(r"fingerprint: (.{39})", theirs)[1]
    assert f"Fingerprint  {fingerprint}\n" in ours


def test_a_decision_is_kept_and_logged_without_its_reason(capsys, place, proposed):
    assert said(capsys, "site", "approve", proposed, *SITE, "--until", "2999-01-31", "--by", "Dr Lind")[0] == 0
    assert said(capsys, "site", "deny", proposed, *SITE, "--why", "too many features", "--by", "Dr Ek")[0] == 0
    _, out, _ = said(capsys, "site", "inspect", proposed, *SITE)
    assert "denied  for: too many features, by Dr Ek" in out
    events = verified(place / "drawn" / "hospital-01" / "audit").events
    assert [(event["event"], event["by"]) for event in events] == [("approved", "Dr Lind"), ("denied", "Dr Ek")]
    assert "too many" not in (place / "drawn" / "hospital-01" / "audit" / "log.jsonl").read_text()


def test_what_changed_since_the_last_approval_is_shown(capsys, place, proposed):
    said(capsys, "site", "approve", proposed, *SITE, "--until", "2999-01-31")
    propose(capsys, "more.study", "rounds=9", "privacy=dp_sgd")
    _, out, _ = said(capsys, "site", "inspect", "more.study", *SITE)
    changed = out[out.index("What has changed since 'Smoke study'") :]
    assert re.search(r"rounds +3 → 9", changed)
    assert re.search(r"privacy +Plain → DpSgd, with", changed)
    _, out, _ = said(capsys, "site", "inspect", proposed, *SITE)
    assert "nothing that is computed" in out
    assert "approved  until 2999-01-31" in out


def test_the_whole_document_can_be_read(capsys, proposed):
    code, out, _ = said(capsys, "site", "inspect", proposed, *SITE, "--whole")
    assert (code, yaml.safe_load(out)["proposal"]["study"]["training"]["learning_rate"]) == (0, 0.05)


def foreign(place, capsys):
    said(capsys, "study", "key", "--by", "Anna Berg", "--out", "stranger.key")
    return propose(capsys, "bad.study", key="stranger.key")


def tampered(place, capsys):
    propose(capsys, "bad.study")
    path = place / "bad.study"
    path.write_text(path.read_text().replace(PURPOSE, PURPOSE.lower()))


def unsigned(place, capsys):
    propose(capsys, "bad.study")
    path = place / "bad.study"
    path.write_text(re.sub(r'"signature":"[0-9a-f]+"', '"signature":""', path.read_text()))


def without_us(place, capsys):
    propose(capsys, "bad.study", "sites.names=[hospital-02,hospital-03,hospital-04]")


def no_study(place, capsys):
    (place / "bad.study").write_text("name: smoke\n")


@pytest.mark.parametrize(
    ("make", "code", "line"),
    [
        (foreign, 3, "a study must be signed by a proposer in `proposers` of site.yaml"),
        (tampered, 4, "a study must be as its proposer signed it"),
        (unsigned, 3, "a study must be signed by its proposer"),
        (without_us, 3, "a study must name this hospital"),
        (no_study, 2, "a study must be a file that fedhealth study propose wrote"),
    ],
)
def test_a_bad_study_is_refused_by_each_command_in_one_line(capsys, place, make, code, line):
    make(place, capsys)
    for words in (("inspect",), ("approve", "--until", "2999-01-31")):
        found, _, err = said(capsys, "site", words[0], "bad.study", *SITE, *words[1:])
        assert (found, line in err, err.count("\n")) == (code, True, 1), err
    assert not (place / "drawn" / "hospital-01" / "approved").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["site", "approve", "STUDY", *SITE, "--until", "tomorrow"], "`--until` must be a day as YYYY-MM-DD"),
        (["site", "approve", "STUDY", *SITE, "--until", "2999-07-01"], "`--until` must lie between today and"),
        (["site", "approve", "STUDY", *SITE], "the following arguments are required: --until"),
        (["site", "deny", "STUDY", *SITE, "--why", " "], "`--why` must say why"),
        (["site", "inspect", "/nowhere", *SITE], "a study must be a file that its proposer sent"),
        (["site", "inspect", "STUDY", "--site", "/nowhere"], "a site must have a site.yaml"),
        (["study", "key", "--by", "Anna", "--out", "anna.key"], "a new key must have a file of its own"),
    ],
)
def test_a_wrong_word_gets_one_line(capsys, proposed, words, line):
    code, _, err = said(capsys, *(proposed if word == "STUDY" else word for word in words))
    assert (code, line in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(
    ("overrides", "days", "line"),
    [
        ((), ("--until", "2001-01-01"), "a study's last day must not be over"),
        (("rounds=0",), DAYS, "`rounds` must be at least 1"),
        (("secagg=masked",), DAYS, "a masked study must hold every hospital's public key"),
        (("strategy=krum", "secagg=masked"), DAYS, "krum"),
    ],
)
def test_a_study_that_can_not_be_run_is_not_proposed(capsys, place, overrides, days, line):
    code, _, err = propose(capsys, "bad.study", *overrides, days=days)
    assert (code, line.lower() in err.lower(), err.count("\n")) == (2, True, 1), err
    assert not (place / "bad.study").exists()


def test_a_key_is_for_its_owner_alone_and_never_shown(capsys, place):
    secret = (place / "anna.key").read_text()
    code, out, err = propose(capsys, "a.study")
    assert (code, secret in out + err + (place / "a.study").read_text()) == (0, False)
    (place / "anna.key").chmod(0o644)
    code, _, err = propose(capsys, "b.study")
    assert (code, "a key must be for its owner alone" in err, secret in err) == (2, True, False)


@pytest.mark.process
def test_reading_and_deciding_need_neither_torch_nor_flower(place, proposed):
    code = (
        "import sys; from fedhealth.cli import main\n"
        f"main(['site', 'inspect', {str(proposed)!r}, '--site', 'drawn/hospital-01'])\n"
        f"main(['site', 'approve', {str(proposed)!r}, '--site', 'drawn/hospital-01', '--until', '2999-01-01'])\n"
        "print('LOADED', [m for m in ('torch', 'flwr', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("LOADED []")
