"""The worker: approved studies only, by the installed app, and refusals and failures leave as codes."""

from __future__ import annotations

import json

import pytest
import yaml
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.core.study import digest, packed
from fedhealth.governance.approved import approve
from fedhealth.places import builtin_sites
from fedhealth.runtime import flower
from fedhealth.runtime.codec import metrics_of, reason_of
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.site.worker import answer
from fedhealth.study_document import document_of


@pytest.fixture
def hospital(tmp_path):
    folder = tmp_path / "port-amity"
    (folder / "state").mkdir(parents=True)
    (folder / "site.yaml").write_bytes((builtin_sites() / "port-amity" / "site.yaml").read_bytes())
    return SiteFolder(folder)


@pytest.fixture
def document(smoke):
    return document_of(smoke(), ["galen-heart", "harrow-fen", "port-amity"])


def ask(hospital: SiteFolder, study: str, purpose: str = "query.shape") -> Message:
    flower.begin_run(1)
    message = Message(RecordDict({"config": ConfigRecord({"server-round": 0})}), 7, purpose)
    flower.set_message_id(message, "a" * 64)
    return answer(hospital, message, {"fh-study": study})


def test_an_approved_study_is_answered(hospital, document):
    approve(hospital.path, digest(document))
    assert metrics_of(ask(hospital, packed(document)))["num-examples"] > 0


def test_a_study_that_is_not_approved_is_refused_and_so_is_one_changed_in_one_word(hospital, document):
    reply = ask(hospital, packed(document))
    assert reason_of(reply) == "refused: the study is not the one this hospital approved"
    approve(hospital.path, digest(document))
    assert reason_of(ask(hospital, packed({**document, "rounds": 4}))).startswith("refused")


def test_an_approval_taken_back_holds_from_the_next_message(hospital, document):
    file = approve(hospital.path, digest(document))
    assert ask(hospital, packed(document)).has_content()
    file.unlink()
    assert reason_of(ask(hospital, packed(document))).startswith("refused")


def test_a_paused_hospital_refuses_what_it_approved(hospital, document):
    approve(hospital.path, digest(document))
    hospital.pause(on=True)
    assert reason_of(ask(hospital, packed(document))) == "refused: the hospital has paused its client"
    hospital.pause(on=False)
    assert ask(hospital, packed(document)).has_content()


def test_a_part_that_is_not_in_the_package_is_never_imported(hospital, document, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Engine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = {**document, "engine": {"_target_": "evil.Engine"}}
    approve(hospital.path, digest(changed))
    assert ask(hospital, packed(changed), "train").has_error()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("study", ["", "nonsense", packed({}), "e30"])
def test_what_is_no_study_is_a_failure_with_a_number(hospital, study):
    assert "failed with" in reason_of(ask(hospital, study)) or "refused" in reason_of(ask(hospital, study))


def test_a_failure_tells_nothing_of_its_cause(hospital, document):
    row = yaml.safe_load((hospital.path / "site.yaml").read_text())
    row["source"] = {"kind": "csv", "path": "of-mrs-smith.csv"}
    (hospital.path / "site.yaml").write_text(yaml.safe_dump(row))
    approve(hospital.path, digest(document))
    reply = ask(hospital, packed(document))
    assert reply.error.reason.startswith("failed:DataError:")
    assert "smith" not in json.dumps(reply.error.reason)
