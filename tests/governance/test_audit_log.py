"""The audit log: what was done to it is found, and what was added to it stays."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.governance import note
from fedhealth.governance.audit import CONTEXT, COUNTERSIGNED, KINDS, Log, verified
from fedhealth.governance.merkle import is_included, leaf_hash
from fedhealth.governance.note import PublicKey

SEED = bytes(range(32))
ORIGIN = "fedhealth/site/norrvik"


def log_in(folder, seed=SEED):
    return Log(folder, ORIGIN, Ed25519PrivateKey.from_private_bytes(seed))


@pytest.fixture
def ten(tmp_path):
    """A folder with a log of ten events."""
    log = log_in(tmp_path / "audit")
    for i in range(10):
        log.append("started", process=f"worker {i}")
    return log.folder


def lines(folder):
    return (folder / "log.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(folder, content):
    (folder / "log.jsonl").write_bytes(b"".join(content))


def resigned(folder, name, content, seed=SEED):
    """A whole new log of the same length and key, as only the holder of the key can make it."""
    other = log_in(folder.with_name(name), seed)
    for line in content:
        event = json.loads(line)
        other.append(event["event"], process=event["process"])
    return other.folder


def test_a_log_reads_back_as_it_was_written(ten):
    found = verified(ten)
    assert [event["process"] for event in found.events] == [f"worker {i}" for i in range(10)]
    assert [event["index"] for event in found.events] == list(range(10))
    assert (found.signed, found.torn, found.countersigned) == (10, 0, {})


def test_a_receipt_proves_that_its_event_is_in_the_log(ten):
    log = log_in(ten)
    receipt = log.append("stopped", process="worker 3", code=0)
    point = note.opened(receipt.checkpoint, log.key)
    tree = verified(ten).tree
    proof = tree.inclusion(receipt.index, point.size)
    line = lines(ten)[receipt.index].rstrip(b"\n")
    assert is_included(leaf_hash(line), receipt.index, point.size, point.root, proof)
    assert json.loads(line) == receipt.event


def edited(found):
    return [*found[:4], found[4].replace(b"worker 4", b"worker 5"), *found[5:]]


def swapped(found):
    return [*found[:2], found[3], found[2], *found[4:]]


FAULTS = {
    "edited": (edited, "event 4 edited"),
    "deleted": (lambda found: found[:6] + found[7:], "event 7 where event 6 must stand"),
    "the first deleted": (lambda found: found[1:], "event 1 where event 0 must stand"),
    "moved": (swapped, "event 3 where event 2 must stand"),
    "doubled": (lambda found: [*found, found[9]], "event 9 where event 10 must stand"),
    "cut off": (lambda found: found[:-1], "9 events where its checkpoint counts 10"),
    "all cut off": (lambda found: [], "0 events where its checkpoint counts 10"),
    "not JSON": (lambda found: [*found[:5], b"{\n", *found[6:]], "event 5 that can't be read"),
    "spaced": (lambda found: [found[0].replace(b",", b", "), *found[1:]], "event 0 edited"),
}


@pytest.mark.parametrize(("change", "found"), FAULTS.values(), ids=FAULTS)
def test_what_was_done_to_a_log_is_found_and_named(ten, change, found):
    rewrite(ten, change(lines(ten)))
    with pytest.raises(IntegrityError, match=found):
        verified(ten)
    # And a process that would go on with it does not.
    with pytest.raises(IntegrityError, match=found):
        log_in(ten).append("started", process="worker")


def test_an_event_added_without_the_key_is_found(ten):
    event = {**json.loads(lines(ten)[9]), "index": 10}
    with (ten / "log.jsonl").open("a") as file:
        file.write(json.dumps(event, sort_keys=True, separators=(",", ":")) + "\n")
    for ask in (lambda: verified(ten), lambda: log_in(ten).append("started", process="worker")):
        with pytest.raises(IntegrityError, match="event 10 edited, or signed with another key"):
            ask()


@pytest.mark.parametrize("name", ["checkpoint", "log.jsonl"])
def test_a_log_without_one_of_its_files_is_broken(ten, name):
    (ten / name).unlink()
    with pytest.raises((IntegrityError, FileNotFoundError)):
        log_in(ten).append("started", process="worker")
    with pytest.raises(IntegrityError):
        verified(ten)


def test_a_tail_cut_off_together_with_the_checkpoint_is_found_by_whoever_countersigned(ten, tmp_path):
    kept = (ten / "checkpoint").read_text()
    shorter = resigned(ten, "shorter", lines(ten)[:8])
    assert len(verified(shorter).events) == 8
    with pytest.raises(IntegrityError, match="8 events where the checkpoint that was kept elsewhere says 10"):
        verified(shorter, against=kept)


def test_a_history_written_anew_with_the_key_is_found_by_whoever_countersigned(ten):
    kept = (ten / "checkpoint").read_text()
    again = resigned(ten, "again", edited(lines(ten)))
    assert len(verified(again).events) == 10
    with pytest.raises(IntegrityError, match="another history than the checkpoint that was kept elsewhere"):
        verified(again, against=kept)
    # The same copy beside the log does as well, where only the log and its checkpoint were replaced.
    (again / COUNTERSIGNED).mkdir()
    (again / COUNTERSIGNED / "fedhealth_coordinator_heart").write_text(kept)
    with pytest.raises(IntegrityError, match="another history than fedhealth/coordinator/heart has countersigned"):
        verified(again)
    with pytest.raises(IntegrityError, match="has countersigned"):
        log_in(again).append("started", process="worker")


def test_a_log_of_another_key_is_not_taken_for_this_one(ten):
    other = PublicKey.of(ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError, match="must be signed with its key"):
        verified(ten, key=other)
    with pytest.raises(IntegrityError, match="must be signed with its key"):
        log_in(ten, bytes(32)).append("started", process="worker")


def test_half_a_line_of_a_killed_process_is_replaced_and_told_of(ten):
    half = lines(ten)[9][:50]
    with (ten / "log.jsonl").open("ab") as file:
        file.write(half)
    assert verified(ten).torn == 50
    log_in(ten).append("started", process="worker")
    found = verified(ten)
    assert [event["event"] for event in found.events[10:]] == ["torn", "started"]
    assert (found.events[10]["bytes"], found.torn) == (50, 0)


def test_a_whole_line_that_missed_the_checkpoint_counts(ten):
    # As a process killed between the two leaves it: the log of eleven, the checkpoint of ten.
    old = (ten / "checkpoint").read_text()
    log_in(ten).append("started", process="worker 10")
    (ten / "checkpoint").write_text(old)
    assert (len(verified(ten).events), verified(ten).signed) == (11, 10)
    assert log_in(ten).append("started", process="worker 11").index == 11
    assert verified(ten).signed == 12


def test_a_full_disk_leaves_the_log_as_it_was(ten, monkeypatch):
    before, log = lines(ten), log_in(ten)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.append("started", process="worker")
    assert lines(ten) == before
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert log.append("started", process="worker").index == 10
    assert len(verified(ten).events) == 11


def test_a_log_cut_while_a_process_runs_is_found_by_its_next_event(ten):
    log = log_in(ten)
    log.append("started", process="worker")
    rewrite(ten, lines(ten)[:4])
    with pytest.raises(IntegrityError, match="cut to fewer"):
        log.append("started", process="worker")


@pytest.mark.parametrize(
    ("event", "facts", "found"),
    [
        ("patient", {}, "must be one of KINDS"),
        ("started", {"age": 71}, "must keep to its facts, found 'age'"),
        ("started", {"process": "x" * 300}, "must be short words"),
        ("started", {"process": "a\nb"}, "must be short words"),
        ("left", {"parts": [["a\x1b"]]}, "must be short words"),
    ],
)
def test_a_log_takes_no_free_text(tmp_path, event, facts, found):
    with pytest.raises(SettingError, match=found):
        log_in(tmp_path / "audit").append(event, **facts)
    assert not (tmp_path / "audit").exists()


def test_no_kind_of_event_has_a_place_for_a_text():
    words = set().union(*KINDS.values())
    assert not words & {"text", "message_text", "why_text", "note", "trace", "value", "values", "patient"}


def test_the_time_is_in_the_event_and_signed(tmp_path):
    log = log_in(tmp_path)
    log.clock = lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    event = dict(log.append("started", process="worker").event)
    assert event["at"] == "2026-01-02T03:04:05.000000+00:00"
    signature = bytes.fromhex(event.pop("signature"))
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    log.signer.public_key().verify(signature, CONTEXT + text.encode())


def test_a_log_is_for_its_owner_alone(ten):
    assert ten.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in ten.iterdir())


def test_threads_of_one_process_lose_nothing(tmp_path):
    log = log_in(tmp_path)
    threads = [
        threading.Thread(target=lambda: [log.append("started", process="x") for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(verified(tmp_path).events) == 80


WRITER = """
import os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedhealth.governance.audit import Log

folder, name, many = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = Log(folder, "fedhealth/site/norrvik", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
for i in range(many):
    receipt = log.append("started", process=f"{name} {i}")
    os.write(1, f"{receipt.index}\\n".encode())
"""


def writer(folder, name, many):
    words = [sys.executable, "-c", WRITER, str(folder), name, str(many)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)


@pytest.mark.process
def test_four_writers_killed_again_and_again_lose_no_event_that_they_were_told_of(tmp_path):
    """Each victim is killed while it writes; one writer lives on through all of it."""
    folder, rng = tmp_path / "audit", random.Random(5)
    survivor, told = writer(folder, "survivor", 60), []
    for wave in range(4):
        victims = [writer(folder, f"victim {wave}.{i}", 10_000) for i in range(3)]
        for victim in victims:
            victim.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.2))
        for victim in victims:
            os.killpg(victim.pid, signal.SIGKILL)
            # The first line was read above; the last may be half of one.
            told += [int(word) for word in victim.communicate()[0].decode().splitlines(keepends=True) if "\n" in word]
    told += [int(word) for word in survivor.communicate(timeout=60)[0].split()]
    assert survivor.returncode == 0
    found = verified(folder)
    assert len(told) == len(set(told))
    by_index = {event["index"]: event for event in found.events}
    assert set(told) <= set(by_index)
    assert sum(event.get("process", "").startswith("survivor") for event in found.events) == 60
    log_in(folder).append("started", process="afterwards")
    assert verified(folder).signed == len(found.events) + 1 + bool(found.torn)
