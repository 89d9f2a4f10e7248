"""A simulation: every hospital on this machine or on Ray, from a resolved config to a run's folder.

This file, `cli.py`, `preview.py` and `on_ray.py` are the only ones that put the two zones, hospital and
coordinator, together.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import math
import os
import platform
import resource
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context, RecordDict

from fedhealth import __version__
from fedhealth.core.errors import FedHealthError, SettingError, did_you_mean
from fedhealth.core.manifest import SiteManifest, load_manifest
from fedhealth.core.parts import build
from fedhealth.core.settings import read, settings
from fedhealth.core.study import Study, digest, packed, study_from
from fedhealth.core.update import ALL
from fedhealth.evaluation.sparse import dense, sparse
from fedhealth.places import builtin_sites, cache_folder, site_folder, site_names
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.privacy.release import Release
from fedhealth.runtime import flower
from fedhealth.runtime.batched import BatchedGrid
from fedhealth.runtime.local import FIRST_NODE, Local, LocalGrid
from fedhealth.runtime.ray import Job, Ray
from fedhealth.server.app import make, policed
from fedhealth.server.audited_grid import logged
from fedhealth.server.fingerprints import fingerprints
from fedhealth.server.plan import plan_for
from fedhealth.server.stopwatch import Stopwatch
from fedhealth.server.store import MODEL, Store
from fedhealth.site.app import app as client_app
from fedhealth.site.app import client_of, forget
from fedhealth.site.attacks import ROOM as ATTACKS
from fedhealth.site.attacks.plain import Plain
from fedhealth.site.company import Company
from fedhealth.site.engines.batched import Batched
from fedhealth.site.kernels.compiling import keep_in
from fedhealth.site.keys import Keys
from fedhealth.site.ledger_place import ledger_of
from fedhealth.site.trainer import engine_of
from fedhealth.strategies.needs import needs_of
from fedhealth.study_document import check_keys, document_of, fitting
from fedhealth.synthetic import Hospital, generate
from fedhealth.synthetic.between import check_knob
from fedhealth.synthetic.drawn import LEAST_PATIENTS, drawn_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedhealth.runtime.codec import Request
    from fedhealth.runtime.policy import PolicyGrid
    from fedhealth.site.attacks import Attack
    from fedhealth.site.client import Client

log = logging.getLogger(__name__)

BASELINES = ("local", "pooled", "oracle")

#: The name of the k-th hospital drawn.
NAME = "hospital-{:07d}"

#: Hospitals drawn at most, and patients of one of them: more are a slip, and would fill the memory.
MOST_DRAWN, MOST_PATIENTS = 1_000_000, 1_000_000

#: Objects that are made before garbage is looked for among them.
BETWEEN_COLLECTIONS = 100_000

#: Up to so many hospitals a strategy gets each one's answer, as from a real grid; of more, where a sum will do, each block's mean.
APART = 32


@settings
class RunSettings:
    """How a study is run, which does not change what it computes.

    Attributes:
        folder: where results go; None for runs/<study>/<time>.
        baselines: what to compare with, any of local, pooled and oracle.
        report: whether to write report.html.
        audit: whether the coordinator and every hospital keep an audit log, as they do outside simulations.
    """

    folder: str | None = None
    baselines: tuple[str, ...] = ()
    report: bool = True
    audit: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise SettingError(f"`run.baselines` may be {', '.join(BASELINES)}, found {unknown[0]}. Remove it.")


@settings
class Sites:
    """Which hospitals take part: names within a folder of site folders, or as many drawn ones as are asked for.

    Attributes:
        folder: holds the hospitals' folders; None for the built-in ones.
        names: of those that take part; None for all of the folder.
        count: hospitals drawn in their place, which have no folders; None for none.
        patients: of a drawn hospital in a year, about; of each exactly so many where h is 0.
        h: how much drawn hospitals differ: 0 not at all, 1 as real ones do.
        seed: names the draw; hospital k is the same for any count.
    """

    folder: str | None = None
    names: tuple[str, ...] | None = None
    count: int | None = None
    patients: int = 200
    h: float = 0.0
    seed: int = 7

    def __post_init__(self) -> None:
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise SettingError(f"`sites.names` must name each hospital once, found {list(self.names)}. Remove doubles.")
        if self.count is None:
            return
        if self.folder is not None or self.names is not None:
            raise SettingError(
                "`sites.count` draws hospitals, found sites.folder or sites.names beside it. Leave both null."
            )
        if not 1 <= self.count <= MOST_DRAWN:
            raise SettingError(f"`sites.count` must be from 1 to {MOST_DRAWN:,}, found {self.count:,}. Correct it.")
        if not LEAST_PATIENTS <= self.patients <= MOST_PATIENTS:
            raise SettingError(
                f"`sites.patients` must be from {LEAST_PATIENTS} to {MOST_PATIENTS:,}, found {self.patients:,}. "
                "Correct it."
            )
        check_knob(self.h)

    def drawn(self) -> dict[str, dict[str, Any]]:
        """By name, the manifests of the hospitals that are drawn."""
        names = [NAME.format(k) for k in range(1, (self.count or 0) + 1)]
        return {name: drawn_manifest(name, h=self.h, seed=self.seed, size=self.patients) for name in names}


@dataclass(frozen=True)
class Simulation:
    """A checked simulation, ready to run."""

    config: dict[str, Any]
    document: dict[str, Any]
    study: Study
    settings: RunSettings
    folders: dict[str, Path]
    manifests: dict[str, SiteManifest]
    drawn: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    attack: Attack = field(default_factory=Plain)

    @property
    def digest(self) -> str:
        """The study's digest."""
        return digest(self.document)


def checked(config: dict[str, Any]) -> Simulation:
    """The simulation of a resolved config, known to fit together.

    Raises:
        SettingError: anything in the config or in a hospital's manifest is wrong.
    """
    forget()
    check_keys(config)
    sites = read(Sites, config["sites"], where="sites")
    drawn = sites.drawn()
    folders = {name: Path(name) for name in drawn} if drawn else _folders(sites)
    document = document_of(config, folders)
    study = fitting(document)
    runtime = build(config["runtime"], where="runtime", room="fedhealth.runtime")
    if not isinstance(runtime, Local | Ray):
        raise SettingError(
            f"runtime._target_ must name a runtime, found {config['runtime']['_target_']!r}. Use runtime=local or ray."
        )
    return Simulation(
        config=config,
        document=document,
        study=study,
        settings=read(RunSettings, config["run"], where="run"),
        folders={name: folders[name] for name in study.roster},
        manifests={
            name: read(SiteManifest, drawn[name], where=name) if name in drawn else load_manifest(folders[name])
            for name in study.roster
        },
        drawn={name: packed(manifest) for name, manifest in drawn.items()},
        sources=_sources(config["source"], study.roster),
        attack=_attack(config["attack"], study),
    )


def _folders(sites: Sites) -> dict[str, Path]:
    """By name, the folders of the hospitals that have one.

    Raises:
        SettingError: one that is named is not there.
    """
    folder = builtin_sites() if sites.folder is None else Path(sites.folder)
    names = site_names(folder) if sites.names is None else sites.names
    return {name: site_folder(name, folder) for name in names}


def open_run(simulation: Simulation) -> Store:
    """A fresh folder for a run, with its config in it.

    Raises:
        SettingError: the folder exists, or the runtime lacks what it needs.
    """
    _runtime(simulation)
    mechanism = plan_for(simulation.study).mechanism
    if isinstance(mechanism, Release):
        raise SettingError(
            "a study with privacy=release trains nothing, found it in a simulation. Use fedhealth synthesize, or another privacy."
        )
    store = Store(fresh_folder(simulation))
    store.write_config(simulation.config)
    return store


def fresh_folder(simulation: Simulation) -> Path:
    """A run's folder, made now.

    Raises:
        SettingError: it exists.
    """
    chosen = simulation.settings.folder
    folder = Path(chosen) if chosen else Path("runs") / simulation.study.name / stamp()
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise SettingError(
            f"a run must have a folder of its own, found {folder} there already. Choose another run.folder, or go on "
            f"with it: fedhealth simulate --resume {folder}"
        ) from None
    return folder


def stamp() -> str:
    """The moment as a folder's name, to the millisecond; later ones sort after."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]


def clients(simulation: Simulation) -> dict[str, Client]:
    """Every hospital's client, by name."""
    study = packed(simulation.document)
    return {
        name: client_of(
            node["site-folder"],
            study,
            node["approved"],
            node.get("source", ""),
            node.get("attack", ""),
            packed_manifest=node.get("manifest", ""),
        )
        for name, node in _nodes(simulation, Path()).items()
    }


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Leave what is loaded by now to itself: some of Flower's strategies collect garbage once a reply, and it is none."""
    gc.freeze()
    often, *rest = gc.get_threshold()
    # Nor is what a block of hospitals works with, thousands of objects at a time that go by themselves.
    gc.set_threshold(BETWEEN_COLLECTIONS, *rest)
    try:
        yield
    finally:
        gc.set_threshold(often, *rest)
        # What is frozen at the end of the process is never freed, of which DuckDB complains aloud.
        gc.unfreeze()


def unready(simulation: Simulation) -> dict[str, FedHealthError]:
    """The hospitals whose data can't become a cohort, and why; whoever simulates owns them all and may know.

    Raises:
        FedHealthError: the first fault, where too few are left for the quorum.
    """
    faults: dict[str, FedHealthError] = {}
    # Drawn hospitals are alike in what can be wrong, and to draw all their patients twice may take minutes.
    looked_at = list(clients(simulation).items())[: 1 if simulation.drawn else None]
    for name, client in looked_at:
        try:
            _ = client.cohort
        except FedHealthError as error:
            faults[name] = error
    study = simulation.study
    quorum = len(study.roster) if study.rules.quorum is None else max(study.rules.quorum, plan_for(study).least)
    if len(study.roster) - len(faults) < quorum:
        name, fault = next(iter(faults.items()))
        raise type(fault)(f"{name}: {fault}") from fault
    return faults


def run(simulation: Simulation, store: Store, watch: Callable[[dict[str, Any]], None]) -> None:
    """Run or go on with a simulation, and leave its results in the folder.

    Raises:
        FedHealthError: as `server.app.conduct`.
    """
    flower.quiet()
    keep_in(cache_folder())
    with contextlib.contextmanager(store.lock)(), _frozen():
        stopwatch = Stopwatch()
        simulation = identified(simulation, store)
        if simulation.settings.audit:
            for name in simulation.study.roster:
                Keys(store.folder / "keys" / name).init()
        runtime = _runtime(simulation)
        if isinstance(runtime, Ray):
            _run_on_ray(simulation, store, runtime, watch)
        else:
            _run_here(simulation, store, runtime, watch, stopwatch)
        _write_baselines(simulation, store)
        _write_manifest(simulation, store, stopwatch)
    # The hospitals have said all; a report is made of what they said, and needs the room.
    forget()


def identified(simulation: Simulation, store: Store) -> Simulation:
    """The simulation with its hospitals' public keys in a masked study; their keys are made here where there are none."""
    if not build(simulation.study.secagg, where="secagg", room="fedhealth.secagg").is_masked:
        return simulation
    keys = {name: Keys(store.folder / "keys" / name).init() for name in simulation.study.roster}
    document = {**simulation.document, "identities": keys}
    return replace(simulation, document=document, study=study_from(document, where="the config"))


def _run_here(
    simulation: Simulation,
    store: Store,
    runtime: Local,
    watch: Callable[[dict[str, Any]], None],
    stopwatch: Stopwatch,
) -> None:
    """Run the study in this process."""
    study, run_config = simulation.study, _run_config(simulation, store)
    inner = _grid(simulation, runtime, list(_nodes(simulation, store.folder).values()), run_config)
    names = dict(enumerate(study.roster, start=FIRST_NODE))
    audited = logged(inner, names, study, simulation.digest, store.folder) if simulation.settings.audit else inner
    try:
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
        # This grid waits by itself where nothing is ready.
        make(watch, stopwatch)(policed(audited, names, study, simulation.digest, poll_s=0), context)
    finally:
        inner.close()


def _grid(
    simulation: Simulation, runtime: Local, nodes: list[dict[str, str]], run_config: Mapping[str, str]
) -> LocalGrid:
    """The grid of this process: hospitals by blocks where the study's engine trains many at once."""
    plan = plan_for(simulation.study)
    if runtime.workers or simulation.settings.audit or not isinstance(engine_of(simulation.study), Batched):
        if runtime.executor == "ray":
            log.info("hospitals answer in this process and not on Ray: with run.audit or another engine than batched")
        return runtime.grid(client_app, nodes, run_config)
    is_open = not plan.sealing.is_masked and not isinstance(plan.mechanism, PatientLevel)
    if not is_open:
        log.info("hospitals answer one after the other, in one process: under masks or patients' privacy")
    is_summed = partial(_is_summed, is_open and needs_of(plan.strategy) == "sum" and len(nodes) > APART)
    away = None
    if runtime.executor == "ray" and is_open:
        from fedhealth import on_ray
        from fedhealth.runtime.ray_hands import RayHands

        crew = partial(on_ray.crew, run_config["fh-study"], run_config["fh-folder"])
        away = partial(RayHands, crew=crew, is_summed=is_summed, address=runtime.address)
    return BatchedGrid(
        Company(run_config["fh-study"]),
        nodes,
        processes=runtime.forks(len(nodes)) if is_open else 1,
        is_summed=is_summed,
        away=away,
    )


def _is_summed(is_sum: bool, request: Request) -> bool:
    """Whether the hospitals of a block may answer a question together."""
    return is_sum and (request.purpose == "train" or (request.purpose == "evaluate" and not request.config["grouped"]))


@contextlib.contextmanager
def asked_here(simulation: Simulation, store: Store, *, least: int | None = None) -> Iterator[PolicyGrid]:
    """All hospitals in this process, for a question outside a study's rounds.

    Args:
        simulation: the study.
        store: where its hospitals keep what they must.
        least: how many must answer; by default as many as its rounds need.
    """
    flower.quiet()
    study, names = simulation.study, dict(enumerate(simulation.study.roster, start=FIRST_NODE))
    nodes = _nodes(simulation, store.folder).values()
    inner = Local().grid(client_app, nodes, _run_config(simulation, store))
    try:
        grid = policed(inner, names, study, simulation.digest, poll_s=0)
        grid.ask(study.roster)
        grid.need(plan_for(study).least if least is None else least)
        yield grid
    finally:
        inner.close()


def _run_on_ray(simulation: Simulation, store: Store, runtime: Ray, watch: Callable[[dict[str, Any]], None]) -> None:
    """Run the study on Ray, through the same two apps."""
    from fedhealth import on_ray

    config = on_ray.run_config(_run_config(simulation, store), _nodes(simulation, store.folder))
    job = Job(
        server=on_ray.SERVER_APP,
        client=on_ray.CLIENT_APP,
        run_config=config,
        nodes=len(simulation.study.roster),
        log=store.folder / "flower.log",
    )
    runtime.run(job, watch)


def processes_of(simulation: Simulation) -> int:
    """How many processes of this machine find its report's numbers: as many as it was told to use, else two."""
    runtime = build(simulation.config["runtime"], where="runtime", room="fedhealth.runtime")
    told = runtime.processes if isinstance(runtime, Local) else None
    return told or min(os.cpu_count() or 1, 2)


def _runtime(simulation: Simulation) -> Local | Ray:
    """The runtime, ready for use.

    Raises:
        SettingError: what it needs is not installed.
    """
    runtime: Local | Ray = build(simulation.config["runtime"], where="runtime", room="fedhealth.runtime")
    runtime.require()
    return runtime


def _run_config(simulation: Simulation, store: Store) -> dict[str, str]:
    """What both apps read of the run."""
    config = {"fh-study": packed(simulation.document), "fh-folder": str(store.folder.resolve())}
    return config | ({"fh-audit": "on"} if simulation.settings.audit else {})


def roster_table(simulation: Simulation) -> dict[str, dict[str, Any]]:
    """What the report says of each hospital, from its manifest."""
    return {
        name: {
            "title": manifest.title,
            "region": manifest.region,
            "description": manifest.description,
            "simulated": _source(simulation, name)["kind"] == "synthetic",
            "min_cell": manifest.policy.min_cell,
            "min_cohort": manifest.policy.min_cohort,
            "shared": manifest.policy.share_site_results,
        }
        for name, manifest in simulation.manifests.items()
    }


def _sources(found: Mapping[str, Any], roster: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By hospital, the source that the config puts in place of its own; empty for none."""
    if found.get("kind") is None:
        return {}
    return {
        name: {key: value.replace("@site", name) if isinstance(value, str) else value for key, value in found.items()}
        for name in roster
    }


def _attack(found: Mapping[str, Any], study: Study) -> Attack:
    """The attack, known to fit the study; it is no part of the study.

    Raises:
        SettingError: nobody attacks, a hospital that is not in the study, or a wrong setting.
    """
    attack: Attack = build(found, where="attack", room=ATTACKS, does="train")
    if not attack.sites and not isinstance(attack, Plain):
        raise SettingError(
            "`attack.sites` must name at least one hospital of the study, found none. Name it, or use attack=plain."
        )
    for name in attack.sites:
        if name not in study.roster:
            raise SettingError(
                f"`attack.sites` must name hospitals of the study, found {name!r}. {did_you_mean(name, study.roster)}"
            )
    if len(set(attack.sites)) < len(attack.sites):
        raise SettingError(f"`attack.sites` must name each hospital once, found {list(attack.sites)}. Remove doubles.")
    attack.check(study.features)
    return attack


def _source(simulation: Simulation, name: str) -> dict[str, Any]:
    return simulation.sources.get(name, simulation.manifests[name].source)


def _nodes(simulation: Simulation, run_folder: Path) -> dict[str, dict[str, str]]:
    """By hospital, what its node knows from the start, in the order of the roster."""
    approved, sources, attack = simulation.digest, simulation.sources, packed(simulation.config["attack"])
    run, drawn = str(run_folder.resolve()), simulation.drawn
    return {
        name: {
            "site-folder": name if name in drawn else str(simulation.folders[name].resolve()),
            "approved": approved,
            "memory-folder": f"{run}/memory/{name}",
            "run-folder": run,
            "key-folder": f"{run}/keys/{name}",
        }
        | ({"audit-folder": f"{run}/audit/{name}"} if simulation.settings.audit else {})
        | ({"manifest": drawn[name]} if name in drawn else {})
        | ({"source": packed(sources[name])} if name in sources else {})
        | ({"attack": attack} if name in simulation.attack.sites else {})
        for name in simulation.study.roster
    }


def _write_baselines(simulation: Simulation, store: Store) -> None:
    """Write the score sums of the baselines that were asked for, by who and hospital."""
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.site import baselines

    study, wanted = simulation.study, simulation.settings.baselines
    if not wanted:
        # To read the sums of ten thousand hospitals takes seconds.
        store.write_json("baselines.json", {})
        return
    results = store.read_json("results.json")
    is_masked, took_part = "counted" in results, results.get("counted", results["sums"])
    present = {name: client for name, client in clients(simulation).items() if name in took_part}
    preprocessor = Preprocessor.from_json(store.read_json("statistics.json")["preprocessor"])
    sums: dict[str, dict[str, dict[str, Any]]] = {}
    if "local" in wanted:
        sums["local"] = {
            name: sparse(baselines.scored(study, present[name], own, network))
            for name, (own, network) in baselines.local(study, present).items()
        }
    if "pooled" in wanted:
        network = baselines.pooled(study, present, preprocessor)
        sums["pooled"] = {
            name: sparse(baselines.scored(study, client, preprocessor, network)) for name, client in present.items()
        }
    simulated = [name for name in present if _source(simulation, name)["kind"] == "synthetic"]
    if "oracle" in wanted and simulated:
        sums["oracle"] = {
            name: sparse(baselines.against_truth(study, present[name], _risk_of(simulation, name)))
            for name in simulated
        }
    if is_masked:
        # What a masked run could never tell of a hospital, its baselines don't either.
        sums = {
            who: {ALL: sparse(np.sum([dense(each[name]) for name in sorted(each)], axis=0))}
            for who, each in sums.items()
        }
    store.write_json("baselines.json", sums)


def _risk_of(simulation: Simulation, name: str) -> Callable[[], dict[str, float]]:
    """The true risk of a simulated hospital's patients, by pseudonym; the oracle's, never a client's."""

    def risk_of() -> dict[str, float]:
        chosen = {key: value for key, value in _source(simulation, name).items() if key != "kind"}
        hospital = read(Hospital, chosen, where=f"{name}: source")
        task = simulation.study.task
        made = generate(
            hospital,
            name=name,
            seed=simulation.study.seed,
            task=task.name,
            horizon_days=None if task.follow_up is None else task.follow_up.horizon_days,
        )
        return dict(zip(made.table.patients.tolist(), made.risk.tolist(), strict=True))

    return risk_of


def _write_manifest(simulation: Simulation, store: Store, stopwatch: Stopwatch) -> None:
    """Write what a reader needs to know how the run came about.

    Seconds are those of the `Stopwatch`, over every process; the peak of memory is this one's.
    """
    is_on_ray = isinstance(_runtime(simulation), Ray)
    statistics = store.read_json("statistics.json")
    packages = ("flwr", "torch", "numpy", "hydra-core", "safetensors", *(["ray"] if is_on_ray else []))
    store.write_manifest(
        {
            "study": simulation.digest,
            "config_sha256": digest(simulation.config),
            # As results.json has it, which takes seconds to read where ten thousand hospitals are in it.
            "weights_sha256": hashlib.sha256((store.folder / MODEL).read_bytes()).hexdigest(),
            "code_version": __version__,
            "packages": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
            "seed": simulation.study.seed,
            "seeds": "SHA-256 of (seed, round, site, purpose), first 8 bytes",
            "cohorts": fingerprints(statistics),
            "sites": roster_table(simulation),
            "attack": {**simulation.config["attack"], "statement": simulation.attack.statement()},
            "privacy_audit": _audit(simulation, statistics),
            "privacy_spent": _spent(simulation, store),
            **stopwatch.read(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
            # What Ray's many processes used nobody adds up, and a part would pass for the whole.
            **(dict.fromkeys(("cpu_s", "peak_memory_bytes")) if is_on_ray else {}),
        },
    )


def _audit(simulation: Simulation, statistics: Mapping[str, Any]) -> str:
    """What attacks on the study's privacy mechanism found, in one sentence; empty where there is none to attack."""
    from fedhealth.audit_command import attacked, in_words

    found = attacked(simulation, [shape[0] for shape in statistics["shapes"].values()])
    # Of a seeded run nothing is claimed, so there is nothing to attack.
    return "" if found is None or math.isinf(found.promised.epsilon) else in_words(found)


def _spent(simulation: Simulation, store: Store) -> str:
    """What the ledgers hold for this study, of the hospital whose patients spent most; empty where none charged it.

    It is more than was planned where a round was run again.
    """
    mechanism = plan_for(simulation.study).mechanism
    if not isinstance(mechanism, PatientLevel):
        return ""
    # The accountant loads much of scipy, for seconds.
    from fedhealth.privacy.guarantee import guarantee
    from fedhealth.privacy.ledger import events_of

    each = []
    for name, manifest in simulation.manifests.items():
        ledger = ledger_of(manifest, simulation.folders[name].resolve(), run=store.folder.resolve())
        rows = [row for row in ledger.rows() if row.digest == simulation.digest]
        each.append(guarantee(events_of(rows), delta=mechanism.delta, views={row.view for row in rows}))
    most = max(each, key=lambda found: found.epsilon)
    return f"Charged to the hospitals' ledgers for this study, where most was: {most}."
