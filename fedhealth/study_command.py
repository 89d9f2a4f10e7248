"""`fedhealth study key | propose`: a study as a signed file that hospitals can read, approve or deny."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.asked_once import add_questions, document_asked, words_of
from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `study` to the command line."""
    study = commands.add_parser("study", help="propose a study to hospitals")
    verbs = study.add_subparsers(title="commands", required=True, metavar="COMMAND")
    key = verbs.add_parser("key", help="make the key that signs your studies, and print the line hospitals need")
    key.add_argument("--by", required=True, metavar="NAME", help="yours, as hospitals shall see it")
    key.add_argument("--out", type=Path, required=True, metavar="FILE", help="where your key is kept; never send it")
    key.set_defaults(run=_key)
    propose = verbs.add_parser("propose", help="write a study as a file, and sign it")
    propose.add_argument("overrides", nargs="*", metavar="key=value", help="what to change in configs/config.yaml")
    # Here --by is whose study it is.
    add_questions(propose, beside=["--beside"])
    propose.add_argument("--purpose", required=True, metavar="WORDS", help="what it is for, in words for a clinician")
    propose.add_argument("--until", required=True, metavar="DATE", help="its last day, as YYYY-MM-DD")
    propose.add_argument("--by", required=True, metavar="NAME", help="yours, as hospitals shall see it")
    propose.add_argument("--key", type=Path, required=True, metavar="FILE", help="yours, as study key made it")
    propose.add_argument(
        "--hospital", action="append", default=[], metavar="NAME=KEY",
        help="a hospital's public key, as site keys init printed it; a masked study needs one of each",
    )  # fmt: skip
    propose.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to send to the hospitals")
    propose.set_defaults(run=_propose)


def _key(chosen: argparse.Namespace) -> None:
    from fedhealth.governance.signing import new_key

    public = new_key(chosen.out)
    sys.stdout.write(
        f"your key: {chosen.out}; keep it to yourself\n"
        "a hospital that considers your studies adds to its site.yaml, after you have read the key to each other:\n"
        f"proposers: {{{json.dumps(chosen.by, ensure_ascii=False)}: {json.dumps(public)}}}\n"
    )


def _propose(chosen: argparse.Namespace) -> None:
    from fedhealth.compose import composed, resolved
    from fedhealth.core.parts import build
    from fedhealth.governance.proposal import propose
    from fedhealth.governance.signing import signing_key
    from fedhealth.study_document import check_keys, document_of, fitting

    if chosen.out.exists():
        raise SettingError(f"a proposal must have a file of its own, found {chosen.out} there. Name another.")
    config, identities = resolved(composed(words_of(chosen))), _identities(chosen.hospital)
    check_keys(config)
    document = document_of(config, _roster(config["sites"])) | ({"identities": identities} if identities else {})
    study = fitting(document)
    if build(study.secagg, where="secagg", room="fedhealth.secagg").is_masked and not identities:
        raise SettingError(
            "a masked study must hold every hospital's public key, found none. Give each as --hospital NAME=KEY."
        )
    document = document_asked(document, chosen)
    signed = propose(
        document, purpose=chosen.purpose, expires=chosen.until, name=chosen.by, key=signing_key(chosen.key)
    )
    chosen.out.write_text(signed.text, encoding="utf-8")
    sys.stdout.write(
        f"study: {chosen.out}, {document['title']}, for {len(document['roster'])} hospitals until {chosen.until}\n"
        f"fingerprint: {grouped(signed.fingerprint)}\n"
        f"each of them reads it with: fedhealth site inspect {chosen.out} --site FOLDER\n"
    )


def _roster(sites: Mapping[str, Any]) -> list[str]:
    """The hospitals that the config names; their folders are theirs, so that none is needed here."""
    names = sites.get("names")
    if not isinstance(names, list):
        raise SettingError(f"`sites.names` must list the hospitals of a proposal, found {names!r}. Name each of them.")
    return [str(name) for name in names]


def grouped(digest: str) -> str:
    """The first half of a digest in groups of four, for two people who compare it aloud."""
    return " ".join(digest[at : at + 4] for at in range(0, 32, 4))


def _identities(words: list[str]) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    if len(found) < len(words):
        raise SettingError(
            f"--hospital must name each hospital once, found {len(words) - len(found)} twice. Remove one."
        )
    return found
