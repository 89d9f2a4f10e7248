"""Where what can be made again is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhealth.places import cache_folder


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (None, "/home/ada/.cache/fedhealth"),
        ("", "/home/ada/.cache/fedhealth"),
        ("/scratch", "/scratch/fedhealth"),
        ("~/kept", "/home/ada/kept/fedhealth"),
        # It would name another folder, and perhaps another user's, wherever a command starts.
        ("kept", None),
        (".", None),
        ("~no-such-user-here/kept", None),
    ],
)
def test_the_cache_is_where_its_user_says_and_nowhere_by_a_relative_path(monkeypatch, chosen, found):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if chosen is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    assert cache_folder() == (found and Path(found))
