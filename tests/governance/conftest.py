"""A study, its proposer, and a hospital that may approve it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from composing import config_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.governance.approval import Approvals
from fedhealth.governance.proposal import Signed, propose
from fedhealth.governance.signing import public
from fedhealth.study_document import STUDY_KEYS

TODAY = datetime(2026, 11, 25, 12, tzinfo=UTC)


@dataclass
class Scene:
    """Anna proposes, Norrvik decides."""

    folder: Path
    document: dict[str, Any]
    anna: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    norrvik: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    today: datetime = TODAY

    def proposed(
        self, *, expires: str = "2027-06-30", purpose: str = "To learn who needs care first", **changes: Any
    ) -> Signed:
        return propose(
            {**self.document, **changes},
            purpose=purpose, expires=expires, name="Anna Berg", key=self.anna, clock=lambda: self.today,
        )  # fmt: skip

    @property
    def approvals(self) -> Approvals:
        return Approvals(
            self.folder, "norrvik", public(self.norrvik), {"Anna Berg": public(self.anna)}, clock=lambda: self.today
        )

    def approve(self, signed: Signed, until: str = "2027-01-31"):
        return self.approvals.approve(signed, until=until, by="Dr Lind", key=self.norrvik)

    def deny(self, signed: Signed):
        return self.approvals.deny(signed, why="too many features", by="Dr Lind", key=self.norrvik)

    def on(self, day: str) -> Scene:
        """The same scene on another day."""
        return replace(self, today=datetime.fromisoformat(f"{day}T12:00:00+00:00"))


@pytest.fixture(scope="session")
def config():
    """The smoke study's, composed once."""
    return config_of("experiment=smoke")


@pytest.fixture
def scene(config, tmp_path):
    document = copy.deepcopy({key: config[key] for key in STUDY_KEYS})
    return Scene(tmp_path / "norrvik", {**document, "roster": ["galen-heart", "harrow-fen", "norrvik"]})
