"""`fedhealth stats RUN | key=value --features …`: tables of patients over hospitals, exact or with noise."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.asked_once import add_tables, of_tables, tabulation_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from fedhealth.server.store import Store
    from fedhealth.server.tables import Tables
    from fedhealth.simulate import Simulation

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `stats` to the command line."""
    stats = commands.add_parser("stats", help="count patients over hospitals: tables, means, quantiles, survival")
    stats.add_argument(
        "words", nargs="*", metavar="RUN|key=value", help="a run's folder, or what to change in the config"
    )
    add_tables(stats, required=True)
    stats.add_argument("--json", action="store_true", help="print all numbers, unrounded")
    stats.set_defaults(run=_stats)


def tabulated(
    simulation: Simulation, tabulation: Mapping[str, Any], *, epsilon: float | None = None, delta: float | None = None
) -> Simulation:
    """The simulation of a study of tables, with the patients, hospitals and masks of another.

    Args:
        simulation: the other.
        tabulation: as `core.tabulation` reads it.
        epsilon: what a patient loses at most; None for no noise.
        delta: the chance with which that may fail.

    Raises:
        SettingError: a private study's tables would be without noise, or epsilon is out of range.
    """
    from fedhealth.core.study import study_from

    document = of_tables(simulation.document, tabulation, epsilon=epsilon, delta=delta)
    return replace(simulation, document=document, study=study_from(document))


def told(simulation: Simulation, store: Store) -> Tables:
    """What the hospitals tell of a study of tables.

    Raises:
        FedHealthError: as `server.tables.ask`.
    """
    from fedhealth.server.tables import ask
    from fedhealth.simulate import asked_here, identified

    simulation = identified(simulation, store)
    least = max(manifest.policy.min_cohort for manifest in simulation.manifests.values())
    with asked_here(simulation, store, least=least) as grid:
        return ask(simulation.study, grid, least=least)


def _stats(chosen: argparse.Namespace) -> int:
    from fedhealth.cli import log_to
    from fedhealth.server.tables import answer

    with _opened(chosen.words) as (simulation, store):
        log_to(store.folder / "stats.log")
        wanted = tabulated(simulation, tabulation_of(chosen), epsilon=chosen.epsilon, delta=chosen.delta)
        said = answer(wanted.study, wanted.digest, told(wanted, store))
    if chosen.json:
        sys.stdout.write(json.dumps(said, indent=2, allow_nan=False) + "\n")
    else:
        show(said)
    return 0


@contextmanager
def _opened(words: list[str]) -> Iterator[tuple[Simulation, Store]]:
    """The study of a run or a config, and where its hospitals keep what they must: the run's folder, or for once."""
    from fedhealth.starting import config_of

    config = None if len(words) == 1 and "=" not in words[0] else config_of(words)
    from fedhealth.server.store import Store
    from fedhealth.simulate import checked

    if config is None:
        store = Store(Path(words[0]))
        simulation = checked(store.read_config())
        with contextmanager(store.lock)():
            yield simulation, store
        return
    simulation = checked(config)
    with TemporaryDirectory() as folder:
        yield simulation, Store(Path(folder))


def show(found: Mapping[str, Any]) -> None:
    """Print an answer of `server.tables`."""
    from rich.text import Text

    from fedhealth.progress import console
    from fedhealth.server.tables import half_width

    out = console()
    for said in found["tables"]:
        out.print(Text(said["title"], style="bold"), _over_time(said) if "times" in said else _table(said), sep="\n")
        if lines := _beside(said):
            out.print(Text(lines))
        out.print()
    noise = found["noise_sd"]
    around = f"; each count is within {half_width(noise):.0f} of the true one, 95 times in 100" * bool(noise)
    out.print(Text(f"{found['hospitals']} hospitals{around}"), Text(found["privacy"]), sep="\n")
    for failure in found["failed"]:
        out.print(Text(f"without {failure}"))


def _table(said: Mapping[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    is_cut = any(said["withheld_by"])
    table = Table(box=None)
    table.add_column("")
    for cell in said["cells"]:
        table.add_column(escape(cell), justify="right")
    if is_cut:
        table.add_column("withheld by", justify="right")
    rows = [*zip(said["rows"], said["counts"], strict=True)]
    missing = None if said["missing"] is None else [said["missing"], *[""] * (len(said["cells"]) - 1)]
    for (name, counts), silent in zip([*rows, ("no value", missing)], said["withheld_by"], strict=True):
        shown = ["withheld"] * len(said["cells"]) if counts is None else map(_count, counts)
        table.add_row(escape(name), *shown, *([str(silent) if silent else ""] if is_cut else []))
    return table


def _over_time(said: Mapping[str, Any]) -> Table:
    """By declared time and row: who was at risk, who had the event, and the share of Kaplan and Meier without it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    for title in ("", "by", "at risk", "events", "without event", "withheld by"):
        table.add_column(title, justify="right" if title else "left")
    rows = zip(said["rows"], said["counts"], said["kaplan_meier"], said["withheld_by"], strict=False)
    for name, counts, curve, silent in rows:
        beside = str(silent) if silent else ""
        if curve is None:
            shown = "withheld" if counts is None else "nobody"
            table.add_row(escape(name), "", shown, shown, shown, beside)
        for time, (at_risk, events, alive, error) in zip(said["times"], curve or [], strict=False):
            estimate = f"{alive:.3f}" if error is None else f"{alive:.3f} (se {error:.3f})"
            table.add_row(escape(name), time, _count(at_risk), _count(events), estimate, beside)
    return table


def _count(count: float | str) -> str:
    return count if isinstance(count, str) else f"{max(count, 0.0):,.0f}"


def _beside(said: Mapping[str, Any]) -> str:
    """What follows from a table, in lines."""
    from fedhealth.server.tables import half_width

    lines = []
    if said.get("moments"):
        found = said["moments"]
        around = f" ± {half_width(found['mean_noise_sd']):.2g}" if found["mean_noise_sd"] else ""
        spread = "too small beside the noise" if found["variance"] is None else f"{found['variance'] ** 0.5:.5g}"
        lines.append(f"mean {found['mean']:.5g}{around}, standard deviation {spread}")
    if any((said.get("quantiles") or {}).values()):
        words = {"0.25": "lower quartile", "0.5": "median", "0.75": "upper quartile"}
        lines.append(", ".join(f"{words[share]} {_edge(one)}" for share, one in said["quantiles"].items() if one))
    for name, title in (("chi_squared", "independence"), ("log_rank", "log-rank")):
        if said.get(name):
            test = said[name]
            lines.append(f"{title}: χ² {test['statistic']:.4g} on {test['freedom']}, p {test['p']:.3g}")
    if any(said["withheld_by"]):
        lines.append(
            "rows are withheld at hospitals, so nothing is read across them; --epsilon asks for all with noise"
        )
    return "\n".join(lines)


def _edge(found: Mapping[str, float | None]) -> str:
    if found["value"] is not None:
        return f"about {found['value']:.4g}"
    return f"under {found['high']:g}" if found["low"] is None else f"{found['low']:g} or over"
