"""The ledger: nothing is spent twice or forgotten, and what was changed is found, or said not to be."""

from __future__ import annotations

import math
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from fedhealth.core.errors import FedHealthError, IntegrityError, Refused, SettingError
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded, as_json
from fedhealth.privacy import ledger as module
from fedhealth.privacy.accountant import epsilon
from fedhealth.privacy.ledger import Entry, Ledger
from fedhealth.privacy.ledger_head import Anchor

DELTA = 1e-5
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEPS = PoissonSampledGaussian(noise_multiplier=2.26, sampling_rate=0.1, count=100)
KEY = bytes(range(32))


def entry(event=None, *, study="mortality", cohort="inpatients", what="train"):
    event = event or Gaussian(noise_multiplier=10.0)
    return Entry(study=study, digest="d" * 64, what=what, event=event, view="updates", cohort=cohort)


def charged(path, n, *, key=None, **settings):
    """A ledger with n rows."""
    found = Ledger(path, key=key)
    for _ in range(n):
        found.charge(entry(**settings), epsilon_cap=math.inf, delta=DELTA)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own" / "ledger.sqlite"


def test_a_row_holds_what_left_and_when(path):
    ledger = Ledger(path, clock=lambda: NOON)
    ledger.charge(entry(STEPS), epsilon_cap=4.0, delta=DELTA)
    (row,) = ledger.rows()
    assert (row.number, row.study, row.digest, row.what) == (1, "mortality", "d" * 64, "train")
    assert (row.event, row.view, row.cohort) == (as_json(STEPS), "updates", "inpatients")
    assert row.at == "2026-03-01T12:00:00.000000+00:00"


def test_before_the_first_charge_there_is_nothing(path):
    ledger = Ledger(path)
    assert ledger.rows() == []
    assert ledger.verify() is None
    assert ledger.spent("inpatients", delta=DELTA).epsilon == 0
    assert not path.parent.exists()


def test_studies_are_composed_and_not_added(path):
    ledger = Ledger(path)
    for study in ("one", "two", "three"):
        after = ledger.charge(entry(STEPS, study=study), epsilon_cap=10.0, delta=DELTA)
    assert after.epsilon == ledger.spent("inpatients", delta=DELTA).epsilon == epsilon([STEPS] * 3, DELTA)
    assert after.epsilon < 2 * epsilon([STEPS], DELTA)


def test_another_cohort_spends_its_own(path):
    ledger = charged(path, 3)
    ledger.charge(entry(cohort="outpatients"), epsilon_cap=math.inf, delta=DELTA)
    alone = epsilon([Gaussian(noise_multiplier=10.0)], DELTA)
    assert ledger.spent("outpatients", delta=DELTA).epsilon == alone
    assert ledger.spent("inpatients", delta=DELTA).epsilon > alone


def test_a_spent_budget_refuses_the_next_event_and_writes_nothing(path):
    ledger = Ledger(path)
    ledger.charge(entry(STEPS), epsilon_cap=2.5, delta=DELTA)
    with pytest.raises(Refused) as refusal:
        ledger.charge(entry(STEPS), epsilon_cap=2.5, delta=DELTA)
    one, two = epsilon([STEPS], DELTA), epsilon([STEPS] * 2, DELTA)
    said = str(refusal.value)
    assert refusal.value.code == "budget_spent"
    assert "cap 2.5 over" in said
    assert f"{one:.3f} spent and {one:.3f} asked" in said
    assert f"ε = {math.ceil(100 * two) / 100:g}" in said
    assert len(ledger.rows()) == 1


def test_an_event_that_just_fits_is_let_through(path):
    cap = epsilon([STEPS] * 2, DELTA)
    ledger = Ledger(path)
    ledger.charge(entry(STEPS), epsilon_cap=cap, delta=DELTA)
    assert ledger.charge(entry(STEPS), epsilon_cap=cap, delta=DELTA).epsilon == cap
    with pytest.raises(Refused):
        ledger.charge(entry(Gaussian(noise_multiplier=1000.0)), epsilon_cap=cap * 0.999, delta=DELTA)


def test_what_has_no_bound_passes_only_where_there_is_no_cap(path):
    ledger = Ledger(path)
    with pytest.raises(Refused, match="no bound"):
        ledger.charge(entry(Unbounded()), epsilon_cap=1e9, delta=DELTA)
    assert ledger.charge(entry(Unbounded()), epsilon_cap=math.inf, delta=DELTA).epsilon == math.inf
    with pytest.raises(Refused):
        ledger.charge(entry(), epsilon_cap=1e9, delta=DELTA)


@pytest.mark.parametrize(("cap", "delta"), [(0.0, DELTA), (-1.0, DELTA), (math.nan, DELTA), (1.0, 0.0), (1.0, 1.0)])
def test_a_cap_or_delta_that_bounds_nothing_is_refused(path, cap, delta):
    with pytest.raises(SettingError):
        Ledger(path).charge(entry(), epsilon_cap=cap, delta=delta)
    assert Ledger(path).rows() == []


def test_a_clock_set_back_changes_neither_order_nor_price(path, caplog):
    times = iter([NOON, NOON - timedelta(days=400), NOON + timedelta(seconds=1)])
    ledger = Ledger(path, clock=lambda: next(times))
    for _ in range(3):
        ledger.charge(entry(), epsilon_cap=math.inf, delta=DELTA)
    assert [row.at[11:19] for row in ledger.rows()] == ["12:00:00", "12:00:00", "12:00:01"]
    assert "set back" in caplog.text
    assert ledger.spent("inpatients", delta=DELTA).epsilon == epsilon([Gaussian(noise_multiplier=10.0)] * 3, DELTA)


def altered(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


EDITS = {
    "study": ["UPDATE events SET study = 'other' WHERE number = 2"],
    "digest": ["UPDATE events SET digest = 'e' WHERE number = 2"],
    "what": ["UPDATE events SET what = 'nothing' WHERE number = 2"],
    "more noise": ["UPDATE events SET event = replace(event, '10.0', '99.0') WHERE number = 2"],
    "view": ["UPDATE events SET view = 'sums' WHERE number = 2"],
    "cohort": ["UPDATE events SET cohort = 'nobody' WHERE number = 2"],
    "time": ["UPDATE events SET at = '2020' WHERE number = 2"],
    "hash": ["UPDATE events SET hash = previous WHERE number = 2"],
    "number for words": ["UPDATE events SET study = x'00' WHERE number = 2"],
    "first deleted": ["DELETE FROM events WHERE number = 1"],
    "middle deleted": ["DELETE FROM events WHERE number = 2"],
    "last deleted": ["DELETE FROM events WHERE number = 4"],
    "all deleted": ["DELETE FROM events"],
    "deleted and renumbered": ["DELETE FROM events WHERE number = 2", "UPDATE events SET number = number - 1 WHERE number > 2"],
    "reordered": ["UPDATE events SET number = 9 WHERE number = 2", "UPDATE events SET number = 2 WHERE number = 3",
                  "UPDATE events SET number = 3 WHERE number = 9"],
    "doubled": ["INSERT INTO events SELECT 5, study, digest, what, event, view, cohort, at, previous, hash FROM events WHERE number = 4"],
    "table dropped": ["DROP TABLE events"],
    "column dropped": ["ALTER TABLE events DROP COLUMN cohort"],
}  # fmt: skip


@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "key"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_ledger_that_was_changed_is_found_and_charges_nobody(path, edit, key):
    ledger = charged(path, 4, key=key)
    altered(path, *EDITS[edit])
    for use in (ledger.verify, ledger.rows, lambda: ledger.charge(entry(), epsilon_cap=math.inf, delta=DELTA)):
        with pytest.raises(IntegrityError, match=r"found .*newest backup"):
            use()


def damaged(path, how):
    head = path.with_name(path.name + ".head")
    match how:
        case "ledger gone":
            path.unlink()
        case "ledger emptied":
            path.write_bytes(b"")
        case "ledger cut":
            path.write_bytes(path.read_bytes()[:5000])
        case "ledger is something else":
            path.write_text("not a database " * 100)
        case "head gone":
            head.unlink()
        case "head emptied":
            head.write_bytes(b"")
        case "head counts less":
            head.write_text(head.read_text().replace('"rows":4', '"rows":3'))
        case "head without its key":
            head.write_text(head.read_text().replace('"has_key":true', '"has_key":false'))


@pytest.mark.parametrize("how", ["ledger gone", "ledger emptied", "ledger cut", "ledger is something else", "head gone",
                                 "head emptied", "head counts less", "head without its key"])  # fmt: skip
def test_a_damaged_file_is_found_and_charges_nobody(path, how):
    ledger = charged(path, 4, key=KEY)
    damaged(path, how)
    for use in (ledger.verify, lambda: ledger.charge(entry(), epsilon_cap=math.inf, delta=DELTA)):
        with pytest.raises(IntegrityError, match="newest backup"):
            use()


def test_a_ledger_made_with_a_key_is_read_with_that_key_only(path):
    charged(path, 2, key=KEY)
    with pytest.raises(SettingError, match="ledger_key"):
        Ledger(path).verify()
    with pytest.raises(IntegrityError):
        Ledger(path, key=bytes(32)).verify()


def test_a_key_given_later_does_not_vouch_for_older_rows(path):
    charged(path, 2)
    with pytest.raises(IntegrityError):
        Ledger(path, key=KEY).verify()


def test_a_forged_row_is_found_where_there_is_a_key_and_not_where_there_is_none(path, tmp_path):
    # The forger knows this program and can write both files, but has no key.
    forger = charged(path, 2)
    forger.charge(entry(study="forged"), epsilon_cap=math.inf, delta=DELTA)
    assert forger.verify().number == 3
    sealed = charged(tmp_path / "sealed.sqlite", 2, key=KEY)
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT * FROM events WHERE number = 3").fetchone()
    with closing(sqlite3.connect(sealed.path)) as connection:
        connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(row))})", row)
        connection.commit()
    with pytest.raises(IntegrityError, match="row 3 edited"):
        sealed.verify()


def test_an_older_ledger_put_back_whole_is_found_by_an_anchor_alone(path, tmp_path):
    ledger = charged(path, 2, key=KEY)
    first = ledger.verify()
    shutil.copytree(path.parent, tmp_path / "backup")
    charged(path, 1, key=KEY)
    noted = ledger.verify()
    shutil.rmtree(path.parent)
    shutil.copytree(tmp_path / "backup", path.parent)
    assert ledger.verify() == ledger.verify(first) == first
    with pytest.raises(IntegrityError, match="anchor's row 3"):
        ledger.verify(noted)


def test_a_ledger_deleted_with_its_head_is_found_by_an_anchor_alone(path):
    ledger = charged(path, 2)
    noted = ledger.verify()
    shutil.rmtree(path.parent)
    assert ledger.verify() is None
    with pytest.raises(IntegrityError):
        ledger.verify(noted)


def test_an_anchor_of_other_rows_is_another_history(path):
    ledger = charged(path, 2)
    with pytest.raises(IntegrityError, match="another history"):
        ledger.verify(Anchor(1, "0" * 64))


def test_a_head_left_behind_by_a_crash_is_no_fault_and_follows_again(path):
    ledger = charged(path, 2)
    head = path.with_name(path.name + ".head")
    behind = head.read_bytes()
    charged(path, 1)
    head.write_bytes(behind)
    assert ledger.verify().number == 3
    charged(path, 1)
    altered(path, "DELETE FROM events WHERE number = 4")
    with pytest.raises(IntegrityError, match="3 rows where its head counts 4"):
        ledger.verify()


def test_a_ledger_that_stays_locked_is_no_broken_one(path, monkeypatch):
    ledger = charged(path, 1)
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FedHealthError, match="locked") as refusal:
            ledger.charge(entry(), epsilon_cap=math.inf, delta=DELTA)
    assert refusal.value.exit_code == 1


def test_only_the_owner_may_read_it(path):
    charged(path, 1)
    assert path.stat().st_mode & 0o077 == 0


PROGRAM = """
import os, signal, sys
from pathlib import Path
from fedhealth.core.privacy_event import Gaussian
from fedhealth.privacy.ledger import Entry, Ledger
from fedhealth.privacy.ledger_head import Head

path, name, times, die = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
if die == "before the head":
    Head.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
for _ in range(times):
    event = Gaussian(noise_multiplier=10.0)
    entry = Entry(study=name, digest="d", what="train", event=event, view="updates", cohort="inpatients")
    Ledger(path).charge(entry, epsilon_cap=float("inf"), delta=1e-5)
    if die == "before sending":
        os.kill(os.getpid(), signal.SIGKILL)
    (path.parent.parent / f"sent-{name}").touch()
"""


def started(path, name, times, die="never"):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), name, str(times), die])


@pytest.mark.process
def test_processes_that_charge_at_once_lose_nothing(path):
    running = [started(path, f"study-{i}", 12) for i in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    ledger = Ledger(path)
    rows = ledger.rows()
    assert [row.number for row in rows] == list(range(1, 37))
    assert {
        name: sum(row.study == name for row in rows) for name in ("study-0", "study-1", "study-2")
    } == dict.fromkeys(("study-0", "study-1", "study-2"), 12)
    assert ledger.spent("inpatients", delta=DELTA).epsilon == epsilon(
        [Gaussian(noise_multiplier=10.0, count=36)], DELTA
    )
    # The head did not go back: without the last row it no longer fits.
    altered(path, "DELETE FROM events WHERE number = 36")
    with pytest.raises(IntegrityError, match="35 rows where its head counts 36"):
        ledger.verify()


@pytest.mark.process
@pytest.mark.parametrize("die", ["before sending", "before the head"])
def test_what_was_charged_before_a_kill_stays_charged(path, die):
    charged(path, 1)
    process = started(path, "killed", 1, die)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (path.parent.parent / "sent-killed").exists()
    ledger = Ledger(path)
    assert [row.study for row in ledger.rows()] == ["mortality", "killed"]
    assert ledger.spent("inpatients", delta=DELTA).epsilon == epsilon([Gaussian(noise_multiplier=10.0)] * 2, DELTA)
    charged(path, 1)
    assert ledger.verify().number == 3
