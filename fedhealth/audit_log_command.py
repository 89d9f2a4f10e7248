"""`fedhealth audit verify | tail | prove | export`: what happened at a party, and whether its record is whole."""

from __future__ import annotations

import csv
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from fedhealth.governance.audit import Verified
    from fedhealth.governance.note import PublicKey

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

#: What every event has.
ALWAYS = ("at", "index", "event", "signature")
SHORT = 12


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `audit` to the command line."""
    audit = commands.add_parser("audit", help="verify, read or hand out the log of what happened at a party")
    verbs = audit.add_subparsers(title="commands", required=True, metavar="COMMAND")
    verify = verbs.add_parser("verify", help="check that no event was edited, deleted, moved or cut off")
    verify.add_argument(
        "what", nargs="+", type=Path, metavar="LOG|PROOF",
        help="folders of logs, of hospitals or of a run's logs, checked against each other; or files that `prove` wrote",
    )  # fmt: skip
    verify.add_argument("--key", metavar="KEY", help="hold it to this public key, and not to the one beside it")
    verify.add_argument("--against", type=Path, metavar="FILE", help="a checkpoint of it that somebody else kept")
    verify.set_defaults(run=_verify)
    tail = verbs.add_parser("tail", help="the last events, in words")
    tail.add_argument("log", type=Path, metavar="LOG")
    tail.add_argument("-n", type=int, default=20, help="how many; default: 20")
    tail.set_defaults(run=_tail)
    prove = verbs.add_parser("prove", help="write a proof that an event is in the log")
    prove.add_argument("log", type=Path, metavar="LOG")
    prove.add_argument("index", type=int, metavar="EVENT", help="its number, as `tail` shows it")
    prove.add_argument("--out", type=Path, metavar="FILE", help="default: print it")
    prove.set_defaults(run=_prove)
    export = verbs.add_parser("export", help="copy what an auditor needs, without a secret, into a new folder")
    export.add_argument("log", type=Path, metavar="LOG")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    export.set_defaults(run=_export)


def _verify(chosen: argparse.Namespace) -> None:
    from fedhealth.governance.countersign import held_of

    key = _key(chosen.key)
    proofs = [path for path in chosen.what if path.is_file()]
    folders = [folder for path in chosen.what if not path.is_file() for folder in _logs(path)]
    for path in proofs:
        _verify_proof(path, key)
    against = _text(chosen.against) if chosen.against else None
    for folder in folders:
        found = _found(folder, key, against)
        kept = {other: held_of(other, found.key.name) for other in folders if other != folder}
        witnesses = [str(other) for other, text in kept.items() if text and _found(folder, found.key, text)]
        sys.stdout.write(_in_words(folder, found, witnesses))


def _verify_proof(path: Path, key: PublicKey | None) -> None:
    from fedhealth.governance.proof import proved

    if key is None:
        raise SettingError("a proof must be held to a key, found no --key. Take it from the log's own `key` file.")
    event, size = proved(_text(path), key)
    sys.stdout.write(f"{path}: event {event.get('index')} of {key.name} is among its first {size}\n")
    sys.stdout.write(f"  {event.get('at')} {event.get('event')}: {_facts(event)}\n")


def _in_words(folder: Path, found: Verified, witnesses: list[str]) -> str:
    from fedhealth.governance.audit import broken
    from fedhealth.governance.countersign import countersigned_at

    lines = [f"{len(found.events)} events of {found.key.name}, each as it was written: {folder}"]
    if found.torn:
        lines.append(f"  {found.torn} bytes after them are of an event that was not finished; the next one says so")
    for who, size in found.countersigned.items():
        time_s = countersigned_at(folder, who)
        if time_s is None:
            raise broken(folder, f"a countersignature that is not {who}'s")
        when = datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines.append(f"  countersigned by {who}: the first {size}, {when}")
    lines += [f"  agrees with what was seen of it in {witness}" for witness in witnesses]
    doubts = [event for event in found.events if event["event"] == "doubted"]
    if doubts:
        about = ", ".join(sorted({f"{event['peer']} ({event['why']})" for event in doubts}))
        lines.append(f"  {len(doubts)} doubts about what others told of their logs: {about}")
    if not found.countersigned and not witnesses:
        lines.append("  countersigned by nobody yet: whoever holds its key could write it anew")
    lines.append(f"  key: {found.key}")
    return "\n".join(lines) + "\n"


def _tail(chosen: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.progress import console

    if chosen.n < 1:
        raise SettingError(f"-n must be 1 or more, found {chosen.n}. Leave it out for 20.")
    found = _found(_log(chosen.log), None, None)
    table = Table("event", "when (UTC)", "what", "", box=None)
    for event in found.events[-chosen.n :]:
        when = str(event["at"])[:19].replace("T", " ")
        table.add_row(*map(Text, (str(event["index"]), when, str(event["event"]), _facts(event))))
    console().print(table if found.events else Text("nothing was ever logged"))


def _facts(event: Mapping[str, Any]) -> str:
    """An event's own facts, in one line; digests are cut short."""
    shown = {name: fact for name, fact in event.items() if name not in ALWAYS and not isinstance(fact, list)}
    return "  ".join(f"{name} {fact[:SHORT] if _is_digest(fact) else fact}" for name, fact in sorted(shown.items()))


def _is_digest(fact: object) -> bool:
    return isinstance(fact, str) and len(fact) == 64 and set(fact) <= set("0123456789abcdef")


def _prove(chosen: argparse.Namespace) -> None:
    from fedhealth.governance.proof import proof_of

    text = proof_of(_log(chosen.log), chosen.index)
    if chosen.out is None:
        sys.stdout.write(text)
        return
    chosen.out.write_text(text, encoding="utf-8")
    sys.stdout.write(f"proof: {chosen.out}\ncheck it anywhere: fedhealth audit verify {chosen.out} --key KEY\n")


def _export(chosen: argparse.Namespace) -> None:
    from fedhealth.governance.audit import CHECKPOINT, COUNTERSIGNED, KEY, LOG, SEEN

    folder = _log(chosen.log)
    found = _found(folder, None, None)
    try:
        chosen.out.mkdir(parents=True)
    except FileExistsError:
        raise SettingError(
            f"an export must have a folder of its own, found {chosen.out} there. Name another."
        ) from None
    for name in (LOG, CHECKPOINT, KEY):
        shutil.copyfile(folder / name, chosen.out / name)
    for name in (COUNTERSIGNED, SEEN):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, chosen.out / name, ignore=shutil.ignore_patterns(".*"))
    with (chosen.out / "events.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("event", "when", "what", "facts"))
        table.writerows((event["index"], event["at"], event["event"], _facts(event)) for event in found.events)
    _found(chosen.out, found.key, None)
    sys.stdout.write(
        f"{len(found.events)} events: {chosen.out}\ncheck it anywhere: fedhealth audit verify {chosen.out} --key "
        f"'{found.key}'\n"
    )


def _found(folder: Path, key: PublicKey | None, against: str | None) -> Verified:
    from fedhealth.governance.audit import verified

    return verified(folder, key=key, against=against)


def _key(words: str | None) -> PublicKey | None:
    """The key that was named, itself or by its file."""
    from fedhealth.governance.note import PublicKey

    if words is None:
        return None
    return PublicKey.read(_text(Path(words)) if "+" not in words else words)


def _text(path: Path) -> str:
    if not path.is_file():
        raise SettingError(f"a file must be there to be read, found none at {path}. Correct its name.")
    return path.read_text(encoding="utf-8", errors="replace")


def _log(path: Path) -> Path:
    """The folder of the one log that was meant: a log's, or a hospital's with `audit` in it."""
    found = _logs(path)
    if len(found) > 1:
        raise SettingError(f"one log must be named, found {len(found)} in {path}. Name one of them.")
    return found[0]


def _logs(path: Path) -> list[Path]:
    from fedhealth.governance.audit import CHECKPOINT, KEY

    def is_log(folder: Path) -> bool:
        return (folder / KEY).is_file() or (folder / CHECKPOINT).is_file()

    for folder in (path, path / "audit"):
        if is_log(folder):
            return [folder]
        inner = sorted(below for below in folder.glob("*") if below.is_dir() and is_log(below))
        if inner:
            return inner
    raise SettingError(
        f"a log must be in a folder with its key and checkpoint, found none in {path}. Name that folder."
    )
