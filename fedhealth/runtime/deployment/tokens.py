"""Bearer tokens of the people and processes that may speak to a coordinator, and what each role may do.

A token is 32 random bytes. Only its SHA-256 is kept, so whoever reads the file can't use it;
a token that is lost is replaced, not recovered.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedhealth.core.errors import IntegrityError, SettingError, did_you_mean
from fedhealth.core.private_file import read_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

#: What each role may do; whatever is not here is refused.
ROLES: dict[str, frozenset[str]] = {
    "coordinator": frozenset({"enroll", "submit", "stop", "list runs", "list sites", "read docs"}),
    "researcher": frozenset({"submit", "stop", "list runs", "list sites"}),
    "auditor": frozenset({"list runs", "list sites"}),
    "runtime": frozenset({"work"}),
}


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who holds a token, and as what."""

    name: str
    role: str

    def may(self, action: str) -> bool:
        """Whether the role allows it."""
        return action in ROLES.get(self.role, frozenset())


@dataclass(frozen=True, slots=True)
class Tokens:
    """The file of the tokens' hashes."""

    path: Path

    def issue(self, name: str, role: str) -> str:
        """A new token; it is not kept and can't be had again. An older one of that name no longer counts.

        Raises:
            SettingError: a role that does not exist, or a name that could be mistaken in an audit line.
        """
        if role not in ROLES:
            raise SettingError(f"`role` must be a known role, found {role!r}. {did_you_mean(role, ROLES)}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
            raise SettingError(
                f"a token's name must be letters, digits, dots, dashes and @, found {name!r}. Choose another."
            )
        token = secrets.token_urlsafe(32)
        known = {key: row for key, row in self._read().items() if row["name"] != name}
        known[_hash(token)] = {"name": name, "role": role, "made": datetime.now(UTC).isoformat(timespec="seconds")}
        self._write(known)
        return token

    def revoke(self, name: str) -> bool:
        """Whether there was a token of that name, which there no longer is."""
        known = self._read()
        kept = {key: row for key, row in known.items() if row["name"] != name}
        if len(kept) < len(known):
            self._write(kept)
        return len(kept) < len(known)

    def bearer(self, token: str) -> Bearer | None:
        """Who holds a token; None where nobody does."""
        # Looked up by hash, so the time it takes says nothing about a token that is nearly right.
        row = self._read().get(_hash(token))
        return None if row is None else Bearer(row["name"], row["role"])

    def held(self) -> list[dict[str, str]]:
        """Name, role and day of every token, by name."""
        return sorted(self._read().values(), key=lambda row: row["name"])

    def _read(self) -> dict[str, dict[str, str]]:
        if not self.path.exists():
            return {}
        try:
            return dict(json.loads(read_private(self.path, remedy="")))
        except ValueError:
            raise IntegrityError(f"{self.path} must be JSON, found something else. Put it back.") from None

    def _write(self, known: dict[str, dict[str, str]]) -> None:
        write_private(self.path, (json.dumps(known, indent=1) + "\n").encode())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
