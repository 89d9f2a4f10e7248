"""`fedhealth audit`: what it says of a whole log, and exit code 4 for one that is not."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth import cli
from fedhealth.governance.audit import Log
from fedhealth.governance.countersign import Countersigner

SITE, COORDINATOR = "fedhealth/site/norrvik", "fedhealth/coordinator/heart"


@pytest.fixture
def logs(tmp_path):
    """A hospital's log and a coordinator's, three rounds old, as a run keeps them."""
    folder = tmp_path / "run" / "audit"
    site, coordinator = (
        Countersigner(Log(folder / name, origin, Ed25519PrivateKey.generate()))
        for name, origin in (("norrvik", SITE), ("coordinator", COORDINATOR))
    )
    for number in range(1, 4):
        asked = coordinator.log.append("asked", round=number, purpose="train", study="ab" * 32)
        request = coordinator.says(SITE, asked.checkpoint)
        heard = site.log.append("asked", round=number, purpose="train", study="ab" * 32)
        reply = site.says(site.hears(request), heard.checkpoint)
        site.log.append("left", round=number, purpose="train", study="ab" * 32, bytes=136)
        coordinator.log.append("came", round=number, purpose="train", study="ab" * 32, site="norrvik", bytes=136)
        coordinator.hears(reply, peer=SITE)
    return folder


def said(capsys, *words):
    code = cli.main(["audit", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def key_of(log):
    return (log / "key").read_text().strip()


def test_a_whole_log_is_said_to_be_and_who_countersigned_it(capsys, logs):
    code, out, _ = said(capsys, "verify", logs / "norrvik")
    assert code == 0
    assert f"6 events of {SITE}, each as it was written" in out
    assert f"countersigned by {COORDINATOR}: the first 3," in out
    assert key_of(logs / "norrvik") in out


def test_the_logs_of_a_run_are_checked_against_each_other(capsys, logs):
    code, out, _ = said(capsys, "verify", logs.parent)
    assert (code, out.count("agrees with what was seen of it in")) == (0, 2)
    # The hospital's log is made anew, with its own key, one event shorter: alone it is whole.
    events = [line for line in (logs / "norrvik" / "log.jsonl").read_text().splitlines() if '"asked"' in line]
    shutil.rmtree(logs / "norrvik")
    anew = Log(logs / "norrvik", SITE, Ed25519PrivateKey.generate())
    for _ in events:
        anew.append("asked", round=1)
    assert said(capsys, "verify", logs / "norrvik")[0] == 0
    code, _, err = said(capsys, "verify", logs.parent)
    assert (code, "must be signed with its key" in err) == (4, True)


def test_doubts_about_another_partys_log_are_told(capsys, logs):
    key = Ed25519PrivateKey.generate()
    own = Log(logs / "harrow-fen", "fedhealth/site/harrow-fen", key)
    own.append("doubted", peer=COORDINATOR, why="rewritten")
    code, out, _ = said(capsys, "verify", logs / "harrow-fen")
    assert (code, f"1 doubts about what others told of their logs: {COORDINATOR} (rewritten)" in out) == (0, True)
    assert "countersigned by nobody yet" in out


def test_a_cut_log_ends_with_exit_code_4_and_one_line(capsys, logs):
    path = logs / "norrvik" / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    code, _, err = said(capsys, "verify", logs / "norrvik")
    assert (code, err.count("\n")) == (4, 1)
    assert "5 events where its checkpoint counts 6" in err


def test_a_countersignature_of_somebody_else_is_found(capsys, logs):
    path = logs / "norrvik" / "countersigned" / COORDINATOR.replace("/", "_")
    own = "\n".join(path.read_text().split("\n")[:-2]) + "\n"
    path.write_text(own + f"— {COORDINATOR} AAAA\n")
    code, _, err = said(capsys, "verify", logs / "norrvik")
    assert (code, f"a countersignature that is not {COORDINATOR}'s" in err) == (4, True)


def test_the_last_events_are_told_in_words(capsys, logs):
    code, out, _ = said(capsys, "tail", logs / "norrvik", "-n", 2)
    rows = [line.split() for line in out.splitlines()[1:]]
    assert code == 0
    assert [(row[0], row[3]) for row in rows] == [("4", "asked"), ("5", "left")]
    assert "bytes 136" in out
    # A digest is cut short.
    assert ("study " + 6 * "ab" in out, 7 * "ab" in out) == (True, False)


def test_a_proof_is_checked_without_the_log(capsys, logs, tmp_path):
    proof, key = tmp_path / "event.tlog-proof", key_of(logs / "norrvik")
    assert said(capsys, "prove", logs / "norrvik", 2, "--out", proof)[0] == 0
    shutil.rmtree(logs)
    code, out, _ = said(capsys, "verify", proof, "--key", key)
    assert (code, f"event 2 of {SITE} is among its first 3" in out) == (0, True)
    # The coordinator's countersignature came along.
    assert f"— {COORDINATOR} " in proof.read_text()
    text = proof.read_text()
    at = text.index("index 2")
    for changed in (text[:at] + "index 1" + text[at + 7 :], text.replace("extra ", "extra AAAA"), "words", text[:at]):
        proof.write_text(changed)
        code, _, err = said(capsys, "verify", proof, "--key", key)
        assert (code, err.count("\n")) == (4, 1)


def test_an_export_is_whole_without_a_secret(capsys, logs, tmp_path):
    out = tmp_path / "for the auditor"
    code, words, _ = said(capsys, "export", logs / "norrvik", "--out", out)
    assert (code, key_of(logs / "norrvik") in words) == (0, True)
    assert said(capsys, "verify", out, "--key", key_of(logs / "norrvik"))[0] == 0
    with (out / "events.csv").open(encoding="utf-8") as file:
        assert [row["what"] for row in csv.DictReader(file)] == ["asked", "left"] * 3
    assert said(capsys, "export", logs / "norrvik", "--out", out)[0] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["verify", "/nowhere"], "a log must be in a folder with its key and checkpoint, found none in /nowhere"),
        (["verify", "LOG", "--key", "norrvik+1+2"], "a log's key must"),
        (["verify", "LOG", "--key", "/nowhere"], "a file must be there to be read"),
        (["verify", "LOG", "--against", "/nowhere"], "a file must be there to be read"),
        (["verify", "LOG/log.jsonl"], "a proof must be held to a key"),
        (["tail", "LOG", "-n", "0"], "-n must be 1 or more"),
        (["tail", "RUN"], "one log must be named, found 2"),
        (["prove", "LOG", "6"], "an event must be one of the log's 6, counted from 0, found 6"),
        (["prove", "LOG", "-1"], "counted from 0, found -1"),
    ],
)
def test_a_wrong_word_gets_one_line(capsys, logs, words, line):
    places = {"LOG": str(logs / "norrvik"), "LOG/log.jsonl": str(logs / "norrvik" / "log.jsonl"), "RUN": str(logs)}
    code, _, err = said(capsys, *(places.get(word, word) for word in words))
    assert (code, line in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.process
def test_it_needs_neither_torch_nor_flower(logs):
    code = (
        "import sys; from fedhealth.cli import main\n"
        f"main(['audit', 'verify', {str(logs)!r}])\n"
        "print('LOADED', [m for m in ('torch', 'flwr', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("LOADED []")
