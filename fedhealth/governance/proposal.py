"""The proposal: a study and what it is for, as one canonical document that its proposer signs.

    {"proposal": {study, purpose, proposer, expires, code, packages, lock, …}, "signature": …}

The file is that document's canonical text and nothing else, so that a space more is another
file. The study in it is what a hospital computes by, word for word: the coordinator can't
propose one and ask another, since a hospital answers only for the digest that it approved.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from fedhealth import __version__
from fedhealth.core.errors import IntegrityError, Refused, SettingError
from fedhealth.core.settings import read as read_settings
from fedhealth.core.settings import settings
from fedhealth.core.study import Study, canonical, digest, study_from
from fedhealth.governance.installed import code_hash, packages
from fedhealth.governance.signing import has_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: What is signed begins so, that a signature made for something else can't pass for one.
CONTEXT = b"fedhealth study proposal v1\n"
FORMAT = 1


@settings
class Proposer:
    """Who proposes: a name, and an Ed25519 public key in hex."""

    name: str
    key: str


@settings
class Code:
    """The code that the study was made for: FedHealth's version, and `governance.installed.code_hash`."""

    version: str
    sha256: str


@settings
class Proposal:
    """A study as it is proposed to a hospital.

    Attributes:
        study: the study's document; its digest is what messages are checked by.
        purpose: what it is for, in words for a clinician.
        proposer: who signs it.
        proposed_at: when, in UTC.
        expires: the last day on which any hospital may answer it, as YYYY-MM-DD.
        code: what computes it.
        packages: what that stood on where it was proposed, by name and version.
        lock: the SHA-256 of `packages`.
        format: of this document.
    """

    study: dict[str, Any]
    purpose: str
    proposer: Proposer
    proposed_at: str
    expires: str
    code: Code
    packages: dict[str, str]
    lock: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        day_of(self.expires, "expires")
        if self.format != FORMAT:
            raise SettingError(f"`format` must be {FORMAT}, found {self.format}. Use a matching FedHealth.")
        if not self.purpose.strip():
            raise SettingError(
                "`purpose` must say what the study is for, found nothing. Write a sentence for a clinician."
            )
        if self.lock != digest(self.packages):
            raise SettingError("`lock` must be the SHA-256 of `packages`, found another. Propose the study anew.")

    @property
    def digest(self) -> str:
        """The study's digest."""
        return digest(self.study)

    @property
    def asked(self) -> Study:
        """The study.

        Raises:
            SettingError: it is none.
        """
        return study_from(self.study, where="the proposal's study")


@dataclass(frozen=True, slots=True)
class Signed:
    """A proposal with its proposer's signature, in hex, which was checked."""

    proposal: Proposal
    signature: str

    @property
    def text(self) -> str:
        """The file."""
        return canonical({"proposal": asdict(self.proposal), "signature": self.signature}) + "\n"

    @property
    def fingerprint(self) -> str:
        """The digest of the whole proposal, which two people can compare over the telephone."""
        return digest(asdict(self.proposal))


def propose(
    study: Mapping[str, Any],
    *,
    purpose: str,
    expires: str,
    name: str,
    key: Ed25519PrivateKey,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Signed:
    """A study, signed by its proposer.

    Args:
        study: its document.
        purpose: what it is for.
        expires: its last day, as YYYY-MM-DD.
        name: the proposer's.
        key: the proposer's.
        clock: the time of day, with its zone.

    Raises:
        SettingError: the study is none, the last day is no date or over, or the purpose is missing.
    """
    now, found = clock().astimezone(UTC), packages()
    if day_of(expires, "--until") < now.date():
        raise SettingError(f"a study's last day must not be over, found {expires}. Choose a later one.")
    document = {
        "study": dict(study),
        "purpose": purpose,
        "proposer": {"name": name, "key": key.public_key().public_bytes_raw().hex()},
        "proposed_at": now.isoformat(timespec="seconds"),
        "expires": expires,
        "code": {"version": __version__, "sha256": code_hash()},
        "packages": found,
        "lock": digest(found),
    }
    proposal = read_settings(Proposal, document, where="the proposal")
    _ = proposal.asked
    return Signed(proposal, key.sign(CONTEXT + canonical(asdict(proposal)).encode()).hex())


def read(content: bytes) -> Signed:
    """The proposal in a file, its signature checked; whether the proposer is trusted is the hospital's to say.

    Raises:
        SettingError: it is no proposal.
        Refused: it is not signed.
        IntegrityError: it is not as it was signed, be it by one byte.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("proposal"), dict):
        raise SettingError(
            f"a study must be a file that fedhealth study propose wrote, found {len(content):,} bytes of something else. "
            "Ask the proposer for it."
        )
    if not found.get("signature"):
        raise Refused(
            "unsigned", rule="a study must be signed by its proposer", found="no signature", remedy="Ask for it."
        )
    if canonical(found).encode() + b"\n" != content or set(found) != {"proposal", "signature"}:
        raise _changed("text that is not in canonical form")
    return checked(found["proposal"], str(found["signature"]))


def checked(document: Mapping[str, Any], signature: str) -> Signed:
    """A signed proposal.

    Raises:
        SettingError: it is no proposal.
        IntegrityError: the signature is not its proposer's.
    """
    key = document.get("proposer", {}).get("key") if isinstance(document.get("proposer"), dict) else None
    if not has_signed(str(key), CONTEXT + canonical(document).encode(), signature):
        raise _changed("a signature that is not of this text")
    signed = Signed(read_settings(Proposal, document, where="the study"), signature)
    if canonical(asdict(signed.proposal)) != canonical(document):
        raise SettingError("a study must have every key of a proposal, found some left to defaults. Propose it anew.")
    _ = signed.proposal.asked
    return signed


def day_of(words: str, where: str) -> date:
    """A day, from YYYY-MM-DD.

    Raises:
        SettingError: it is none.
    """
    try:
        found = date.fromisoformat(words)
    except ValueError:
        found = None
    if found is None or found.isoformat() != words:
        raise SettingError(f"`{where}` must be a day as YYYY-MM-DD, found {words[:40]!r}. Write it so.")
    return found


def _changed(found: str) -> IntegrityError:
    return IntegrityError(
        f"a study must be as its proposer signed it, found {found}. It was changed on its way; ask the proposer for it again."
    )
