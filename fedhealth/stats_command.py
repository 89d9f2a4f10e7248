"""`fedhealth stats RUN | key=value --features …`: tables of patients over hospitals, exact or with noise."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.core.errors import SettingError

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
    stats.add_argument(
        "--features", required=True, metavar="A,B", help="columns: features, the outcome's, or that of follow-up times"
    )
    stats.add_argument("--by", metavar="C", help="a column beside each of them")
    stats.add_argument("--times", metavar="T,…", help="up to which events are told; default: quarters of the horizon")
    stats.add_argument("--epsilon", type=float, help="what a patient loses at most by all of it; default: no noise")
    stats.add_argument("--delta", type=float, default=1e-5, help="the chance with which that may fail")
    stats.add_argument("--json", action="store_true", help="print all numbers, unrounded")
    stats.set_defaults(run=_stats)


def tabulated(
    simulation: Simulation, tabulation: Mapping[str, Any], *, epsilon: float | None = None, delta: float = 1e-5
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
    from fedhealth.core.study import packed, study_from, unpacked
    from fedhealth.evaluation.tables import TableLayout

    if epsilon is None and simulation.study.score_bins is not None:
        raise SettingError(
            "the tables of a private study must have noise, found no --epsilon. Give it, or use privacy=plain."
        )
    # In the one form and order in which a hospital reads it.
    privacy = _privacy(epsilon, delta, is_masked=_is_masked(simulation))
    document = unpacked(packed({**simulation.document, "tabulation": tabulation, "privacy": privacy}))
    study = study_from(document, where="the study of tables")
    TableLayout.of(study)
    return replace(simulation, document=document, study=study)


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

    with _opened(chosen.words) as (simulation, store):
        log_to(store.folder / "stats.log")
        wanted = tabulated(simulation, _tabulation(chosen), epsilon=chosen.epsilon, delta=chosen.delta)
        found = told(wanted, store)
        promise = _promise(wanted)
    if chosen.json:
        said = {
            "study": wanted.digest, "hospitals": found.hospitals, "failed": list(found.failed), "privacy": promise,
            "noise_sd": found.noise, "tables": found.findings(),
        }  # fmt: skip
        sys.stdout.write(json.dumps(said, indent=2, allow_nan=False) + "\n")
    else:
        _show(found, promise)
    return 0


def _tabulation(chosen: argparse.Namespace) -> dict[str, Any]:
    columns = [name.strip() for name in chosen.features.split(",") if name.strip()]
    if not columns:
        raise SettingError("--features must name a column, found none. Separate several by commas.")
    beside = [chosen.by] if chosen.by else []
    try:
        times = [float(time) for time in (chosen.times or "").split(",") if time.strip()]
    except ValueError:
        raise SettingError(f"--times must be numbers, found {chosen.times!r}. Write 90,180,365.") from None
    return {"tables": [[column, *beside] for column in columns], "times": times}


def _privacy(epsilon: float | None, delta: float, *, is_masked: bool) -> dict[str, Any]:
    """The privacy of tables: of noise at each hospital, shared among them under masks, or none."""
    from fedhealth.privacy.accountant import check_delta, noise_multiplier
    from fedhealth.privacy.distributed import Distributed
    from fedhealth.privacy.dp_sgd import DpSgd

    if epsilon is None:
        return {"_target_": "fedhealth.privacy.plain.Plain"}
    check_delta(delta)
    noise = noise_multiplier(epsilon_target=epsilon, delta=delta, sampling_rate=1.0, steps=1)
    kind = Distributed if is_masked else DpSgd
    settings = asdict(kind(epsilon=epsilon, delta=delta, statistics_noise=noise))
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **settings}


def _promise(simulation: Simulation) -> str:
    """What a patient is promised of the tables."""
    from fedhealth.core.parts import build
    from fedhealth.privacy.guarantee import guarantee
    from fedhealth.privacy.patient_level import PatientLevel

    mechanism = build(simulation.study.privacy, where="privacy", room="fedhealth.privacy", does="privatise")
    if not isinstance(mechanism, PatientLevel):
        return "No noise: every number that is shown is exact, and no bound is given on what it tells of a patient."
    return str(guarantee([mechanism.event("query.table")], delta=mechanism.delta, views=[mechanism.view]))


def _is_masked(simulation: Simulation) -> bool:
    from fedhealth.core.parts import build

    return bool(build(simulation.study.secagg, where="secagg", room="fedhealth.secagg", does="seal").is_masked)


@contextmanager
def _opened(words: list[str]) -> Iterator[tuple[Simulation, Store]]:
    """The study of a run or a config, and where its hospitals keep what they must: the run's folder, or for once."""
    from fedhealth.compose import composed, resolved
    from fedhealth.server.store import Store
    from fedhealth.simulate import checked

    if len(words) == 1 and "=" not in words[0]:
        store = Store(Path(words[0]))
        simulation = checked(store.read_config())
        with contextmanager(store.lock)():
            yield simulation, store
        return
    simulation = checked(resolved(composed(words)))
    with TemporaryDirectory() as folder:
        yield simulation, Store(Path(folder))


def _show(found: Tables, promise: str) -> None:
    from rich.text import Text

    from fedhealth.progress import console
    from fedhealth.server.tables import half_width

    out = console()
    for said in found.findings():
        out.print(Text(said["title"], style="bold"), _over_time(said) if "times" in said else _table(said), sep="\n")
        if lines := _beside(said):
            out.print(Text(lines))
        out.print()
    around = f"; each count is within {half_width(found.noise):.0f} of the true one, 95 times in 100" * bool(
        found.noise
    )
    out.print(Text(f"{found.hospitals} hospitals{around}"), Text(promise), sep="\n")
    for failure in found.failed:
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
