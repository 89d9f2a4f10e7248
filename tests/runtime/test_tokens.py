"""Bearer tokens: only their hashes are kept, by a file that is its owner's alone."""

from __future__ import annotations

import pytest

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.runtime.deployment.tokens import Tokens


@pytest.fixture
def tokens(tmp_path):
    return Tokens(tmp_path / "tokens.json")


def test_a_token_is_not_in_the_file_and_the_file_is_its_owners(tokens):
    token = tokens.issue("ann", "auditor")
    assert token not in tokens.path.read_text()
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    assert (tokens.bearer(token).name, tokens.bearer(token + "x")) == ("ann", None)


@pytest.mark.parametrize(
    ("name", "role", "line"),
    [
        ("ann", "king", "`role` must be a known role, found 'king'"),
        ("a\nb", "auditor", "a token's name must be letters"),
    ],
)
def test_a_wrong_role_or_name_gets_one_line(tokens, name, role, line):
    with pytest.raises(SettingError, match=line):
        tokens.issue(name, role)


def test_a_file_that_others_may_read_or_that_was_cut_is_refused(tokens):
    token = tokens.issue("ann", "auditor")
    tokens.path.chmod(0o644)
    with pytest.raises(SettingError, match="must be its owner's alone"):
        tokens.bearer(token)
    tokens.path.chmod(0o600)
    tokens.path.write_text("{")
    with pytest.raises(IntegrityError):
        tokens.bearer(token)
