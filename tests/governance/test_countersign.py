"""Two parties that countersign each other's logs, message by message."""

from __future__ import annotations

import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import IntegrityError
from fedhealth.governance import note
from fedhealth.governance.audit import Log, verified
from fedhealth.governance.countersign import Countersigner

SITE, COORDINATOR = "fedhealth/site/norrvik", "fedhealth/coordinator/heart"


@pytest.fixture
def both(tmp_path):
    return tuple(
        Countersigner(Log(tmp_path / name.replace("/", "-"), name, Ed25519PrivateKey.generate()))
        for name in (SITE, COORDINATOR)
    )


def one_round(site, coordinator, *, lost=False):
    """A request and its reply; both logs grow by an event, and by one more that is no message."""
    asked = coordinator.log.append("asked", round=1)
    request = coordinator.says(SITE, asked.checkpoint)
    site.log.append("started", process="another study")
    answered = site.log.append("asked", round=1)
    peer = site.hears(request)
    reply = site.says(peer, answered.checkpoint)
    coordinator.log.append("came", round=1)
    if not lost:
        coordinator.hears(reply, peer=SITE)


def events(party):
    return [event["event"] for event in verified(party.log.folder).events]


def test_after_each_round_each_holds_the_others_signature(both):
    site, coordinator = both
    for _ in range(5):
        one_round(site, coordinator)
    assert "doubted" not in events(site) + events(coordinator)
    # What a reply says is countersigned in the next request, so the last one still waits.
    assert verified(site.log.folder).countersigned == {COORDINATOR: 8}
    assert verified(coordinator.log.folder).countersigned == {SITE: 9}


def test_what_lies_beside_a_log_is_its_own_checkpoint_signed_by_both(both):
    site, coordinator = both
    one_round(site, coordinator)
    one_round(site, coordinator)
    (path,) = (site.log.folder / "countersigned").iterdir()
    text = path.read_text()
    assert note.opened(text, site.log.key).size == 2
    assert note.seen_at(text, coordinator.log.key) is not None


def test_a_lost_reply_is_made_up_for(both):
    site, coordinator = both
    one_round(site, coordinator)
    one_round(site, coordinator, lost=True)
    one_round(site, coordinator, lost=True)
    one_round(site, coordinator)
    one_round(site, coordinator)
    assert "doubted" not in events(site) + events(coordinator)
    assert verified(coordinator.log.folder).countersigned == {SITE: 9}
    assert verified(site.log.folder).countersigned == {COORDINATOR: 8}


def test_a_log_that_was_written_anew_gets_no_signature_and_is_told_of(both, tmp_path):
    site, coordinator = both
    one_round(site, coordinator)
    one_round(site, coordinator)
    held = (coordinator.log.folder / "seen" / SITE.replace("/", "_")).read_text()
    shutil.rmtree(site.log.folder)
    anew = Countersigner(Log(site.log.folder, SITE, site.log.signer))
    for _ in range(20):
        anew.log.append("started", process="nothing happened here")
    one_round(anew, coordinator)
    assert "doubted" in events(coordinator)
    after = json.loads((coordinator.log.folder / "seen" / SITE.replace("/", "_")).read_text())
    assert (after["size"], after["signature"]) == (json.loads(held)["size"], json.loads(held)["signature"])
    # And the checkpoint that it still holds convicts it.
    with pytest.raises(IntegrityError, match="another history than the checkpoint that was kept elsewhere"):
        verified(anew.log.folder, against=after["checkpoint"])


def test_a_party_that_never_proves_anything_is_doubted_and_not_signed_for(both):
    site, coordinator = both
    one_round(site, coordinator)
    before = coordinator._known(SITE)["size"]
    for number in range(2, 5):
        said = site.says(COORDINATOR, site.log.append("asked", round=number).checkpoint)
        coordinator.log.append("came", round=number)
        coordinator.hears({**said, "from": 0, "proof": ""}, peer=SITE)
    doubts = [event["why"] for event in verified(coordinator.log.folder).events if event["event"] == "doubted"]
    assert doubts == ["no_proof"]
    assert coordinator._known(SITE)["size"] == before


def test_a_log_that_was_cut_is_doubted_where_it_is_told_of_next(both):
    site, coordinator = both
    one_round(site, coordinator)
    old = site.says(COORDINATOR, site.log.append("asked", round=2).checkpoint)
    one_round(site, coordinator)
    coordinator.hears(old, peer=SITE)
    assert verified(coordinator.log.folder).events[-1]["why"] == "older"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": "none"}, "no_key"),
        ({"checkpoint": "fedhealth/site/norrvik\n9\n"}, "unreadable"),
        ({"proof": "AAAA"}, "unreadable"),
        ({"from": "many"}, "unreadable"),
    ],
)
def test_what_can_not_be_read_is_doubted_and_not_signed(both, change, why):
    site, coordinator = both
    one_round(site, coordinator)
    said = {**site.says(COORDINATOR, site.log.append("asked", round=2).checkpoint), **change}
    coordinator.hears(said, peer=SITE)
    last = verified(coordinator.log.folder).events[-1]
    assert (last["event"], last["why"], last["peer"]) == ("doubted", why, SITE)


def test_another_key_under_a_known_name_is_doubted(both, tmp_path):
    site, coordinator = both
    one_round(site, coordinator)
    thief = Countersigner(Log(tmp_path / "thief", SITE, Ed25519PrivateKey.generate()))
    coordinator.hears(thief.says(COORDINATOR, thief.log.append("asked", round=1).checkpoint), peer=SITE)
    assert verified(coordinator.log.folder).events[-1]["why"] == "another_key"


def test_a_party_whose_key_is_known_beforehand_is_held_to_it(both):
    site, coordinator = both
    said = site.says("", site.log.append("asked", round=1).checkpoint)
    coordinator.log.append("came", round=1)
    coordinator.hears(said, peer=SITE, key=bytes(32))
    assert verified(coordinator.log.folder).events[-1]["why"] == "another_key"
    coordinator.hears(said, peer=SITE, key=site.log.key.key)
    assert len(verified(coordinator.log.folder).events) == 2


def test_a_party_says_nothing_in_anothers_name(both):
    site, coordinator = both
    said = site.says("", site.log.append("asked", round=1).checkpoint)
    coordinator.hears(said, peer="fedhealth/site/cleveland")
    assert verified(coordinator.log.folder).events[-1]["why"] == "another_name"
    site.hears(said)
    assert verified(site.log.folder).events[-1]["why"] == "another_name"
