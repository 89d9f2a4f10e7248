"""Approval: which studies a hospital takes part in, decided by a person there and signed with its key.

    <site>/approved/<digest>.json     the proposal, whole, and who approved it until when
    <site>/denied/<digest>.json       the same, and why not; it stands above an earlier approval

`require` is asked before every message. Nothing is approved by default, and a record counts
only while its signatures, its days, its proposer and the code that would run are what they
were when it was approved.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from fedhealth.core.errors import IntegrityError, Refused, SettingError
from fedhealth.core.study import canonical
from fedhealth.governance import proposal as proposals
from fedhealth.governance.audit import write_whole
from fedhealth.governance.installed import code_hash
from fedhealth.governance.proposal import Signed, day_of
from fedhealth.governance.signing import has_signed, public

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

APPROVED, DENIED = "approved", "denied"
#: What is signed begins so, that a signature made for something else can't pass for one.
CONTEXT = b"fedhealth study decision v1\n"


class Approved(Protocol):
    """Whoever says which studies are approved."""

    def require(self, digest: str) -> None:
        """Return where the study of that digest is approved.

        Raises:
            Refused: it is not.
        """


@dataclass(frozen=True, slots=True)
class OneStudy:
    """The approval of a simulated hospital: the one study that the simulation is of."""

    digest: str

    def require(self, digest: str) -> None:
        """Return where it is that study.

        Raises:
            Refused: `study_changed`.
        """
        if digest != self.digest:
            raise Refused(
                "study_changed",
                rule="the study must be the approved one",
                found=digest[:12],
                remedy=f"Approve it anew; {self.digest[:12]} is approved.",
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a hospital decided about a proposal.

    Attributes:
        signed: the proposal.
        verdict: `approved` or `denied`.
        by: who decided.
        at: when, in UTC.
        until: of an approval, the last day it holds.
        why: of a denial.
    """

    signed: Signed
    verdict: str
    by: str
    at: str
    until: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Approvals:
    """A hospital's decisions.

    Attributes:
        folder: the hospital's own.
        site: its name.
        key: its public key in hex, by which decisions are signed.
        proposers: by name, the public keys in hex of those whose studies it considers.
        clock: the time of day, with its zone.
    """

    folder: Path
    site: str
    key: str
    proposers: Mapping[str, str]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def require(self, digest: str) -> None:
        """Return where the study of that digest is approved today.

        Raises:
            Refused: `not_approved`, `study_denied`, `approval_broken`, `approval_expired`, `proposer_unknown`,
                `another_code`, `not_on_roster`, `key_unsound`.
        """
        decision = self.decision(digest)
        if decision is None:
            raise Refused(
                "not_approved",
                rule="a study must be approved by this hospital",
                found=f"no approval of {digest[:12]}",
                remedy="Read it with fedhealth site inspect, then approve or deny it.",
            )
        if decision.verdict == DENIED:
            raise Refused(
                "study_denied",
                rule="a study must not be denied by this hospital",
                found=f"{digest[:12]} denied on {decision.at[:10]}",
                remedy="Approve it, should that be wrong.",
            )
        self.check(decision.signed)
        if day_of(decision.until, "until") < self._today:
            raise Refused(
                "approval_expired",
                rule="an approval must not be over",
                found=f"its last day {decision.until}",
                remedy="Approve the study until a later day.",
            )

    def check(self, signed: Signed) -> None:
        """Return where a proposal may be approved today.

        Raises:
            Refused: its proposer is unknown, it has expired, it is for other code or for other hospitals.
        """
        proposal = signed.proposal
        if proposal.proposer.key not in self.proposers.values():
            raise Refused(
                "proposer_unknown",
                rule="a study must be signed by a proposer in `proposers` of site.yaml",
                found=f"the key {proposal.proposer.key[:16]}… of somebody called {proposal.proposer.name!r}",
                remedy="Compare the key with the proposer by telephone, then add it there.",
            )
        if day_of(proposal.expires, "expires") < self._today:
            raise Refused(
                "approval_expired",
                rule="a study must not be over",
                found=f"its last day {proposal.expires}",
                remedy="Ask the proposer to propose it anew.",
            )
        if proposal.code.sha256 != code_hash():
            raise Refused(
                "another_code",
                rule=f"the code must be the one proposed, FedHealth {proposal.code.version} {proposal.code.sha256[:12]}",
                found=code_hash()[:12],
                remedy="Install that version, or ask the proposer to propose the study for this one.",
            )
        study = proposal.asked
        if self.site not in study.roster:
            raise Refused(
                "not_on_roster",
                rule="a study must name this hospital",
                found=", ".join(study.roster),
                remedy=f"Ask the proposer to add {self.site}.",
            )
        if study.identities and study.identities[self.site] != self.key:
            raise Refused(
                "not_on_roster",
                rule="a study must name this hospital by its own key",
                found=f"{study.identities[self.site][:16]}…",
                remedy="Send the proposer what fedhealth site keys init prints.",
            )

    def approve(self, signed: Signed, *, until: str, by: str, key: Ed25519PrivateKey) -> Decision:
        """The approval of a proposal, kept.

        Args:
            signed: the proposal.
            until: the last day, as YYYY-MM-DD; not after the proposal's own.
            by: who approves.
            key: the hospital's.

        Raises:
            Refused: the proposal may not be approved.
            SettingError: the last day is no date, over, or after the proposal's.
        """
        self.check(signed)
        last = day_of(until, "--until")
        if not self._today <= last <= day_of(signed.proposal.expires, "expires"):
            raise SettingError(
                f"`--until` must lie between today and the study's last day {signed.proposal.expires}, found {until}. "
                "Choose a day between."
            )
        return self._keep(Decision(signed, APPROVED, by, self._now, until=until), key)

    def deny(self, signed: Signed, *, why: str, by: str, key: Ed25519PrivateKey) -> Decision:
        """The denial of a proposal, kept; an approval of the same study ends with it.

        Raises:
            SettingError: nothing says why.
        """
        if not why.strip():
            raise SettingError("`--why` must say why, found nothing. Whoever asks later will want to know.")
        return self._keep(Decision(signed, DENIED, by, self._now, why=why), key)

    def digests(self) -> set[str]:
        """The digests of all studies that are approved today."""
        found = set()
        for path in (self.folder / APPROVED).glob("*.json"):
            try:
                self.require(path.stem)
            except Refused:
                continue
            found.add(path.stem)
        return found

    def last(self, name: str) -> Decision | None:
        """The approval given last, of a study of that name where there is one, else of any."""
        found = []
        for path in (self.folder / APPROVED).glob("*.json"):
            try:
                decision = self._read(path, APPROVED)
            except Refused:
                continue
            found.append((decision.signed.proposal.study.get("name") == name, decision.at, decision))
        return max(found, key=lambda one: one[:2])[2] if found else None

    def decision(self, digest: str) -> Decision | None:
        """What was decided last about the study of that digest; None for nothing.

        Raises:
            Refused: `approval_broken`.
        """
        found = [
            self._read(path, verdict)
            for verdict in (APPROVED, DENIED)
            if (path := self.folder / verdict / f"{digest}.json").is_file()
        ]
        # Of two in the same moment the denial.
        return max(found, key=lambda one: (one.at, one.verdict == DENIED), default=None)

    def _read(self, path: Path, verdict: str) -> Decision:
        try:
            content = path.read_bytes()
            found = json.loads(content)
            record = found["decision"]
            if canonical(found).encode() + b"\n" != content or not has_signed(
                self.key, CONTEXT + canonical(record).encode(), found["signature"]
            ):
                raise _broken(path, "a record that this hospital's key has not signed")
            signed = proposals.checked(record["proposal"], record["proposal_signature"])
            if (record["verdict"], record["site"], signed.proposal.digest) != (verdict, self.site, path.stem):
                raise _broken(path, "a record of something else")
            return Decision(signed, verdict, record["by"], record["at"], record["until"], record["why"])
        except (ValueError, KeyError, TypeError, RecursionError, SettingError, IntegrityError):
            raise _broken(path, "a record that can't be read") from None

    def _keep(self, decision: Decision, key: Ed25519PrivateKey) -> Decision:
        if public(key) != self.key:
            raise SettingError("a decision must be signed with the hospital's own key, found another. Name its folder.")
        record: dict[str, Any] = {
            "verdict": decision.verdict,
            "site": self.site,
            "by": decision.by,
            "at": decision.at,
            "until": decision.until,
            "why": decision.why,
            "proposal": asdict(decision.signed.proposal),
            "proposal_signature": decision.signed.signature,
        }
        signature = key.sign(CONTEXT + canonical(record).encode()).hex()
        path = self.folder / decision.verdict / f"{decision.signed.proposal.digest}.json"
        write_whole(path, canonical({"decision": record, "signature": signature}) + "\n")
        other = self.folder / (APPROVED if decision.verdict == DENIED else DENIED) / path.name
        other.unlink(missing_ok=True)
        return decision

    @property
    def _now(self) -> str:
        return self.clock().astimezone(UTC).isoformat(timespec="microseconds")

    @property
    def _today(self) -> date:
        return self.clock().astimezone(UTC).date()


def _broken(path: Path, found: str) -> Refused:
    return Refused(
        "approval_broken",
        rule=f"{path} must be as this hospital signed it",
        found=found,
        remedy="Read the study anew with fedhealth site inspect, then approve or deny it.",
    )
