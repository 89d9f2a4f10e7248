"""The command line: `fedhealth simulate | report | runs | stats | synthesize | sites | site | coordinator | federate | audit-privacy`.

Exit codes: 0 done, 1 failed, 2 bad input, 3 refused by policy, 4 integrity failure, 130
interrupted. A failure a user can act on is one line on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fedhealth import (
    __version__,
    approval_command,
    audit_command,
    audit_log_command,
    check_release_command,
    coordinator_command,
    data_command,
    federate,
    keys_command,
    ledger_command,
    preview_command,
    receipts_command,
    site_command,
    stats_command,
    study_command,
    synthesize_command,
)
from fedhealth.core.errors import FedHealthError, IntegrityError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedhealth.simulate import Simulation

INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of one command."""
    # Before numpy and torch are loaded: on shared cores more threads are slower, and change the last bits.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        chosen = _parser().parse_args(words)
        return int(chosen.run(chosen) or 0)
    except FedHealthError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            f"files must be readable and writable, found {error.strerror}{where}. Free space or rights, then go on.", 1
        )
    except KeyboardInterrupt:
        return _fail("interrupted.", INTERRUPTED)


def _fail(line: str, code: int) -> int:
    _say(line)
    return code


def _say(line: str) -> None:
    """One line on standard error, without what would move a terminal's cursor: it may quote a file."""
    words = " ".join(line.split())
    sys.stderr.write(f"fedhealth: {''.join(sign if sign.isprintable() else '?' for sign in words)}\n")


class _Parser(argparse.ArgumentParser):
    """A parser that answers a wrong word as everything else here does: in one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise SettingError(f"a command must be as {self.prog} --help says, found: {message}. Correct it.")


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fedhealth",
        description="Train one model across hospitals; no patient leaves any of them.",
        epilog="Example: fedhealth simulate experiment=demo strategy=fedavg rounds=30 'model.hidden=[64,32]' model=mlp",
    )
    parser.add_argument("--version", action="version", version=f"fedhealth {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    simulate = commands.add_parser("simulate", help="run a study over hospitals on this machine")
    simulate.add_argument("overrides", nargs="*", metavar="key=value", help="what to change in configs/config.yaml")
    simulate.add_argument(
        "-m", "--multirun", action="store_true", help="run every combination of comma-separated values"
    )
    simulate.add_argument("--cfg", choices=["job"], help="print the config and run nothing")
    simulate.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run's folder")
    simulate.set_defaults(run=_simulate)

    report = commands.add_parser("report", help="rebuild a run's report, or compare runs")
    report.add_argument("folder", type=Path, metavar="RUN", nargs="?")
    report.add_argument("--compare", nargs="+", metavar="RUNS", help="runs, folders of runs, or patterns of either")
    report.add_argument("--target", type=float, default=0.75, help="count what it took to reach this validation AUROC")
    report.add_argument("--against", metavar="LABEL", help="take differences from this group; default: the first")
    report.add_argument("--out", type=Path, help="default: comparison, beside the runs")
    report.set_defaults(run=_report)

    runs = commands.add_parser("runs", help="list the runs here")
    runs.add_argument("--folder", type=Path, default=Path("runs"))
    runs.set_defaults(run=_runs)

    sites = commands.add_parser("sites", help="list, draw or split hospitals")
    sites.set_defaults(run=_sites_list, folder=None)
    kinds = sites.add_subparsers(title="commands", metavar="COMMAND")
    listed = kinds.add_parser("list", help="list the hospitals of a folder")
    listed.add_argument("--folder", type=Path, help="default: the built-in ones")
    listed.set_defaults(run=_sites_list)
    new = kinds.add_parser("new", help="draw simulated hospitals")
    new.add_argument("--h", type=float, default=1.0, help="how much they differ: 0 not at all, 1 as real ones")
    new.add_argument("--n", type=int, default=12, help="how many")
    new.add_argument("--seed", type=int, default=7)
    new.add_argument("--out", type=Path, default=Path("sites"))
    new.set_defaults(run=_sites_new)
    split = kinds.add_parser("split", help="split a pooled CSV table into hospitals")
    split.add_argument("table", type=Path)
    split.add_argument("--outcome", required=True, help="the outcome's column")
    split.add_argument("--by", default="iid", help="natural, iid, dirichlet, quantity or feature")
    split.add_argument("--column", help="the column that names the hospital, for --by natural")
    split.add_argument("--parts", type=int, default=8)
    split.add_argument("--alpha", type=float, default=0.5, help="the Dirichlet's concentration: small is uneven")
    split.add_argument("--least", type=int, default=10, help="rows that every part has at least")
    split.add_argument("--seed", type=int, default=7)
    split.add_argument("--out", type=Path, default=Path("sites"))
    split.set_defaults(run=_sites_split)

    site = commands.add_parser("site", help="one hospital's own: its part in a deployment, its records and keys")
    records = site.add_subparsers(title="commands", required=True, metavar="COMMAND")
    data_command.add_to(records)
    ledger_command.add_to(records)
    keys_command.add_to(records)
    site_command.add_to(records)
    coordinator_command.add_to(commands)
    federate.add_to(commands)
    approval_command.add_to(records)
    preview_command.add_to(records)
    check_release_command.add_to(records)
    receipts_command.add_to(records)
    audit_command.add_to(commands)
    synthesize_command.add_to(commands)
    audit_log_command.add_to(commands)
    study_command.add_to(commands)
    stats_command.add_to(commands)
    return parser


def _simulate(chosen: argparse.Namespace) -> int:
    from fedhealth.compose import composed, swept
    from fedhealth.starting import config_of

    if chosen.cfg:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(composed(chosen.overrides)))
        return 0
    if chosen.resume:
        return _resume(chosen)
    if not chosen.multirun:
        return _run_one(config_of(chosen.overrides))
    return _sweep(swept(chosen.overrides))


def _sweep(jobs: list[list[str]]) -> int:
    """Run every job, say how each ended and how to compare them; the first failure's exit code."""
    from rich.table import Table
    from rich.text import Text

    from fedhealth.progress import console
    from fedhealth.server.store import Store
    from fedhealth.simulate import stamp
    from fedhealth.sweep import conducted, to_compare

    def run(config: dict[str, Any], title: str) -> None:
        sys.stdout.write(f"\n{title}\n")
        _run_one(config)

    sys.stdout.write(f"{len(jobs)} jobs\n")
    table, done = Table("", "job", "AUROC, all patients", box=None), []
    for job in conducted(jobs, stamp(), run):
        done.append(job)
        if job.fault is not None:
            _fail(f"job {len(done)} of {len(jobs)} failed, {job.title}: {job.fault}", job.fault.exit_code)
        auroc = "failed" if job.fault or job.folder is None else _auroc(Store(job.folder).read_json("report.json"))
        table.add_row(str(len(done)), Text(job.title), auroc)
    console().print("", table)
    if runs := to_compare(done):
        sys.stdout.write(f"\ncompare them: fedhealth report --compare {' '.join(runs)}\n")
    return next((job.fault.exit_code for job in done if job.fault is not None), 0)


def _resume(chosen: argparse.Namespace) -> int:
    from fedhealth.server.store import Store
    from fedhealth.starting import load_for

    if chosen.overrides:
        raise SettingError(
            f"a resumed run must keep its config, found {chosen.overrides[0]}. Start a new run to change it."
        )
    store = Store(chosen.resume)
    config = store.read_config()
    load_for(config)
    return _run_one(config, store)


def _run_one(config: dict[str, Any], store: Any = None) -> int:  # noqa: ANN401 - Store, not imported here
    """Run a config to its report, in a fresh folder or on from where a folder stands."""
    from fedhealth.progress import console, result_table, rounds_shown
    from fedhealth.report.many import MANY
    from fedhealth.simulate import checked, open_run, run, unready

    simulation = checked(config)
    for name, fault in unready(simulation).items():
        _say(f"{name} can't take part: {fault}")
    store = store or open_run(simulation)
    log_to(store.folder / "run.log")
    study = simulation.study
    try:
        with rounds_shown(study.title, study.rounds, len(study.roster)) as show:
            run(simulation, store, show)
    except (KeyboardInterrupt, FedHealthError, OSError) as error:
        # Where the folder or the config is at fault, going on would end here again.
        if store.rounds() and not isinstance(error, SettingError | IntegrityError):
            _say(f"rounds are kept; go on with: fedhealth simulate --resume {store.folder}")
        raise error from None
    if len(study.roster) > MANY:
        sys.stdout.write(f"writing the report of {len(study.roster):,} hospitals\n")
        sys.stdout.flush()
    report = _write_report(simulation, store.folder)
    console().print(result_table(report))
    sys.stdout.write(f"\nreport: {_report_file(simulation, store.folder)}\n")
    return 0


def _report(chosen: argparse.Namespace) -> int:
    from fedhealth.server.store import Store
    from fedhealth.starting import load_for

    if (chosen.folder is None) == (chosen.compare is None):
        found = "neither" if chosen.folder is None else "both"
        raise SettingError(f"a report is of one RUN or compares RUNS, found {found}. See fedhealth report --help.")
    if chosen.compare:
        return _compare(chosen)
    store = Store(chosen.folder)
    config = store.read_config()
    # Before the config is believed: what is wrong in an edited one is beside the point.
    store.read_manifest()
    load_for(config)
    from fedhealth.simulate import checked

    simulation = checked(config)
    _write_report(simulation, chosen.folder)
    sys.stdout.write(f"report: {_report_file(simulation, chosen.folder)}\n")
    return 0


def _compare(chosen: argparse.Namespace) -> int:
    from fedhealth.progress import console, grid_table
    from fedhealth.report import comparison_tables as tables
    from fedhealth.report.comparison import compared
    from fedhealth.report.comparison_page import finding, write
    from fedhealth.runs import above, named, read

    folders = named(chosen.compare)
    comparison = compared([read(folder) for folder in folders], target=chosen.target, against=chosen.against)
    written = write(comparison, chosen.out or above(folders) / "comparison")
    ordered, others = tables.order(comparison), ("log_loss", "calibration_slope")
    grids = [tables.results(comparison, ordered), tables.results(comparison, others), tables.costs(comparison)]
    for grid in (*grids, tables.differences(comparison)):
        if grid.rows:
            console().print(grid_table(grid), "")
    for sentence in (finding(comparison), *comparison["coverage"]):
        console().print(sentence, markup=False, highlight=False)
    sys.stdout.write(f"\ncomparison: {written[0]} and .{', .'.join(path.suffix[1:] for path in written[1:])}\n")
    return 0


def _write_report(simulation: Simulation, folder: Path) -> dict[str, Any]:
    """Write report.json, and report.html where it is wanted."""
    from fedhealth.report.findings import findings
    from fedhealth.server.store import REPORT, Store
    from fedhealth.simulate import processes_of

    store = Store(folder)
    manifest = store.read_manifest()
    documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
    report = findings(
        simulation.study,
        history=store.read_history(),
        manifest=manifest,
        processes=processes_of(simulation),
        **documents,
    )
    store.write_json(REPORT, report)
    if simulation.settings.report:
        from fedhealth.report.page import write_html

        write_html(report, folder / "report.html")
    return report


def _report_file(simulation: Simulation, folder: Path) -> Path:
    """What to open to read the report."""
    return folder / ("report.html" if simulation.settings.report else "report.json")


def _runs(chosen: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fedhealth.progress import console
    from fedhealth.runs import beneath

    table = Table("run", "state", "AUROC, all patients", box=None)
    for folder in beneath(chosen.folder):
        table.add_row(escape(str(folder)), *_state(folder))
    console().print(table if table.row_count else escape(f"no runs in {chosen.folder}"))


def _auroc(report: dict[str, Any]) -> str:
    """The federation's AUROC on all test patients, for a table."""
    from fedhealth.core.measure import Measure

    return str(Measure.from_json(report["union"]["federated"]["auroc"])).replace(" [", " \\[")


def _state(folder: Path) -> tuple[str, str]:
    """How far a run came, and the AUROC that its report gives."""
    from fedhealth.server.store import MANIFEST, REPORT, SUMS, Store

    store = Store(folder)
    try:
        store.read_config()
        store.read_history()
        for name in SUMS:
            if (folder / name).is_file():
                store.read_json(name)
        if not all((folder / name).is_file() for name in (MANIFEST, REPORT)):
            return f"stopped after round {len(store.rounds())}", ""
        store.read_manifest()
        report = store.read_json(REPORT)
    except (FedHealthError, OSError):
        return "broken", ""
    return f"done, {report['study']['rounds_done']} rounds", _auroc(report)


def _sites_list(chosen: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fedhealth.core.manifest import load_manifest
    from fedhealth.places import builtin_sites, site_names
    from fedhealth.progress import console

    folder = chosen.folder or builtin_sites()
    table = Table("name", "hospital", "region", "source", "what is special", box=None)
    for name in site_names(folder):
        manifest = load_manifest(folder / name)
        shown = (name, manifest.title, manifest.region, manifest.source["kind"], manifest.description)
        table.add_row(*map(escape, shown))
    if not table.row_count:
        raise SettingError(
            f"a sites folder must hold <name>/site.yaml, found none in {folder}. Try fedhealth sites new."
        )
    console().print(table)


def _sites_new(chosen: argparse.Namespace) -> None:
    from fedhealth.synthetic.folders import write_sites

    for path in write_sites(chosen.out, h=chosen.h, n=chosen.n, seed=chosen.seed):
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(f"run them: fedhealth simulate sites.folder={chosen.out} sites.names=null\n")


def _sites_split(chosen: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fedhealth.evaluation.heterogeneity import heterogeneity, sums_of
    from fedhealth.progress import console
    from fedhealth.synthetic.folders import split_table

    split = split_table(
        chosen.table,
        chosen.out,
        scheme=chosen.by,
        outcome=chosen.outcome,
        column=chosen.column,
        parts=chosen.parts,
        alpha=chosen.alpha,
        least=chosen.least,
        seed=chosen.seed,
    )
    for path in split.paths:
        sys.stdout.write(f"{path}\n")
    found = heterogeneity({name: sums_of(split.columns[name], split.outcome[name]) for name in split.columns})
    table = Table("how the parts differ", "", box=None)
    for row in found.rows():
        table.add_row(*map(escape, row))
    console().print(table)


def log_to(path: Path) -> None:
    """Keep the package's log in the run's folder and off the terminal."""
    logger = logging.getLogger("fedhealth")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
