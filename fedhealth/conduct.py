"""The process of one run at a coordinator: the server app over the network, from a task to a report.

Where it is killed the executor starts it again, and it goes on from the last checkpoint. What
runs is the installed package: of the run comes its study, a document.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context, RecordDict

from fedhealth import __version__
from fedhealth.cli import log_to
from fedhealth.core.errors import FedHealthError, SettingError, did_you_mean
from fedhealth.core.parts import build
from fedhealth.core.study import digest, packed, study_from, unpacked
from fedhealth.governance.audit import Log
from fedhealth.governance.signing import signing_key
from fedhealth.privacy.release import Release
from fedhealth.releasing import CARD, PATIENTS, Planned, made
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.grid import DeployedGrid
from fedhealth.runtime.deployment.line import Line
from fedhealth.runtime.told import said_of, tell
from fedhealth.server.app import make, policed
from fedhealth.server.audited_grid import AuditedGrid
from fedhealth.server.fingerprints import fingerprints
from fedhealth.server.margins import counted
from fedhealth.server.plan import plan_for
from fedhealth.server.stopwatch import Stopwatch
from fedhealth.server.store import CONFIG, Store
from fedhealth.server.tables import answer, ask
from fedhealth.study_document import check_strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedhealth.core.study import Study
    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder
    from fedhealth.runtime.deployment.enrolment import Enrolled
    from fedhealth.runtime.policy import PolicyGrid

#: Seconds between looks at what has come, where the SuperLink did not have this process wait for it.
POLL_S = 0.2
#: How long the SuperLink may be away.
PATIENCE_S = 120.0
#: In the coordinator's folder, the key that signs its proposals and its log.
PROPOSER = "proposer.key"
#: In a run's folder, what its process told whoever follows it.
TOLD_FILE = "told.jsonl"
#: In a run's folder, what a study of tables gave; of a release the sum that hospitals told, and the folder of what was made of it.
TABLES, COUNTS, RELEASE = "tables.json", "counts.json", "release"
#: What the card of a release says where no process holds patients and release.
COMPARED = (
    "Compared with no real patient: whoever made it has none. What its bound says holds all the same; how near it comes to "
    "patients nobody has looked at."
)
#: A run's folder within runs/: the study's name and the time it was submitted.
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*/[0-9][0-9T.-]*"


def conducted(coordinator: CoordinatorFolder, file: Path) -> None:
    """Conduct the run of a task, whose file the executor wrote; where it fails, why stands beside that.

    Raises:
        FedHealthError: the run failed.
        OSError: a file could not be written.
    """
    found = json.loads(file.read_bytes())
    task = flower.Task(found["task_id"], found["run_id"], found["token"])
    told = None
    try:
        config = found["run_config"]
        folder = run_folder(coordinator, str(config["fh-run"]))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        told = folder / TOLD_FILE
        tell(told, "started")
        log_to(folder / "run.log")
        _conduct(coordinator, task, unpacked(str(config["fh-study"])), folder)
        tell(told, "done")
    except (FedHealthError, OSError) as error:
        # On a disk that is full neither may fit; then the run's state says what its process ended with.
        with suppress(OSError):
            file.with_suffix(".why").write_text(_why(error), encoding="utf-8")
        if told is not None:
            with suppress(OSError):
                tell(told, "failed", said_of(error))
        raise


def run_folder(coordinator: CoordinatorFolder, name: str) -> Path:
    """The folder of a run by its name.

    Raises:
        SettingError: the name could lead elsewhere.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise SettingError(f"a run must be named study/time, found {name[:80]!r}. See fedhealth coordinator status.")
    return coordinator.path / "runs" / name


def _conduct(coordinator: CoordinatorFolder, task: flower.Task, document: dict[str, Any], folder: Path) -> None:
    check_strategy(document, coordinator.settings.strategies)
    study, store = study_from(document), Store(folder)
    sites = {name: _enrolled(coordinator, name) for name in study.roster}
    with contextmanager(store.lock)():
        if not (folder / CONFIG).exists():
            store.write_config(document)
        stopwatch = Stopwatch()
        inner = flower.grid(
            coordinator.here, coordinator.client_context(), coordinator.token("runtime"), task, Line(PATIENCE_S)
        )
        names = {site.node_id: name for name, site in sites.items()}
        audited = AuditedGrid(
            DeployedGrid(inner, study.rules.node_timeout_s),
            names,
            Log(coordinator.path / "audit", "fedhealth/coordinator", signing_key(coordinator.path / PROPOSER)),
            digest(document),
            {name: site.identity for name, site in sites.items()},
        )
        grid = policed(audited, names, study, digest(document), poll_s=POLL_S)
        answers = _answers(study, document, grid, store, sites)
        if answers:
            about = _about(study, document, stopwatch, sites)
            store.write_manifest(about, sources=(CONFIG, *answers))
            return
        run_config = {"fh-study": packed(document), "fh-folder": str(folder)}
        context = Context(run_id=task.run_id, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
        make(lambda row: tell(folder / TOLD_FILE, "round", row), stopwatch)(grid, context)
        store.write_json("baselines.json", {})
        learned = {
            "weights_sha256": store.read_json("results.json")["weights_sha256"],
            "cohorts": fingerprints(store.read_json("statistics.json")),
        }
        store.write_manifest({**_about(study, document, stopwatch, sites), **learned})
        write_report(study, store)


def _answers(
    study: Study, document: Mapping[str, Any], grid: PolicyGrid, store: Store, sites: Mapping[str, Enrolled]
) -> tuple[str, ...]:
    """The files that a study which asks once gives, written; none of one that trains.

    What hospitals told is kept before anything is made of it: a process that is started again must not ask again,
    since noisy counts are let out once.
    """
    if study.tabulation.tables:
        if not (store.folder / TABLES).exists():
            # As hospitals said when they were enrolled; each holds a study to its own floor by itself.
            least = max(int(site.card["min_cohort"]) for site in sites.values())
            grid.ask(study.roster)
            grid.need(least)
            store.write_json(TABLES, answer(study, digest(document), ask(study, grid, least=least)))
        return (TABLES,)
    if not isinstance(build(study.privacy, where="privacy", room="fedhealth.privacy"), Release):
        return ()
    if not (store.folder / COUNTS).exists():
        Planned.of(study)
        grid.ask(study.roster)
        grid.need(plan_for(study).least)
        counts, hospitals, noise = counted(study, grid)
        store.write_json(COUNTS, {"counts": counts.tolist(), "hospitals": hospitals, "noise": noise})
    told = store.read_json(COUNTS)
    release = made(
        study, digest(document), np.array(told["counts"]), told["hospitals"], told["noise"], compared=COMPARED
    )
    release.write(store.folder / RELEASE)
    return (COUNTS, *(f"{RELEASE}/{name}" for name in (PATIENTS, f"{CARD}.json", f"{CARD}.md")))


def _enrolled(coordinator: CoordinatorFolder, name: str) -> Enrolled:
    known = coordinator.register.enrolled()
    if name not in known:
        raise SettingError(f"a study's hospitals must be enrolled, found {name!r}. {did_you_mean(name, known)}")
    return known[name]


def _about(
    study: Study, document: Mapping[str, Any], stopwatch: Stopwatch, sites: Mapping[str, Enrolled]
) -> dict[str, Any]:
    """What a reader needs to know of how the run came about; of hospitals, what they said of themselves."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "study": digest(document),
        "config_sha256": digest(document),
        "code_version": __version__,
        "packages": {name: version(name) for name in ("flwr", "torch", "numpy", "hydra-core", "safetensors")},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "seed": study.seed,
        "seeds": "SHA-256 of (seed, round, site, purpose), first 8 bytes",
        "sites": {name: site.card for name, site in sites.items()},
        **stopwatch.read(),
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def write_report(study: Study, store: Store) -> dict[str, Any]:
    """Write report.json and report.html of a run that has ended; the former's content."""
    from fedhealth.report.findings import findings
    from fedhealth.report.page import write_html
    from fedhealth.server.store import REPORT

    documents = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
    report = findings(study, history=store.read_history(), manifest=store.read_manifest(), processes=1, **documents)
    store.write_json(REPORT, report)
    write_html(report, store.folder / "report.html")
    return report


def _why(error: FedHealthError | OSError) -> str:
    if isinstance(error, OSError):
        return (
            f"files must be readable and writable, found {error.strerror} {error.filename or ''}. Free space or rights."
        )
    return " ".join(str(error).split())
