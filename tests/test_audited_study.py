"""A study with logs: receipts account for every byte that came, each log is countersigned, and no patient is in any."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date

import pytest
from flwr.app import Context, RecordDict

from fedhealth import cli
from fedhealth.core.errors import REFUSALS, QuorumError
from fedhealth.core.study import digest, packed, study_from
from fedhealth.governance.approval import Approvals
from fedhealth.governance.audit import Log, verified
from fedhealth.governance.proposal import propose
from fedhealth.governance.signing import new_key, public, signing_key
from fedhealth.runtime.codec import reason_of, write_request
from fedhealth.runtime.local import FIRST_NODE, LocalGrid
from fedhealth.server.app import make, policed
from fedhealth.server.audited_grid import AuditedGrid, logged
from fedhealth.server.store import Store
from fedhealth.simulate import _nodes, _run_config, checked, identified
from fedhealth.site.app import app
from fedhealth.site.keys import Keys

#: Values of one patient that nothing else has by chance.
CANARY_ID, CANARY_AGE = "canary-7731", "71.773313"


class Wire(LocalGrid):
    """A local grid that weighs each reply as it comes in, before anybody has read it."""

    def __init__(self, *rest) -> None:
        super().__init__(*rest)
        self.came: list[tuple[int, int, str]] = []
        self.keys_seen: set[str] = set()

    def _answer(self, message):
        reply = super()._answer(message)
        self.came.append((message.metadata.dst_node_id, weight(reply), message.metadata.message_type))
        if reply.has_content():
            self.keys_seen |= set(reply.content)
        return reply


def weight(reply) -> int:
    """All bytes of a reply that could tell something: names, arrays, numbers as they are written, or a reason."""
    if reply.has_error():
        return len(reply.error.reason.encode())
    total = 0
    for of_record, record in reply.content.items():
        for name, value in record.items():
            total += len(f"{of_record}/{name}".encode())
            total += len(value.data) if hasattr(value, "data") else len(json.dumps(value).encode())
    return total


def conducted(simulation, folder):
    folder.mkdir()
    simulation = identified(simulation, Store(folder))
    study = simulation.study
    for name in study.roster:
        Keys(folder / "keys" / name).init()
    config, names = _run_config(simulation, Store(folder)), dict(enumerate(study.roster, start=FIRST_NODE))
    wire = Wire(app, _nodes(simulation, folder).values(), config)
    grid = logged(wire, names, study, simulation.digest, folder)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    make(lambda row: None)(policed(grid, names, study, simulation.digest, poll_s=0), context)
    return wire, names


def events(folder, name, *kinds):
    return [event for event in verified(folder / "audit" / name).events if event["event"] in kinds]


@pytest.mark.parametrize("secagg", ["plain", pytest.param("masked", marks=pytest.mark.slow)])
def test_receipts_account_for_every_byte_that_the_coordinator_got(smoke, tmp_path, secagg):
    wire, names = conducted(checked(smoke("rounds=2", "run.audit=true", f"secagg={secagg}")), tmp_path / "logs")
    came, told = Counter(), Counter()
    for node, size, _ in wire.came:
        came[names[node]] += size
    assert len(wire.came) > 20
    for name in names.values():
        receipts = events(tmp_path / "logs", name, "left", "refused", "failed")
        assert len(receipts) == sum(names[node] == name for node, _, _ in wire.came)
        told[name] = sum(receipt["bytes"] for receipt in receipts)
    assert told == came
    # And the coordinator's own record is the same, message by message, to the hash.
    theirs = {(event["site"], event["content"]) for event in events(tmp_path / "logs", "coordinator", "came")}
    ours = {(n, receipt["content"]) for n in names.values() for receipt in events(tmp_path / "logs", n, "left")}
    assert ours == theirs
    assert wire.keys_seen == ({"arrays", "audit"} if secagg == "masked" else {"arrays", "metrics", "audit"})


def test_both_sides_countersign_in_every_round(smoke, tmp_path):
    _, names = conducted(checked(smoke("rounds=3", "run.audit=true")), tmp_path / "logs")
    folder = tmp_path / "logs"
    coordinator = verified(folder / "audit" / "coordinator")
    assert not events(folder, "coordinator", "doubted")
    for name in names.values():
        site = verified(folder / "audit" / name)
        assert not events(folder, name, "doubted")
        # All but what the last message brought.
        assert len(site.events) - site.countersigned["fedhealth/coordinator/simulation"] <= 3
        assert len(coordinator.events) - coordinator.countersigned[f"fedhealth/site/{name}"] <= 2 * len(names) + 1
    assert cli.main(["audit", "verify", str(folder)]) == 0


def test_logs_change_nothing_that_is_computed(smoke, tmp_path):
    from fedhealth.simulate import open_run, run

    found = []
    for audit in ("false", "true"):
        simulation = checked(smoke("rounds=2", f"run.audit={audit}", f"run.folder={tmp_path / audit}"))
        run(simulation, open_run(simulation), lambda row: None)
        found.append((tmp_path / audit / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert not (tmp_path / "false" / "audit").exists()


def test_a_refusal_is_a_receipt_too(smoke, tmp_path):
    """One hospital's floor is above its patients; the round goes on without it."""
    simulation = checked(smoke("rounds=1", "rules.quorum=2", "run.audit=true"))
    own = tmp_path / "galen-heart"
    own.mkdir()
    text = (
        (simulation.folders["galen-heart"] / "site.yaml").read_text().replace("min_patients:", "min_patients: 9999 #")
    )
    (own / "site.yaml").write_text(text)
    simulation.folders["galen-heart"] = own
    wire, names = conducted(simulation, tmp_path / "logs")
    found = events(tmp_path / "logs", "galen-heart", "left", "refused", "failed")
    assert {(event["event"], event.get("code")) for event in found} == {("refused", "cohort_too_small")}
    assert sum(event["bytes"] for event in found) == sum(
        size for node, size, _ in wire.came if names[node] == "galen-heart"
    )
    lost = events(tmp_path / "logs", "coordinator", "lost")
    assert {(event["site"], event["reason"]) for event in lost} == {("galen-heart", "refused:cohort_too_small")}
    assert "9999" not in (tmp_path / "logs" / "audit" / "galen-heart" / "log.jsonl").read_text()


NAMES = ["ash", "birch", "cedar"]
FEATURES = {
    "name": "small",
    "features": [{"name": "age", "range": [0, 120]}, {"name": "smoker", "kind": "binary"}],
    "groups": {"age_band": {"column": "age", "cuts": [60.0]}},
}
TASK = {"name": "small", "title": "Death", "outcome": "died"}


@pytest.fixture
def deployed(smoke, tmp_path, request):
    """Three hospitals with files of patients, one patient's values planted, whose nodes know nothing but their folder."""
    new_key(tmp_path / "anna.key")
    anna = signing_key(tmp_path / "anna.key")
    for at, name in enumerate(NAMES):
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        rows = [f"{name}-{i},{30 + (7 * i + at) % 60},{i % 2},{int((i * 5 + at) % 11 > 6)}" for i in range(120)]
        rows[17] = f"{CANARY_ID},{CANARY_AGE},1,1"
        (folder / "patients.csv").write_text("\n".join(["mrn,age,smoker,died", *rows]) + "\n")
        (folder / "site.yaml").write_text(
            f"name: {name}\ntitle: {name}\npolicy: {{min_patients: 10, min_cell: 5, min_cohort: 3}}\n"
            f'source: {{kind: csv, path: patients.csv, patient: mrn}}\nproposers: {{Anna: "{public(anna)}"}}\n'
        )
        Keys(folder / "keys").init()
    config = smoke("rounds=2", "rules.quorum=2") | {"features": FEATURES, "task": TASK}
    config["sites"] = {"folder": str(tmp_path / "sites"), "names": NAMES}
    simulation = checked(config)
    signed = propose(simulation.document, purpose="A test", expires="2999-01-01", name="Anna", key=anna)
    return simulation, signed, tmp_path


def approve(signed, folder):
    key = Keys(folder / "keys").identity
    proposers = {"Anna": signed.proposal.proposer.key}
    Approvals(folder, folder.name, public(key), proposers).approve(
        signed, until=date.today().isoformat(), by="Dr Lind", key=key
    )


def ask(document, tmp_path, *, study_digest):
    """Conduct the study over nodes as a deployment starts them; what came back, by hospital."""
    nodes = [
        {"site-folder": str(tmp_path / "sites" / name), "memory-folder": str(tmp_path / "memory" / name)}
        for name in NAMES
    ]
    config = {"fh-study": packed(document), "fh-folder": str(tmp_path / "run")}
    (tmp_path / "run").mkdir(exist_ok=True)
    wire, names = Wire(app, nodes, config), dict(enumerate(NAMES, start=FIRST_NODE))
    new_key(tmp_path / "coordinator.key")
    log = Log(tmp_path / "coordinator", "fedhealth/coordinator/test", signing_key(tmp_path / "coordinator.key"))
    grid = AuditedGrid(wire, names, log, study_digest)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    make(lambda row: None)(policed(grid, names, study_from(document), study_digest, poll_s=0), context)
    return wire


def said_by(tmp_path, name):
    events = verified(tmp_path / "sites" / name / "audit").events
    return {event.get("code", event["event"]) for event in events if event["event"] in ("left", "refused", "failed")}


def test_a_hospital_answers_the_study_it_approved_and_the_round_goes_on_without_the_others(deployed):
    simulation, signed, tmp_path = deployed
    for name in NAMES[:2]:
        approve(signed, tmp_path / "sites" / name)
    ask(simulation.document, tmp_path, study_digest=simulation.digest)
    assert [said_by(tmp_path, name) for name in NAMES] == [{"left"}, {"left"}, {"not_approved"}]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sorted(results["sums"]) == NAMES[:2]
    assert {failure["reason"] for failure in results["failed_last"]} == {f"refused: {REFUSALS['not_approved']}"}
    # Not even its cohort was read for a study that nobody there approved.
    assert not (tmp_path / "memory" / NAMES[2]).exists()


@pytest.mark.parametrize("change", ["one value of the study", "the record", "nobody approved"])
def test_a_study_that_is_not_the_approved_one_gets_nothing_from_anybody(deployed, change):
    simulation, signed, tmp_path = deployed
    document, codes = simulation.document, {"not_approved"}
    for name in NAMES if change != "nobody approved" else []:
        approve(signed, tmp_path / "sites" / name)
        if change == "the record":
            path = tmp_path / "sites" / name / "approved" / f"{simulation.digest}.json"
            path.write_bytes(path.read_bytes().replace(b"Dr Lind", b"Dr Ling"))
            codes = {"approval_broken"}
    if change == "one value of the study":
        document = {**document, "seed": document["seed"] + 1}
    with pytest.raises(QuorumError, match=REFUSALS[min(codes)]):
        ask(document, tmp_path, study_digest=digest(document))
    assert [said_by(tmp_path, name) for name in NAMES] == [codes] * 3


def test_an_approval_in_the_run_config_is_nobodys(deployed):
    """What the coordinator sends along can't stand in for a hospital's own word."""
    simulation, _, tmp_path = deployed
    node = {"site-folder": str(tmp_path / "sites" / "ash"), "memory-folder": str(tmp_path / "memory")}
    config = {"fh-study": packed(simulation.document), "approved": simulation.digest, "audit-folder": ""}
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=config)
    reply = app(write_request("query.shape", 1), context)
    assert reason_of(reply) == f"refused: {REFUSALS['not_approved']}"


def broken_row(folder):
    """The hospital's file breaks in the row of the patient to look for."""
    path, whole = folder / "patients.csv", f"{CANARY_ID},{CANARY_AGE},1,1"
    path.write_text(path.read_text().replace(whole, f"{whole},{CANARY_ID}"))


def telling_name(folder):
    """The patient's name is in a file's, and so in the text of the error that does not find it."""
    path = folder / "site.yaml"
    path.write_text(path.read_text().replace("patients.csv", f"{CANARY_ID}.csv"))


@pytest.mark.parametrize("spoil", [broken_row, telling_name])
def test_no_patient_is_in_a_log_a_receipt_or_a_reason(deployed, capsys, caplog, spoil):
    simulation, signed, tmp_path = deployed
    for name in NAMES:
        approve(signed, tmp_path / "sites" / name)
    spoil(tmp_path / "sites" / "cedar")
    ask(simulation.document, tmp_path, study_digest=simulation.digest)
    assert [said_by(tmp_path, name) for name in NAMES] == [{"left"}, {"left"}, {"failed"}]
    for name in NAMES:
        assert cli.main(["audit", "tail", str(tmp_path / "sites" / name), "-n", "99"]) == 0
        assert cli.main(["site", "receipts", "--site", str(tmp_path / "sites" / name)]) == 0
    shown = capsys.readouterr()
    logs = [
        path
        for folder in (tmp_path / "sites", tmp_path / "coordinator")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    logs = [path for path in logs if path.name not in ("patients.csv", "site.yaml")]
    texts = [shown.out, shown.err, *(path.read_text() for path in logs)]
    assert len(texts) > 20
    for text in texts:
        assert CANARY_ID not in text
        assert CANARY_AGE not in text
        assert "ash-3" not in text
    # That text exists: it stays in the hospital's own log, under the incident that left.
    incidents = {
        event["incident"] for event in verified(tmp_path / "sites" / "cedar" / "audit").events if "incident" in event
    }
    assert len(incidents) == 1
    assert f"incident={min(incidents)}" in caplog.text
    assert (CANARY_ID in caplog.text) == (spoil is telling_name)


def test_what_can_not_be_logged_does_not_leave(deployed, monkeypatch):
    simulation, signed, tmp_path = deployed
    for name in NAMES:
        approve(signed, tmp_path / "sites" / name)
    path = tmp_path / "sites" / "ash" / "audit"
    Log(path, "fedhealth/site/ash", Keys(tmp_path / "sites" / "ash" / "keys").identity).append("started", process="x")
    (path / "log.jsonl").write_text("")
    wire = ask(simulation.document, tmp_path, study_digest=simulation.digest)
    theirs = [size for node, size, _ in wire.came if node == FIRST_NODE]
    # A code each time, and not one number.
    assert max(theirs) < 40
    lost = [event["reason"] for event in verified(tmp_path / "coordinator").events if event["event"] == "lost"]
    assert lost
    assert all(reason.startswith("failed:IntegrityError:") for reason in lost)
