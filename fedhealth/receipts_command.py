"""`fedhealth site receipts`: everything that ever left a hospital, message by message, from its own log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

SHORT = 12
#: A long list of weights is cut here; the log has all of it.
MOST_PARTS = 6
#: The record under which the logs' own words travel.
OF_LOGS = "audit/"


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `receipts` to what a hospital has of its own."""
    receipts = records.add_parser("receipts", help="verify the log, and list every message that left")
    receipts.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
    receipts.add_argument("--log", type=Path, metavar="FOLDER", help="another log than the hospital's, such as a run's")
    receipts.add_argument("--study", metavar="DIGEST", default="", help="of one study; its first digits will do")
    receipts.set_defaults(run=_receipts)


def _receipts(chosen: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.core.manifest import load_manifest
    from fedhealth.governance.audit import KEY, RECEIPTS, verified
    from fedhealth.progress import console
    from fedhealth.site.log_place import AUDIT

    name = load_manifest(chosen.site).name
    folder = chosen.log or chosen.site / AUDIT
    if not (folder / KEY).is_file():
        if chosen.log:
            raise SettingError(f"--log must name the folder of a log, found none in {folder}. See the run's `audit`.")
        sys.stdout.write(f"nothing ever left {name}: there is no log in {folder}\n")
        return
    events = [event for event in verified(folder).events if event["event"] in RECEIPTS]
    events = [event for event in events if str(event["study"]).startswith(chosen.study)]
    table = Table("event", "when (UTC)", "study", "round", "asked for", "bytes", "what left", box=None)
    for event in events:
        when = str(event["at"])[:19].replace("T", " ")
        shown = (event["index"], when, str(event["study"])[:SHORT], event["round"], event["purpose"])
        table.add_row(*(Text(str(word)) for word in shown), Text(f"{event['bytes']:,}"), Text(_what(event)))
    console().print(table if events else Text(f"nothing left {name}"))
    sent = sum(event["event"] == "left" for event in events)
    sys.stdout.write(
        f"{len(events)} messages left, {sent} of them with content: {sum(event['bytes'] for event in events):,} bytes, "
        "what tells\nhow far the log has come among them. Every receipt is signed and in its place.\n"
    )


def _what(event: Mapping[str, Any]) -> str:
    """What was in a message, by name and shape, or the code that stood for it."""
    if event["event"] == "refused":
        return f"the code {event['code']}"
    if event["event"] == "failed":
        return f"the code {event['error']}, incident {event['incident']}"
    parts = [(place.partition("/")[2], shape) for place, _, shape, _ in event["parts"] if not place.startswith(OF_LOGS)]
    arrays = [f"{name} [{' × '.join(map(str, shape))}]" for name, shape in parts if shape]
    numbers = [name for name, shape in parts if not shape]
    if len(arrays) > MOST_PARTS:
        arrays = [*arrays[:MOST_PARTS], f"{len(arrays) - MOST_PARTS} more arrays"]
    return ", ".join(arrays) + (f"; {', '.join(numbers)}" if numbers else "")
