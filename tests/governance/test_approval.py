"""A study is approved by a person at the hospital, signed, for the time and the code they saw; nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import REFUSALS, Refused, SettingError
from fedhealth.core.study import canonical, digest
from fedhealth.governance import approval, summary
from fedhealth.governance.approval import OneStudy
from fedhealth.governance.proposal import Signed
from fedhealth.governance.signing import public


def refused(ask, *words, **more):
    with pytest.raises(Refused) as refusal:
        ask(*words, **more)
    assert refusal.value.code in REFUSALS
    return refusal.value.code


def test_nothing_is_approved_by_default(scene):
    assert refused(scene.approvals.require, digest(scene.document)) == "not_approved"
    assert scene.approvals.digests() == set()


def test_an_approved_study_may_be_answered_until_its_last_day(scene):
    signed = scene.proposed()
    scene.approve(signed, until="2027-01-31")
    scene.approvals.require(signed.proposal.digest)
    assert scene.approvals.digests() == {signed.proposal.digest}
    scene.on("2027-01-31").approvals.require(signed.proposal.digest)
    later = scene.on("2027-02-01").approvals
    assert (refused(later.require, signed.proposal.digest), later.digests()) == ("approval_expired", set())


@pytest.mark.parametrize("key", ["seed", "rounds", "title"])
def test_a_study_that_differs_in_one_value_is_another_study(scene, key):
    scene.approve(scene.proposed())
    changed = {**scene.document, key: scene.document[key] * 2}
    assert refused(scene.approvals.require, digest(changed)) == "not_approved"


def test_a_denial_ends_an_approval_and_an_approval_a_denial(scene):
    signed = scene.proposed()
    scene.approve(signed)
    scene.on("2026-11-26").deny(signed)
    assert refused(scene.approvals.require, signed.proposal.digest) == "study_denied"
    scene.on("2026-11-27").approve(signed)
    scene.approvals.require(signed.proposal.digest)


def test_an_old_approval_put_back_beside_a_denial_does_not_count(scene):
    signed = scene.proposed()
    scene.approve(signed)
    path = scene.folder / "approved" / f"{signed.proposal.digest}.json"
    kept = path.read_bytes()
    scene.on("2026-11-26").deny(signed)
    path.write_bytes(kept)
    assert refused(scene.approvals.require, signed.proposal.digest) == "study_denied"


def test_a_foreign_proposer_is_refused_also_after_the_approval(scene):
    signed = scene.proposed()
    stranger = replace(scene.approvals, proposers={"Anna Berg": public(Ed25519PrivateKey.generate())})
    assert refused(stranger.approve, signed, until="2027-01-31", by="Dr Lind", key=scene.norrvik) == "proposer_unknown"
    scene.approve(signed)
    assert refused(stranger.require, signed.proposal.digest) == "proposer_unknown"


def test_an_expired_study_can_not_be_approved(scene):
    signed = scene.proposed(expires="2026-12-31")
    assert refused(scene.on("2027-01-01").approve, signed) == "approval_expired"


@pytest.mark.parametrize("until", ["2026-11-24", "2027-07-01"])
def test_an_approval_holds_within_the_studys_own_days(scene, until):
    with pytest.raises(SettingError, match="must lie between today and the study's last day 2027-06-30"):
        scene.approve(scene.proposed(), until=until)


def test_other_code_than_was_proposed_does_not_run(scene, monkeypatch):
    signed = scene.proposed()
    scene.approve(signed)
    # As after an upgrade.
    monkeypatch.setattr(approval, "code_hash", lambda: "f" * 64)
    assert refused(scene.approvals.require, signed.proposal.digest) == "another_code"
    assert refused(scene.approve, signed) == "another_code"


def test_a_study_without_this_hospital_can_not_be_approved(scene):
    assert refused(scene.approve, scene.proposed(roster=["galen-heart", "harrow-fen"])) == "not_on_roster"


def test_a_masked_study_names_the_hospital_by_its_own_key(scene):
    others = {name: public(Ed25519PrivateKey.generate()) for name in ("galen-heart", "harrow-fen")}
    right = scene.proposed(identities={**others, "norrvik": public(scene.norrvik)})
    scene.approve(right)
    wrong = scene.proposed(identities={**others, "norrvik": public(Ed25519PrivateKey.generate())})
    assert refused(scene.approve, wrong) == "not_on_roster"


def edit_until(record):
    record["decision"]["until"] = "2099-01-01"


def edit_study(record):
    record["decision"]["proposal"]["study"]["rounds"] = 1000


def resign(record):
    """By somebody who has a key, and not the hospital's."""
    text = canonical(record["decision"]).encode()
    record["signature"] = Ed25519PrivateKey.generate().sign(approval.CONTEXT + text).hex()


@pytest.mark.parametrize("change", [edit_until, edit_study, resign])
def test_a_record_that_was_edited_does_not_count(scene, change):
    signed = scene.proposed()
    scene.approve(signed)
    path = scene.folder / "approved" / f"{signed.proposal.digest}.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(canonical(record) + "\n")
    assert refused(scene.approvals.require, signed.proposal.digest) == "approval_broken"
    assert scene.approvals.last("smoke") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"{", b"[]", b"\xff"])
def test_a_file_that_is_no_record_does_not_count(scene, content):
    name = digest(scene.document)
    (scene.folder / "approved").mkdir(parents=True)
    (scene.folder / "approved" / f"{name}.json").write_bytes(content)
    assert refused(scene.approvals.require, name) == "approval_broken"


def test_the_record_of_one_study_does_not_count_for_another(scene):
    signed, other = scene.proposed(), scene.proposed(rounds=9)
    scene.approve(signed)
    path = scene.folder / "approved" / f"{signed.proposal.digest}.json"
    path.rename(path.with_name(f"{other.proposal.digest}.json"))
    assert refused(scene.approvals.require, other.proposal.digest) == "approval_broken"


def test_a_denial_renamed_into_an_approval_does_not_count(scene):
    signed = scene.proposed()
    scene.deny(signed)
    path = scene.folder / "denied" / f"{signed.proposal.digest}.json"
    (scene.folder / "approved").mkdir()
    path.rename(scene.folder / "approved" / path.name)
    assert refused(scene.approvals.require, signed.proposal.digest) == "approval_broken"


def test_a_proposal_signed_by_nobody_counts_for_nothing_even_in_a_signed_record(scene):
    signed = scene.proposed()
    forged = Signed(replace(signed.proposal, purpose="Something else"), signed.signature)
    scene.approve(forged)
    assert refused(scene.approvals.require, signed.proposal.digest) == "approval_broken"


def test_records_are_for_their_owner_alone(scene):
    signed = scene.proposed()
    scene.approve(signed)
    assert (scene.folder / "approved" / f"{signed.proposal.digest}.json").stat().st_mode & 0o077 == 0


def test_a_simulated_hospital_approves_the_one_study_it_is_made_for():
    OneStudy("a" * 64).require("a" * 64)
    assert refused(OneStudy("a" * 64).require, "b" * 64) == "study_changed"


def test_the_last_approval_is_of_the_same_study_where_there_is_one(scene):
    assert scene.approvals.last("smoke") is None
    scene.approve(scene.proposed())
    scene.on("2026-11-26").approve(scene.proposed(rounds=5))
    scene.on("2026-11-27").approve(scene.proposed(name="other"))
    assert scene.approvals.last("smoke").signed.proposal.study["rounds"] == 5
    assert scene.approvals.last("third").signed.proposal.study["name"] == "other"


def test_what_has_changed_is_said_in_words(scene):
    scene.approve(scene.proposed())
    last = scene.approvals.last("smoke")
    assert summary.changes(scene.proposed().proposal, last) == []
    features = {**scene.document["features"], "features": scene.document["features"]["features"][:-1]}
    features["features"] = [*features["features"], {"name": "smoker", "kind": "binary"}]
    private = {"_target_": "fedhealth.privacy.dp_sgd.DpSgd", "epsilon": 8.0, "delta": 1e-5, "evaluate_every": None}
    changed = scene.proposed(
        rounds=9, features=features, privacy=private, roster=["cleveland", "harrow-fen", "norrvik"]
    )
    said = summary.changes(changed.proposal, last)
    assert ("features", "more is read: smoker") in said
    assert ("features", "no longer read: Bilirubin") in said
    assert ("hospitals", "new: cleveland") in said
    assert ("hospitals", "gone: galen-heart") in said
    assert ("rounds", "3 → 9") in said
    assert ("privacy", "Plain → DpSgd, with epsilon 8.0, delta 1e-05") in said
    assert any(about == "privacy" and words.startswith("was none: no bound") for about, words in said)
    assert not [words for _, words in said if words == "nothing → nothing"]
