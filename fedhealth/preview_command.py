"""`fedhealth site preview-egress`: what would leave a hospital for a study, before anybody approves it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhealth.asked_once import asks_once
from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse

    from fedhealth.preview import Preview

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

#: A long list of weights is cut here; its rest is told together.
MOST_PARTS = 12


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `preview-egress` to what a hospital has of its own."""
    preview = records.add_parser("preview-egress", help="train here, and show exactly what would leave; nothing does")
    preview.add_argument("study", type=Path, metavar="STUDY", help="the file that its proposer sent")
    preview.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
    preview.set_defaults(run=_preview)


def _preview(chosen: argparse.Namespace) -> None:
    from rich.text import Text

    from fedhealth.core.manifest import load_manifest
    from fedhealth.governance.proposal import read
    from fedhealth.preview import previewed
    from fedhealth.progress import console

    if not chosen.study.is_file():
        raise SettingError(
            f"a study must be a file that its proposer sent, found none at {chosen.study}. Correct its name."
        )
    proposal = read(chosen.study.read_bytes()).proposal
    folder = chosen.site.resolve()
    name, study = load_manifest(folder).name, proposal.asked
    if name not in study.roster:
        raise SettingError(
            f"a study must name the hospital, found {', '.join(study.roster)}. Ask its proposer to add {name}."
        )
    found = previewed(proposal.study, folder)
    when = "for" if asks_once(proposal.study) else "in the first round of"
    end = "" if asks_once(proposal.study) else ", and at its end"
    console().print(Text(f"What would leave {name} {when} {study.title}{end}:\n"))
    _show(found)
    is_masked = not str(proposal.study["secagg"]["_target_"]).endswith(".Plain")
    if is_masked:
        sys.stdout.write(
            "\nThe study is masked: the coordinator gets these numbers in a sum over hospitals, and of this hospital a\n"
            "vector of that many bytes that looks random, and some hundred bytes for each other hospital beside it.\n"
        )
    if any(one.shares_noise for one in found.leaving):
        sys.stdout.write(
            "They are shown as they are before this hospital adds its share of the noise to that vector.\n"
        )
    if asks_once(proposal.study):
        sys.stdout.write("\nIt would be asked for once. Nothing was sent, charged or kept.\n")
        return
    times = f"{study.rounds} times" if study.rounds > 1 else "once"
    sys.stdout.write(
        f"\nTraining would be asked for {times}. The model here starts from this hospital's patients alone, so the\n"
        "study's own numbers will differ; names, shapes and bytes will not. Nothing was sent, charged or kept.\n"
    )


def _show(found: Preview) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.progress import console

    table = Table(
        "asked for", "array", "type", "shape", "values, bytes", "norm", "beside it", "in all, bytes", box=None
    )
    for one in found.leaving:
        rows = one.parts[:MOST_PARTS]
        beside = ", ".join(f"{name} {value:.6g}" for name, value in one.numbers.items())
        for number, part in enumerate(rows):
            first = (f"{one.purpose} {one.of}".strip(), beside, f"{one.size_bytes:,}") if number == 0 else ("", "", "")
            shape = " × ".join(map(str, part.shape)) or "1"
            shown = (first[0], part.name, part.kind, shape, f"{part.size_bytes:,}", f"{part.norm:.4g}", *first[1:])
            table.add_row(*map(Text, shown))
        if rest := one.parts[MOST_PARTS:]:
            norm = math.hypot(*(part.norm for part in rest))
            size = sum(part.size_bytes for part in rest)
            table.add_row("", f"{len(rest)} more", "", "", f"{size:,}", f"{norm:.4g}", "", "")
    console().print(table)
    out = console()
    if math.isinf(found.after.epsilon):
        out.print(Text("\nPrivacy: no bound is given on what these numbers reveal about a patient (ε = ∞)."))
    else:
        out.print(Text(f"\nPrivacy, spent before: {found.before}\nPrivacy, with all of this: {found.after}"))
