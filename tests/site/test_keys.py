"""A hospital's keys: made once, for its owner alone, and never a guess where they are not whole."""

from __future__ import annotations

import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedhealth.cli import main
from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.places import builtin_sites
from fedhealth.site.keys import Keys, write_private


def test_keys_are_made_once_and_stay(tmp_path):
    keys = Keys(tmp_path / "keys")
    public, seal = keys.init(), keys.seal
    assert Keys(tmp_path / "keys").init() == public
    assert keys.seal == seal
    assert Keys(tmp_path / "others").init() != public


def test_the_public_key_verifies_what_the_identity_signs(tmp_path):
    keys = Keys(tmp_path / "keys")
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.init()))
    public.verify(keys.identity.sign(b"terms"), b"terms")


def test_keys_are_for_their_owner_alone(tmp_path):
    Keys(tmp_path / "keys").init()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_keys_that_others_may_read_are_refused(tmp_path):
    keys = Keys(tmp_path / "keys")
    keys.init()
    (keys.folder / "identity").chmod(0o640)
    with pytest.raises(SettingError, match="must be its owner's alone"):
        _ = keys.identity


@pytest.mark.parametrize("content", ["", "ab", "z" * 64, "00" * 31])
def test_what_is_no_key_is_refused_without_being_quoted(tmp_path, content):
    write_private(tmp_path / "identity", content.encode())
    with pytest.raises(IntegrityError, match="must be a key of 64 hex digits, found something else"):
        _ = Keys(tmp_path).identity


def test_a_hospital_without_keys_is_told_how_to_make_them(tmp_path):
    with pytest.raises(SettingError, match="Run fedhealth site keys init"):
        _ = Keys(tmp_path).seal


def test_a_private_file_is_replaced_whole(tmp_path):
    for content in (b"first", b"second"):
        write_private(tmp_path / "inside" / "file", content)
    assert (tmp_path / "inside" / "file").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["file"]


def test_the_command_makes_a_hospitals_keys_and_prints_the_public_one(tmp_path, capsys):
    shutil.copytree(builtin_sites() / "norrvik", tmp_path / "norrvik")
    assert main(["site", "keys", "init", "--site", str(tmp_path / "norrvik")]) == 0
    public = Keys(tmp_path / "norrvik" / "keys").identity.public_key().public_bytes_raw().hex()
    assert capsys.readouterr().out == f"norrvik: {public}\n"


def test_the_command_makes_no_keys_where_there_is_no_hospital(tmp_path):
    assert main(["site", "keys", "init", "--site", str(tmp_path)]) == 2
    assert not (tmp_path / "keys").exists()
