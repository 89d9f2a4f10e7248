"""What a deployment stands: each process killed at each bad moment, a network that goes, a disk that is full.

What must hold every time: the run goes on to the very bits of a study in one process, or ends
with a reason; no update counts twice; no budget is given back; nothing waits past its deadline.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from deployment import Federation, Wire, federated, until
from safetensors.numpy import load as load_tensors

from fedhealth import cli
from fedhealth.coordinating import submit
from fedhealth.core.errors import FedHealthError
from fedhealth.core.study import digest
from fedhealth.federate import place
from fedhealth.privacy.ledger import Ledger
from fedhealth.runtime.deployment.site_folder import INVITATION
from fedhealth.runtime.deployment.supervisor import running
from fedhealth.server.store import Store
from fedhealth.site.doctor import examined

pytestmark = [pytest.mark.process, pytest.mark.slow]

#: Places that a test started, to be ended after the last; and where these keep no ledger.
STARTED: list = []
OWN = {"XDG_STATE_HOME": "/nonexistent"}
STUDY = ("rounds=3", "rules.node_timeout_s=60")
HURT = "port-amity"
#: Seconds from an injury to the end of a run that stands it.
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with federated(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> bytes:
    """The model of the study where nothing goes wrong, from one process."""
    return undisturbed(tmp_path_factory.mktemp("expected"), *STUDY)


def undisturbed(folder: Path, *overrides: str) -> bytes:
    """The model of a study in one process."""
    run = folder / "run"
    assert cli.main(["simulate", "experiment=smoke", "run.report=false", f"run.folder={run}", *overrides]) == 0
    return (run / "model.safetensors").read_bytes()


def ended(there: Federation, name: str) -> list[dict]:
    """The rounds of a run that ended well and in time."""
    started = time.monotonic()
    rows = there.end(name)
    assert time.monotonic() - started < DEADLINE_S
    until(lambda: there.state(name) == ("finished:completed", ""), "the run is done", look_s=0.3)
    return rows


def stands(there: Federation, name: str, expected: bytes) -> None:
    """Check that a run ended with every round once, every hospital in each, and the bits of an unhurt one."""
    ended(there, name)
    history = Store(there.folder(name)).read_history()
    assert [(row["round"], row["answered"], row["failed"]) for row in history] == [(n, 3, []) for n in (1, 2, 3)]
    assert (there.folder(name) / "model.safetensors").read_bytes() == expected


def in_training(there: Federation, name: str) -> None:
    """Wait until a run's first round has begun: what is asked for before it has been told."""
    until((there.folder(name) / "statistics.json").exists, "the first round has begun")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


@contextmanager
def halted(there: Federation, name: str):
    """A hospital whose worker does nothing while this holds; what is left of it goes on afterwards."""
    worker = until(lambda: there.node(name).get("worker"), "there is a worker")
    kill(worker, signal.SIGSTOP)
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            kill(worker, signal.SIGCONT)


@contextmanager
def anew(there: Federation, name: str, address: str = "", env: dict[str, str] | None = None):
    """A hospital started again by another way to its coordinator, and as it was afterwards."""
    site = there.sites[name]
    assert cli.main(["site", "stop", str(site)]) == 0
    before = (site / INVITATION).read_bytes()
    if address:
        (site / INVITATION).write_text(json.dumps({**json.loads(before), "address": address}))
    try:
        with place("site start", site, {**OWN, **(env or {})}):
            yield
    finally:
        (site / INVITATION).write_bytes(before)
        back(there, name)


@contextmanager
def away(there: Federation, name: str):
    """A hospital that is ended, and started again afterwards."""
    assert cli.main(["site", "stop", str(there.sites[name])]) == 0
    try:
        yield
    finally:
        back(there, name)


def back(there: Federation, name: str) -> None:
    """Start a hospital that was ended."""
    STARTED.append(place("site start", there.sites[name], OWN))
    STARTED[-1].__enter__()
    until(lambda: there.node(name).get("state") == "connected", f"{name} is back")


@pytest.fixture(scope="module", autouse=True)
def _ends_what_was_started_again():
    yield
    while STARTED:
        STARTED.pop().__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _leaves_no_run(there):
    yield
    there.settle()


def test_each_process_of_the_coordinators_is_killed_in_the_middle(there, expected):
    name = there.begin(*STUDY)
    in_training(there, name)
    kill(there.pid("superlink"))
    for done, child in enumerate(("executor", "conduct"), start=1):
        there.rounds_done(name, done)
        kill(there.pid(child))
    stands(there, name, expected)


def test_the_server_app_is_killed_while_it_writes_a_checkpoint(there, expected):
    name = there.begin(*STUDY)
    pid = there.pid("conduct")
    draft = there.folder(name) / "checkpoints" / ".00002"
    until(draft.exists, "a checkpoint is being written", look_s=0)
    kill(pid)
    stands(there, name, expected)


def test_the_whole_coordinator_is_ended_and_started_again(there, expected):
    name = there.begin(*STUDY)
    there.rounds_done(name, 1)
    supervisor = running(there.coordinator.path)["pid"]
    kill(supervisor)
    until(lambda: not running(there.coordinator.path), "it is gone with all it had started")
    STARTED.append(place("coordinator start", there.coordinator.path))
    STARTED[-1].__enter__()
    stands(there, name, expected)


def test_each_process_of_a_hospitals_is_killed_with_a_question_in_hand(there, expected):
    name = there.begin(*STUDY)
    for done, who in enumerate(("node", "worker"), start=1):
        there.rounds_done(name, done)
        with halted(there, HURT) as worker:
            node = there.working(HURT)["process"]
            kill(node if who == "node" else worker)
            until(lambda worker=worker: there.node(HURT).get("worker") not in (None, worker), "there is another worker")
    stands(there, name, expected)


def test_a_hospitals_processes_are_killed_between_questions(there, expected):
    said = there.node(HURT)
    kill(said["worker"])
    kill(said["process"])
    stands(there, there.begin(*STUDY), expected)


def test_a_network_is_cut_for_seconds_and_slow_after(there, expected):
    host, _, port = there.coordinator.here.rpartition(":")
    wire = Wire(host, int(port))
    try:
        with anew(there, HURT, f"127.0.0.1:{wire.port}"):
            until(lambda: there.node(HURT).get("state") == "connected", "it is let in")
            name = there.begin(*STUDY)
            there.rounds_done(name, 1)
            wire.cut()
            time.sleep(4)
            wire.delay_s = 0.03
            wire.mend()
            stands(there, name, expected)
    finally:
        wire.close()


def test_a_straggler_is_left_out_and_what_it_says_too_late_does_not_count(there):
    with halted(there, HURT):
        name = there.begin("seed=12", "rounds=2", "rules.quorum=2", "rules.grace_s=0.2", "rules.node_timeout_s=5")
        rows = ended(there, name)
    assert [{each["site"] for each in row["failed"]} for row in rows] == [{HURT}, {HURT}]
    assert [row["answered"] for row in rows] == [2, 2]
    assert "gave no answer within" in rows[0]["failed"][0]["reason"]
    # It answers now what nobody waits for, and takes part again.
    until(lambda: there.node(HURT)["state"] == "connected", "it has answered")
    assert ended(there, there.begin("seed=13", "rounds=1"))[0]["failed"] == []


def test_a_hospital_that_never_returns_is_gone_on_without_or_ends_the_run_with_its_name(there):
    with away(there, HURT):
        enough = there.begin("seed=14", "rounds=2", "rules.quorum=2", "rules.node_timeout_s=1")
        assert [row["answered"] for row in ended(there, enough)] == [2, 2]
        started = time.monotonic()
        everybody = there.begin("seed=15", "rounds=1", "rules.node_timeout_s=1")
        with pytest.raises(FedHealthError, match=f"3 hospitals must be connected within 1 s, found 2. Absent: {HURT}"):
            there.end(everybody)
        assert time.monotonic() - started < 60


def test_a_full_disk_ends_the_run_with_a_reason_and_it_goes_on_once_there_is_room(there, expected):
    name = there.begin(*STUDY)
    there.rounds_done(name, 1)
    # No file may grow past what is there already: as on a disk that is full.
    resource.prlimit(there.pid("conduct"), resource.RLIMIT_FSIZE, (600, 600))
    until(lambda: there.state(name)[0] == "finished:failed", "the run has failed", look_s=0.3)
    assert "see" in there.state(name)[1].lower() or "found" in there.state(name)[1]
    document = Store(there.folder(name)).read_config()
    submit(there.coordinator, document, name)
    stands(there, name, expected)


def test_a_hospital_whose_clock_is_wrong_is_told_so(there, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime, flwr.supercore.date as date\n"
        "true = date.now\n"
        "date.now = lambda: true() + datetime.timedelta(minutes=10)\n"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with anew(there, HURT, env=env):
        said = until(lambda: there.node(HURT).get("why"), "it is turned away")
        assert "whose clock is wrong" in said


def test_a_data_source_that_vanished_fails_that_hospital_and_says_no_more_than_a_code(there):
    manifest = there.sites[HURT] / "site.yaml"
    before = manifest.read_text()
    source = {"kind": "csv", "path": "of-mrs-smith.csv"}
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(before), "source": source}))
    try:
        rows = ended(there, there.begin("seed=16", "rounds=1", "rules.quorum=2"))
        found = {line.what: line for line in examined(there.sites[HURT])}
    finally:
        manifest.write_text(before)
    (failure,) = rows[0]["failed"]
    assert failure["reason"].startswith("failed with DataError (incident ")
    assert found["data source"].remedy == "Correct the path"
    everything = [file for file in there.coordinator.path.rglob("*") if file.is_file()]
    assert not [file for file in everything if b"of-mrs-smith" in file.read_bytes()]


def test_a_masked_round_stands_a_killed_node_and_gives_the_same_model(there, tmp_path):
    name = there.begin("rounds=1", "secagg=masked")
    in_training(there, name)
    with halted(there, HURT):
        kill(there.working(HURT)["process"])
        ended(there, name)
    ours = load_tensors((there.folder(name) / "model.safetensors").read_bytes())
    theirs = load_tensors(undisturbed(tmp_path, "rounds=1"))
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, rtol=0, atol=1e-6)


def test_no_budget_comes_back_where_a_hospital_is_killed_in_training(there):
    ledger = Ledger(there.sites[HURT] / "state" / "ledger.sqlite")
    study = ("seed=17", "rounds=2", "privacy=dp_sgd", "privacy.epsilon=8")
    name = there.begin(*study)
    there.rounds_done(name, 1)
    kill(there.node(HURT)["process"])
    ended(there, name)
    charged = [row.what for row in ledger.rows() if row.digest == digest(there.document(*study))]
    asked = ["query.shape", "train", "train", "evaluate"]
    assert sorted(charged) == sorted(asked) or len(charged) > len(asked)
    assert ledger.verify() is not None
