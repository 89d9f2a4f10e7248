"""Enrolment: a request is its keys' own, is as it was signed, is young, and counts once."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.study import canonical
from fedhealth.runtime.deployment.enrolment import CARD, Register, read_request, write_request

CARDS = {**dict.fromkeys(CARD, ""), "simulated": False, "min_cell": 5, "min_cohort": 3, "shared": True}


def keys():
    return ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()


def request(name: str = "elm", made_with=None) -> bytes:
    return write_request(name, *(made_with or keys()), CARDS)


def test_a_request_reads_as_it_was_written_and_holds_no_private_key():
    transport, identity = keys()
    content = write_request("elm", transport, identity, CARDS)
    found = read_request(content)
    assert (found.name, found.identity, found.card) == ("elm", identity.public_key().public_bytes_raw().hex(), CARDS)
    assert identity.private_bytes_raw().hex() not in content.decode()
    assert "PRIVATE" not in content.decode()


def test_a_request_changed_by_one_word_or_with_another_key_in_it_is_refused():
    row = json.loads(request())
    other = json.loads(request())
    for changed in (
        {**row, "name": "oak"},
        {**row, "identity": other["identity"]},
        {**row, "transport": other["transport"]},
    ):
        with pytest.raises(IntegrityError, match="signed by both of its keys"):
            read_request(json.dumps(changed).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"signatures": 1}', b"[" * 5000])
def test_what_is_no_request_gets_one_line(content):
    with pytest.raises(SettingError, match="as fedhealth site init wrote it"):
        read_request(content)


def test_an_old_request_is_refused():
    transport, identity = keys()
    row = json.loads(write_request("elm", transport, identity, CARDS))
    del row["signatures"]
    row["made"] = (datetime.now(UTC) - timedelta(days=31)).isoformat(timespec="seconds")
    signed = canonical(row).encode()
    row["signatures"] = {
        "transport": base64.b64encode(transport.sign(signed, ec.ECDSA(hashes.SHA384()))).decode(),
        "identity": base64.b64encode(identity.sign(signed)).decode(),
    }
    with pytest.raises(SettingError, match="less than 30 days old"):
        read_request(json.dumps(row).encode())


def test_a_request_counts_once_also_after_the_hospital_was_revoked(tmp_path):
    register, wish = Register(tmp_path / "sites.json"), read_request(request())
    register.check(wish)
    register.add(wish, 7)
    with pytest.raises(SettingError, match="must be used once"):
        register.check(wish)
    assert register.revoke("elm").node_id == 7
    assert register.enrolled() == {}
    with pytest.raises(SettingError, match="must be used once"):
        register.check(wish)


def test_a_taken_name_and_a_key_of_another_hospitals_are_refused(tmp_path):
    register, pair = Register(tmp_path / "sites.json"), keys()
    register.add(read_request(request(made_with=pair)), 7)
    with pytest.raises(SettingError, match="found elm enrolled already"):
        register.check(read_request(request()))
    with pytest.raises(SettingError, match="found a key of elm's"):
        register.check(read_request(request("oak", (pair[0], Ed25519PrivateKey.generate()))))
    with pytest.raises(SettingError, match="found no 'ash'"):
        register.revoke("ash")
