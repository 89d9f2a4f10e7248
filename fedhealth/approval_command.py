"""`fedhealth site inspect | approve | deny`: a hospital reads a study, and decides about it."""

from __future__ import annotations

import getpass
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse

    from fedhealth.governance.approval import Approvals
    from fedhealth.governance.proposal import Signed
    from fedhealth.governance.summary import Lines

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

WIDTH = 100
MARGIN = 2


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add the three to what a hospital has of its own."""
    inspect = records.add_parser("inspect", help="read a proposed study in plain words, and what has changed")
    approve = records.add_parser("approve", help="take part in a study until a day")
    deny = records.add_parser("deny", help="take no part in a study; ends an approval")
    for parser in (inspect, approve, deny):
        parser.add_argument("study", type=Path, metavar="STUDY", help="the file that its proposer sent")
        parser.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
    for parser in (approve, deny):
        parser.add_argument("--by", metavar="NAME", help="who decides; default: who is logged in")
    inspect.add_argument("--whole", action="store_true", help="print the document itself, every value of it")
    inspect.set_defaults(run=_inspect)
    approve.add_argument("--until", required=True, metavar="DATE", help="the last day, as YYYY-MM-DD")
    approve.set_defaults(run=_approve)
    deny.add_argument("--why", required=True, metavar="WORDS", help="for whoever asks later; stays at the hospital")
    deny.set_defaults(run=_deny)


def _inspect(chosen: argparse.Namespace) -> None:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.governance import summary
    from fedhealth.site.question_lines import question_lines

    signed, approvals = _read(chosen), _approvals(chosen)
    if chosen.whole:
        sys.stdout.write(json.dumps(json.loads(signed.text), indent=2, ensure_ascii=False, sort_keys=True) + "\n")
        return
    proposal = signed.proposal
    study, last = proposal.asked, approvals.last(proposal.study["name"])
    is_trusted = proposal.proposer.key in approvals.proposers.values()
    _say("What is asked", summary.asked(signed, site=approvals.site, is_trusted=is_trusted))
    _say("What is read of each patient who allows research", summary.read_of_patients(study))
    _say("What would leave this hospital", summary.leaves(study))
    if lines := question_lines(study, load_manifest(chosen.site)):
        _say("What would be counted, and this hospital's floors", lines)
    _say("What protects the patients", summary.protection(study))
    _say("What would run", summary.code(proposal))
    if last is not None:
        head = (
            f"What has changed since {last.signed.proposal.study['title']!r}, approved on {last.at[:10]} by {last.by}"
        )
        _say(head, summary.changes(proposal, last) or [("", "nothing that is computed")])
    decided = approvals.decision(proposal.digest)
    if decided is not None:
        words = f"until {decided.until}" if decided.until else f"for: {decided.why}"
        _say("What was decided before", [(decided.verdict, f"{words}, by {decided.by} on {decided.at[:10]}")])
    from fedhealth.study_command import grouped

    sys.stdout.write(
        f"\nFingerprint  {grouped(signed.fingerprint)}\nThe proposer's must be the same; compare it by telephone.\n"
    )
    # What stands in the way of an approval, where something does.
    approvals.check(signed)
    sys.stdout.write(
        f"\nThe numbers that would leave:  fedhealth site preview-egress {chosen.study} --site {chosen.site}\n"
        f"To take part:                  fedhealth site approve {chosen.study} --site {chosen.site} --until {proposal.expires}\n"
        f"Not to:                        fedhealth site deny {chosen.study} --site {chosen.site} --why WORDS\n"
    )


def _approve(chosen: argparse.Namespace) -> None:
    from fedhealth.site.keys import FOLDER, Keys

    signed, approvals = _read(chosen), _approvals(chosen)
    key = Keys(chosen.site / FOLDER).identity
    decision = approvals.approve(signed, until=chosen.until, by=_who(chosen), key=key)
    _log(chosen, "approved", signed, {"until": decision.until, "by": decision.by})
    sys.stdout.write(
        f"approved until {decision.until}: {signed.proposal.study['title']} ({signed.proposal.digest[:12]})\n"
        f"to take it back: fedhealth site deny {chosen.study} --site {chosen.site} --why WORDS\n"
    )


def _deny(chosen: argparse.Namespace) -> None:
    from fedhealth.site.keys import FOLDER, Keys

    signed, approvals = _read(chosen), _approvals(chosen)
    approvals.deny(signed, why=chosen.why, by=_who(chosen), key=Keys(chosen.site / FOLDER).identity)
    _log(chosen, "denied", signed, {"by": _who(chosen)})
    sys.stdout.write(f"denied: {signed.proposal.study['title']} ({signed.proposal.digest[:12]})\n")


def _log(chosen: argparse.Namespace, verdict: str, signed: Signed, facts: dict[str, str]) -> None:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.site.log_place import log_of

    proposal = signed.proposal
    log = log_of(load_manifest(chosen.site).name, chosen.site)
    log.append(verdict, study=proposal.digest, proposal=signed.fingerprint, proposer=proposal.proposer.key, **facts)


def _read(chosen: argparse.Namespace) -> Signed:
    from fedhealth.governance.proposal import read

    if not chosen.study.is_file():
        raise SettingError(
            f"a study must be a file that its proposer sent, found none at {chosen.study}. Correct its name."
        )
    return read(chosen.study.read_bytes())


def _approvals(chosen: argparse.Namespace) -> Approvals:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.site.approvals import approvals_of

    return approvals_of(load_manifest(chosen.site), chosen.site)


def _who(chosen: argparse.Namespace) -> str:
    return str(chosen.by or getpass.getuser())


def _say(head: str, lines: Lines) -> None:
    """A heading, and below it what is said, each beside what it is about."""
    wide = max((len(about) for about, _ in lines), default=0)
    sys.stdout.write(f"\n{head}\n")
    for about, words in lines:
        first = f"{' ' * MARGIN}{about:<{wide}}  "
        sys.stdout.write(
            textwrap.fill(_clean(words), WIDTH, initial_indent=first, subsequent_indent=" " * len(first)) + "\n"
        )


def _clean(words: str) -> str:
    """Somebody else's words, without what would move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else "?" for sign in words)
