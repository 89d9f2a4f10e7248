"""A key is its owner's, whole and random enough to be one."""

from __future__ import annotations

import os

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.governance.key_file import key_from


def written(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_is_every_byte_of_its_file(tmp_path):
    assert key_from(written(tmp_path / "key", bytes(range(40)))) == bytes(range(40))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610])
def test_a_key_that_others_may_touch_is_refused(tmp_path, mode):
    with pytest.raises(SettingError, match=f"found rights {mode:o}"):
        key_from(written(tmp_path / "key", bytes(32), mode))


def test_a_short_key_is_refused_without_being_told(tmp_path):
    with pytest.raises(SettingError, match="found 6") as refusal:
        key_from(written(tmp_path / "key", b"secret"))
    assert "secret" not in str(refusal.value)


def test_a_missing_key_is_refused_with_how_to_make_one(tmp_path):
    with pytest.raises(SettingError, match="urandom"):
        key_from(tmp_path / "key")


def test_a_key_of_another_user_is_refused(tmp_path, monkeypatch):
    path, owner = written(tmp_path / "key", bytes(32)), 4711
    if os.geteuid() == 0:
        os.chown(path, owner, owner)
    else:
        # Who can't give a file away is somebody else instead.
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SettingError, match=f"found user {owner}'s"):
        key_from(path)
