"""The server app: one study from its first question to its results."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp import ServerApp
from safetensors.numpy import save as save_tensors

from fedhealth.core.cohort_shape import CohortShape
from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.parts import build
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.study import canonical, digest, study_from, unpacked
from fedhealth.core.update import ALL
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.evaluation.sparse import sparse
from fedhealth.models.weights import first_network, names_of, weights_of
from fedhealth.privacy.central import Central
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.runtime.policy import Patience, PolicyGrid
from fedhealth.secagg.masked import Masked
from fedhealth.server.plan import Plan, plan_for
from fedhealth.server.private_plan import promised
from fedhealth.server.rounds import Progress, evaluated, masked_rows, resumed, run_rounds
from fedhealth.server.secure_grid import MaskedStudy, SecureGrid
from fedhealth.server.statistics import Statistics, counted, gather
from fedhealth.server.stopwatch import Stopwatch
from fedhealth.server.store import MODEL, Store, write_bytes
from fedhealth.strategies.fedsgd import FedSgdServer
from fedhealth.strategies.method import SumServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.app import Context
    from flwr.serverapp import Grid

    from fedhealth.core.study import Study
    from fedhealth.server.store import Arrays

log = logging.getLogger(__name__)

#: Of the sums that each hospital tells for itself, so many bytes are asked for at a time: they are there several times over.
MOST_SUMS_BYTES = 1 << 24


def log_row(row: dict[str, Any]) -> None:
    """Say in one line what a round gave."""
    log.info("round=%d answered=%d took_s=%.2f", row["round"], row["answered"], row["took_s"])


def make(watch: Callable[[dict[str, Any]], None] = log_row, stopwatch: Stopwatch | None = None) -> ServerApp:
    """A server app that tells `watch` each round's row of the history, on its own stopwatch or a running one."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        document = unpacked(str(context.run_config["fh-study"]))
        if not isinstance(grid, PolicyGrid):
            raise SettingError(
                f"the server app must be given a PolicyGrid, found {type(grid).__name__}. Wrap the grid with the "
                "hospitals' names."
            )
        store = Store(Path(str(context.run_config["fh-folder"])))
        conduct(study_from(document), digest(document), grid, store, watch, stopwatch or Stopwatch())

    return server


app = make()


def policed(
    grid: Grid, names: Mapping[int, str], study: Study, study_digest: str, *, poll_s: float = 0.05
) -> PolicyGrid:
    """The grid, its nodes named, under a study's rules and masks; it is looked at every `poll_s` seconds."""
    rules = study.rules
    patience = Patience(
        quorum=rules.quorum,
        grace_s=rules.grace_s,
        timeout_s=rules.timeout_s,
        node_timeout_s=rules.node_timeout_s,
        poll_s=poll_s,
    )
    sealing = build(study.secagg, where="secagg", room="fedhealth.secagg", does="seal")
    if isinstance(sealing, Masked):
        return SecureGrid(grid, names, patience, MaskedStudy(study, study_digest, sealing))
    return PolicyGrid(grid, names, patience)


def conduct(
    study: Study,
    study_digest: str,
    grid: PolicyGrid,
    store: Store,
    watch: Callable[[dict[str, Any]], None],
    stopwatch: Stopwatch,
) -> None:
    """Run a study, from its last checkpoint where there is one, and write what it found.

    The run's folder then holds `metrics.jsonl`, `model.safetensors` and `results.json`.

    Raises:
        QuorumError: too few hospitals answered.
        IntegrityError: the folder holds another study's checkpoint, or a broken one.
    """
    plan = plan_for(study)
    grid.ask(study.roster)
    grid.need(plan.least)
    statistics = _statistics(plan, study_digest, grid, store)
    # Before training: a cohort that a batch does not fit ends the study here.
    privacy = _privacy(plan, statistics)
    patients = float(sum(shape.train for shape in statistics.shapes.values()))
    if isinstance(plan.strategy, SumServer):
        grain = plan.sealing.grain(len(study.roster), patients) if isinstance(plan.sealing, Masked) else 0.0
        plan.strategy.begin(patients, grain)
    if isinstance(plan.mechanism, Distributed) and isinstance(plan.strategy, FedSgdServer):
        plan.strategy.divisor = max(plan.mechanism.course(rounds=study.rounds).rate * patients, 1.0)
    checkpoint = store.load()
    if checkpoint is None:
        network = first_network(plan.model, statistics.preprocessor.width, seed=study.seed)
        shared = plan.method.shared(names_of(network))
        progress = Progress(model={name: array for name, array in weights_of(network).items() if name in shared})
    else:
        stopwatch.go_on(checkpoint.state["spent"])
        progress = resumed(plan, checkpoint)
        store.write_history(progress.history)
    progress = run_rounds(plan, grid, statistics.preprocessor, progress, store, watch, stopwatch)
    best = store.load(progress.best_round)
    model = progress.model if best is None else best.model
    grid.exchanges()
    sums: dict[str, dict[str, Any]] = {}
    came_with: dict[str, dict[str, float]] = {}
    whose: dict[str, tuple[str, ...]] = {}
    for asked in _waves(study, grid):
        grid.ask(asked)
        vectors, numbers, hospitals = evaluated(
            plan, grid, statistics.preprocessor, model, progress.done + 1,
            of_round=progress.best_round, part="test", grouped=True,
        )  # fmt: skip
        sums |= {site: sparse(vector) for site, vector in vectors.items()}
        came_with |= numbers
        whose |= hospitals
    grid.ask(study.roster)
    last = grid.exchanges()
    content = artefact(study, study_digest, statistics.preprocessor, model)
    write_bytes(store.folder / MODEL, content)
    store.write_json(
        "results.json",
        {
            "study": study_digest,
            "rounds_done": progress.done,
            "best_round": progress.best_round,
            "stopped_because": progress.stopped_because or "all planned rounds are done",
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            "parameters": int(sum(array.size for array in model.values())),
            "sums": sums,
            "came_with": came_with,
            **({"counted": whose[ALL], "exchanges": masked_rows(last)} if grid.is_masked else {}),
            "failed_last": [{"site": f.site, "reason": f.reason} for exchange in last for f in exchange.failed],
            "is_personal": plan.method.is_personal,
            "privacy": privacy,
            "secagg": plan.sealing.statement(),
        },
    )


def _waves(study: Study, grid: PolicyGrid) -> list[tuple[str, ...]]:
    """The hospitals that tell their sums of the test patients at a time, since nobody adds those up on the way."""
    if grid.is_masked:
        return [study.roster]
    size = max(MOST_SUMS_BYTES // (8 * SummaryLayout.of(study, grouped=True).width), plan_for(study).least)
    return [study.roster[at : at + size] for at in range(0, len(study.roster), size)]


def artefact(study: Study, study_digest: str, preprocessor: Preprocessor, model: Arrays) -> bytes:
    """The model as one safetensors file: the weights, and in its header all that their use needs."""
    header = {
        "study": study_digest,
        "task": study.task.name,
        "model": study.model,
        "preprocessor": preprocessor.to_json(),
    }
    # One entry: safetensors writes several in no fixed order, and the file's hash names the model.
    return bytes(save_tensors(model, metadata={"fedhealth": canonical(header)}))


def _privacy(plan: Plan, statistics: Statistics) -> str:
    """What holds for a patient, or for a hospital, with all that the number depends on."""
    statement = plan.mechanism.statement()
    mechanism, rounds = plan.mechanism, plan.study.rounds
    if isinstance(mechanism, Distributed) and isinstance(plan.sealing, Masked) and mechanism.is_private:
        course, sharing = mechanism.course(rounds=rounds), plan.sealing.sharing(len(plan.study.roster))
        n = plan.sealing.colluders
        helped = f" with up to {n} hospital{'s' * (n > 1)} on its side" if n else ""
        return (
            f"{statement} Over the study as planned, against the coordinator{helped}: {mechanism.planned(course, rounds)}. "
            "Worked out alike, of the same patient and at the same δ: against the coordinator alone, and all who see what it "
            f"makes public, {mechanism.alone(course, rounds, sharing=sharing).bound}; against whoever opens a "
            f"hospital's masks, with what stays of its own share of the noise alone, {mechanism.opened(course, rounds, sharing=sharing).bound}."
        )
    if not isinstance(mechanism, PatientLevel | Central) or not mechanism.is_private:
        return statement
    if isinstance(mechanism, Central):
        return f"{statement} Over the study as planned: {mechanism.planned(plan.study.rounds)}."
    sizes = [shape.train for shape in statistics.shapes.values()]
    return f"{statement} Over the study as planned: {promised(plan.study, mechanism, plan.method, sizes)}."


def _statistics(plan: Plan, study_digest: str, grid: PolicyGrid, store: Store) -> Statistics:
    """The statistics as this run gathered them, or gathered now."""
    path = store.folder / "statistics.json"
    if path.exists():
        found = store.read_json(path.name)
        if found["study"] != study_digest:
            raise IntegrityError(
                f"{path} must belong to study {study_digest[:12]}, found {found['study'][:12]}. "
                "Resume with the run's own config, or choose another folder."
            )
        return Statistics(
            shapes={site: CohortShape(*counts) for site, counts in found["shapes"].items()},
            first={site: np.array(vector) for site, vector in found["first"].items()},
            second={site: np.array(vector) for site, vector in found["second"].items()},
            preprocessor=Preprocessor.from_json(found["preprocessor"]),
        )
    statistics = learned(plan, grid)
    store.write_json(
        path.name,
        {
            "study": study_digest,
            "shapes": {site: [s.train, s.validation, s.test] for site, s in statistics.shapes.items()},
            "first": {site: vector.tolist() for site, vector in statistics.first.items()},
            "second": {site: vector.tolist() for site, vector in statistics.second.items()},
            "preprocessor": json.loads(canonical(statistics.preprocessor.to_json())),
        },
    )
    return statistics


def learned(plan: Plan, grid: PolicyGrid) -> Statistics:
    """What a study learns before training; errors as of `gather`."""
    # Means and deviations would stand in the model's file, without noise.
    private = isinstance(plan.mechanism, PatientLevel | Central)
    return counted(plan.study, grid) if private else gather(plan.study, grid)
