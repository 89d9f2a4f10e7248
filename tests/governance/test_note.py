"""Signed notes: a published example verifies, and nothing else than what was signed does."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.governance import note
from fedhealth.governance.note import Checkpoint, PublicKey

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = PublicKey.of("fedhealth/site/norrvik", KEY)
POINT = Checkpoint(LOG.name, 3, hashlib.sha256(b"root").digest())


def test_the_example_of_the_notes_format_verifies():
    # The example key and note in the documentation of Go's package note, whose names may have capitals.
    name, id_, key = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    found = object.__new__(PublicKey)
    object.__setattr__(found, "name", name)
    object.__setattr__(found, "key", base64.b64decode(key)[1:])
    assert found.id(note.PLAIN).hex() == id_ == signature[:4].hex()
    assert found.has_signed(text.encode(), signature[4:])
    assert str(found).split("+")[1:] == [id_, key]


def test_a_checkpoint_is_its_own_three_lines_and_opens_with_its_key():
    found = note.signed(POINT.text, LOG.name, KEY)
    assert found.splitlines()[:2] == ["fedhealth/site/norrvik", "3"]
    assert found.splitlines()[3] == ""
    assert note.opened(found, LOG) == POINT


def test_the_key_reads_back_from_its_text():
    assert PublicKey.read(f"{LOG}\n") == LOG


@pytest.mark.parametrize("text", ["", "a", "a+b+c", "Norrvik+00000000+AAAA", f"{LOG}A", f"x{LOG}"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(SettingError, match="a log's key must"):
        PublicKey.read(text)


def test_no_byte_of_a_signed_checkpoint_can_be_changed():
    whole = note.signed(POINT.text, LOG.name, KEY)
    for at, sign in enumerate(whole):
        changed = whole[:at] + ("B" if sign == "A" else "A") + whole[at + 1 :]
        with pytest.raises(IntegrityError, match="a checkpoint"):
            note.opened(changed, LOG)


def test_a_signed_note_that_is_no_checkpoint_is_refused():
    for text in (f"{POINT.text}more\n", "fedhealth/site/norrvik\n03\n" + POINT.text.split("\n")[2] + "\n", "words\n"):
        with pytest.raises(IntegrityError, match="a checkpoint must be"):
            note.opened(note.signed(text, LOG.name, KEY), LOG)


def test_a_countersignature_says_who_saw_the_log_when():
    other = Ed25519PrivateKey.generate()
    coordinator = PublicKey.of("fedhealth/coordinator/heart", other)
    line = note.countersignature(POINT.text, coordinator.name, other, time_s=1_700_000_000)
    both = note.signed(POINT.text, LOG.name, KEY) + line
    assert note.opened(both, LOG) == POINT
    assert note.seen_at(both, coordinator) == 1_700_000_000
    assert note.seen_at(both, PublicKey.of(coordinator.name, KEY)) is None
    assert note.seen_at(both.replace("\n3\n", "\n4\n"), coordinator) is None
    # By the format's own words: the message, and the id that names the kind of key.
    content = base64.b64decode(line.split(" ")[2])
    assert content[:4] == hashlib.sha256(b"fedhealth/coordinator/heart\n\x04" + coordinator.key).digest()[:4]
    assert content[4:12] == (1_700_000_000).to_bytes(8, "big")
    other.public_key().verify(content[12:], b"cosignature/v1\ntime 1700000000\n" + POINT.text.encode())
