"""The worker: approved studies only, by the installed app, and refusals and failures leave as codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.core.manifest import load_manifest
from fedhealth.core.study import digest, packed
from fedhealth.governance.proposal import propose
from fedhealth.governance.signing import public
from fedhealth.places import builtin_sites
from fedhealth.runtime import flower
from fedhealth.runtime.codec import metrics_of, reason_of
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.site.approvals import approvals_of
from fedhealth.site.keys import Keys
from fedhealth.site.worker import answer
from fedhealth.study_document import document_of

PROPOSER = Ed25519PrivateKey.generate()


@pytest.fixture
def hospital(tmp_path):
    folder = tmp_path / "port-amity"
    (folder / "state").mkdir(parents=True)
    row = yaml.safe_load((builtin_sites() / "port-amity" / "site.yaml").read_text())
    (folder / "site.yaml").write_text(yaml.safe_dump({**row, "proposers": {"coordinator": public(PROPOSER)}}))
    Keys(folder / "keys").init()
    return SiteFolder(folder)


def approve(hospital: SiteFolder, document: dict) -> Path:
    """The hospital's approval of a study, for today."""
    today = datetime.now(UTC).date().isoformat()
    signed = propose(document, purpose="A test.", expires=today, name="coordinator", key=PROPOSER)
    approvals = approvals_of(load_manifest(hospital.path), hospital.path)
    approvals.approve(signed, until=today, by="a test", key=Keys(hospital.path / "keys").identity)
    return hospital.path / "approved" / f"{digest(document)}.json"


@pytest.fixture
def document(smoke):
    return document_of(smoke(), ["galen-heart", "harrow-fen", "port-amity"])


def ask(hospital: SiteFolder, study: str, purpose: str = "query.shape") -> Message:
    flower.begin_run(1)
    message = Message(RecordDict({"config": ConfigRecord({"server-round": 0})}), 7, purpose)
    flower.set_message_id(message, "a" * 64)
    return answer(hospital, message, {"fh-study": study})


def test_an_approved_study_is_answered(hospital, document):
    approve(hospital, document)
    assert metrics_of(ask(hospital, packed(document)))["num-examples"] > 0


def test_a_study_that_is_not_approved_is_refused_and_so_is_one_changed_in_one_word(hospital, document):
    reply = ask(hospital, packed(document))
    assert reason_of(reply) == "refused: the hospital has not approved the study"
    approve(hospital, document)
    assert reason_of(ask(hospital, packed({**document, "rounds": 4}))).startswith("refused")


def test_an_approval_taken_back_holds_from_the_next_message(hospital, document):
    file = approve(hospital, document)
    assert ask(hospital, packed(document)).has_content()
    file.unlink()
    assert reason_of(ask(hospital, packed(document))).startswith("refused")


def test_a_paused_hospital_refuses_what_it_approved(hospital, document):
    approve(hospital, document)
    hospital.pause(on=True)
    assert reason_of(ask(hospital, packed(document))) == "refused: the hospital has paused its client"
    hospital.pause(on=False)
    assert ask(hospital, packed(document)).has_content()


def test_a_part_that_is_not_in_the_package_is_never_imported(hospital, document, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Engine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = {**document, "engine": {"_target_": "evil.Engine"}}
    approve(hospital, changed)
    assert ask(hospital, packed(changed), "train").has_error()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("study", ["", "nonsense", packed({}), "e30"])
def test_what_is_no_study_is_a_failure_with_a_number(hospital, study):
    assert "failed with" in reason_of(ask(hospital, study)) or "refused" in reason_of(ask(hospital, study))


def test_a_manifest_that_is_changed_holds_from_the_next_message(hospital, document):
    manifest, approved = hospital.path / "site.yaml", approve(hospital, document)
    as_it_was = manifest.read_text()
    patients = metrics_of(ask(hospital, packed(document)))["num-examples"]
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(as_it_was), "source": {"kind": "csv", "path": "gone.csv"}}))
    assert "failed with DataError" in reason_of(ask(hospital, packed(document)))
    manifest.write_text(as_it_was)
    assert approved.is_file()
    assert metrics_of(ask(hospital, packed(document)))["num-examples"] == patients


def test_a_failure_tells_nothing_of_its_cause(hospital, document):
    row = yaml.safe_load((hospital.path / "site.yaml").read_text())
    row["source"] = {"kind": "csv", "path": "of-mrs-smith.csv"}
    (hospital.path / "site.yaml").write_text(yaml.safe_dump(row))
    approve(hospital, document)
    reply = ask(hospital, packed(document))
    assert reply.error.reason.startswith("failed:DataError:")
    assert "smith" not in json.dumps(reply.error.reason)
