"""`fedhealth site ledger show | verify`: what a hospital's patients have spent, and whether its record is whole."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.privacy_event import Event
    from fedhealth.privacy.ledger import Ledger, Row
    from fedhealth.privacy.ledger_head import Anchor

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `ledger` to what a hospital has of its own."""
    ledger = records.add_parser("ledger", help="what its patients' privacy has cost")
    verbs = ledger.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = verbs.add_parser("show", help="verify the ledger, and list what was charged and what it costs together")
    verify = verbs.add_parser("verify", help="check that no row was edited, deleted, cut off or moved")
    for parser in (show, verify):
        parser.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
        parser.add_argument("--file", type=Path, help="another ledger than the hospital's, such as a simulation's")
    show.add_argument("--delta", type=float, help="default: the hospital's policy.delta")
    show.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it, too")
    show.set_defaults(run=_show)
    verify.add_argument(
        "--anchor", metavar="ROW:HASH", help="what an earlier verify said; that row must be there still"
    )
    verify.set_defaults(run=_verify)


def _verify(chosen: argparse.Namespace) -> None:
    _, ledger = _ledger(chosen)
    last = ledger.verify(_anchor(chosen.anchor))
    if last is None:
        sys.stdout.write(f"nothing was ever charged to {ledger.path}\n")
        return
    sys.stdout.write(
        f"{last.number} rows, each as it was written: {ledger.path}\n"
        f"note this down elsewhere, for --anchor: {last.number}:{last.hash}\n"
    )


def _show(chosen: argparse.Namespace) -> None:
    from rich.text import Text

    from fedhealth.privacy.guarantee import guarantee, rounded_up
    from fedhealth.privacy.ledger import events_of
    from fedhealth.progress import console

    manifest, ledger = _ledger(chosen)
    delta = manifest.policy.delta if chosen.delta is None else chosen.delta
    cap = manifest.policy.epsilon_cap
    rows, out, drawn = ledger.rows(), console(), {}
    if not rows:
        out.print(Text(f"nothing was ever charged to {ledger.path}"))
    for cohort in sorted({row.cohort for row in rows}):
        own = [row for row in rows if row.cohort == cohort]
        table, drawn[cohort] = _history(own, delta)
        whole = guarantee(events_of(own), delta=delta, views=[row.view for row in own])
        out.print(Text(f"\npatients: {cohort}"), table, Text(f"together: {whole}"), sep="\n")
    out.print(
        Text(f"cap: {'none' if cap is None else f'ε = {cap:g}, δ = {manifest.policy.delta:g}'} (policy.epsilon_cap)")
    )
    if chosen.plot:
        from fedhealth.report.ledger_figure import Spent, spending

        lines = []
        for cohort, points in drawn.items():
            events, costs, studies = zip(*points, strict=True)
            lines.append(Spent(cohort, events, costs, studies, f"ε = {rounded_up(costs[-1])}"))
        chosen.plot.write_text(spending(lines, delta=delta, cap=cap), encoding="utf-8")
        sys.stdout.write(f"plot: {chosen.plot}\n")


def _history(rows: Sequence[Row], delta: float) -> tuple[Table, list[tuple[int, float, str]]]:
    """A line for each run of events of one kind, with what all so far cost; and their number, cost and study."""
    from rich.table import Table
    from rich.text import Text

    from fedhealth.privacy.accountant import epsilon
    from fedhealth.privacy.guarantee import rounded_up
    from fedhealth.privacy.ledger import events_of

    table = Table("study", "config", "what", "event", "times", "days", f"ε, δ = {delta:g}", box=None)
    done: list[Event] = []
    points = []
    for _, same in groupby(rows, key=lambda row: (row.study, row.digest, row.what, row.event, row.view)):
        run = list(same)
        first, last, events = run[0], run[-1], events_of(run)
        done += events
        cost = epsilon(done, delta)
        points.append((len(done), cost, first.study))
        days = " to ".join(dict.fromkeys(row.at[:10] for row in (first, last)))
        shown = (first.study, first.digest[:8], first.what, _words(events[0]), str(len(run)), days, rounded_up(cost))
        table.add_row(*map(Text, shown))
    return table, points


def _words(event: Event) -> str:
    from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian

    match event:
        case PoissonSampledGaussian():
            return f"σ {event.noise_multiplier:g}, q {event.sampling_rate:g}, ×{event.count}"
        case Gaussian():
            return f"σ {event.noise_multiplier:g}, ×{event.count}"
        case _:
            return "no noise"


def _ledger(chosen: argparse.Namespace) -> tuple[SiteManifest, Ledger]:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.site.ledger_place import ledger_of

    folder = chosen.site.resolve()
    manifest = load_manifest(folder)
    ledger = ledger_of(manifest, folder)
    if chosen.file is None:
        return manifest, ledger
    if not chosen.file.is_file():
        raise SettingError(f"--file must name a ledger, found no {chosen.file}. See the run's folder `ledgers`.")
    return manifest, replace(ledger, path=chosen.file.resolve())


def _anchor(words: str | None) -> Anchor | None:
    from fedhealth.privacy.ledger_head import Anchor

    if words is None:
        return None
    number, _, hash_ = words.partition(":")
    if not re.fullmatch("[1-9][0-9]*", number) or len(hash_) != 64:
        raise SettingError(f"--anchor must be ROW:HASH, found {words[:80]!r}. Copy it from an earlier verify.")
    return Anchor(int(number), hash_)
