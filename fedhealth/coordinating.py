"""What a coordinator does beside running: enrols hospitals, submits studies, follows and shows their runs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedhealth.conduct import PROPOSER, TOLD_FILE, run_folder
from fedhealth.core.errors import FedHealthError, SettingError, did_you_mean
from fedhealth.core.parts import build
from fedhealth.core.settings import read
from fedhealth.core.study import digest, packed, unpacked
from fedhealth.governance.proposal import propose
from fedhealth.governance.signing import new_key, public, signing_key
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.enrolment import read_request
from fedhealth.runtime.deployment.line import Line, Unreachable, go_straight
from fedhealth.runtime.told import Listener, error_in
from fedhealth.study_document import check_keys, check_strategy, document_of, fitting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fedhealth.governance.proposal import Signed
    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder
    from fedhealth.runtime.deployment.enrolment import Enrolled

#: How long a command waits for a SuperLink that is starting.
PATIENCE_S = 5.0
#: Seconds between looks at what a run told, and between questions whether it still goes on.
LOOK_S, ASK_S = 0.1, 2.0
#: How long a coordinator may be away while a run is followed.
AWAY_S = 120.0


@contextmanager
def control(coordinator: CoordinatorFolder, patience_s: float = PATIENCE_S) -> Iterator[flower.Control]:
    """The line for orders to a coordinator's SuperLink, with the token that is kept in its folder.

    Raises:
        FedHealthError: it does not run.
    """
    go_straight(coordinator.here)
    made = flower.Control(
        coordinator.here, coordinator.client_context(), coordinator.token("coordinator"), Line(patience_s)
    )
    try:
        yield made
    except Unreachable as error:
        raise Unreachable(
            f"a coordinator must be running for this, found nobody at {coordinator.here}. Run fedhealth coordinator "
            f"start {coordinator.path}"
        ) from error
    finally:
        made.close()


def enrol(coordinator: CoordinatorFolder, request: bytes, *, patience_s: float = PATIENCE_S) -> Enrolled:
    """The hospital whose request is granted.

    Raises:
        SettingError: it is no request, too old, used before, or its name or keys are taken.
        IntegrityError: it was changed on its way.
    """
    wish = read_request(request)
    coordinator.register.check(wish)
    with control(coordinator, patience_s) as orders:
        return coordinator.register.add(wish, orders.register(wish.transport, wish.name))


def revoke(coordinator: CoordinatorFolder, name: str) -> Enrolled:
    """The hospital that is let in no more, from the next call on."""
    found = coordinator.register.named(name)
    with control(coordinator) as orders:
        orders.unregister(found.node_id)
    return coordinator.register.revoke(name)


def study_of(coordinator: CoordinatorFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """The document of the study that these overrides describe, over the enrolled hospitals or those they name.

    Raises:
        SettingError: a part does not fit, a hospital is not enrolled, or an override is for simulations.
    """
    from fedhealth.compose import composed, resolved
    from fedhealth.simulate import Sites

    config = resolved(composed(overrides))
    check_keys(config)
    _check_simulated(config)
    enrolled = coordinator.register.enrolled()
    named = read(Sites, config["sites"], where="sites").names
    is_chosen = any(word.lstrip("+~").startswith(("sites=", "sites.", "experiment=")) for word in overrides)
    roster = named if is_chosen and named is not None else tuple(enrolled)
    if not enrolled:
        raise SettingError(
            f"a study's hospitals must be enrolled, found none that is. Let them in: fedhealth coordinator enroll "
            f"{coordinator.path} ENROLMENT.json"
        )
    for name in roster:
        if name not in enrolled:
            raise SettingError(
                f"a study's hospitals must be enrolled, found {name!r}. {did_you_mean(name, enrolled)} "
                "Name them: 'sites.names=[…]', or all that are enrolled: sites.names=null"
            )
    document = document_of(config, roster)
    check_strategy(document, coordinator.settings.strategies)
    study = fitting(document)
    if build(study.secagg, where="secagg", room="fedhealth.secagg").is_masked:
        document = {**document, "identities": {name: enrolled[name].identity for name in sorted(roster)}}
        fitting(document)
    return document


def proposed(coordinator: CoordinatorFolder, document: dict[str, Any], *, purpose: str, until: str) -> Signed:
    """A study as the coordinator proposes it to hospitals, signed with its key, which is made where there is none."""
    return propose(
        document, purpose=purpose, expires=until, name=coordinator.settings.names[0],
        key=signing_key(coordinator.path / PROPOSER),
    )  # fmt: skip


def proposer_of(coordinator: CoordinatorFolder) -> str:
    """The public key that a hospital puts in `proposers` of its site.yaml; the private one is made where there is none."""
    file = coordinator.path / PROPOSER
    return public(signing_key(file)) if file.is_file() else new_key(file)


def _check_simulated(config: dict[str, Any]) -> None:
    """Refuse what stands in for a hospital's own word in a simulation."""
    if config["source"].get("kind") is not None:
        raise SettingError(
            f"`source` must be each hospital's own, found {config['source']['kind']!r}. Set it in its site.yaml."
        )
    if config["attack"].get("sites"):
        raise SettingError("`attack` must be plain where hospitals are real, found one. Use fedhealth simulate.")


def submit(coordinator: CoordinatorFolder, document: dict[str, Any], name: str = "") -> str:
    """The name of a new run of a study, or of one that goes on.

    Raises:
        SettingError: the same study is under way: its hospitals keep one memory of it.
    """
    chosen = name or f"{document['name']}/{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S.%f')[:-3]}"
    folder = run_folder(coordinator, chosen)
    with control(coordinator) as orders:
        for run in orders.runs():
            is_same = run["config"].get("fh-run") == chosen or digest_in(run) == digest(document)
            if is_same and not str(run["state"]).startswith("finished"):
                raise SettingError(
                    f"a study must be under way once, found it in run {run['config'].get('fh-run')}. Wait for it, stop "
                    "it, or change the seed."
                )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / TOLD_FILE).unlink(missing_ok=True)
        orders.start({"fh-study": packed(document), "fh-run": chosen})
    return chosen


def digest_in(run: dict[str, Any]) -> str:
    """The digest of the study of a run, as the SuperLink lists it."""
    return digest(unpacked(str(run["config"].get("fh-study", ""))))


def find(coordinator: CoordinatorFolder, name: str) -> dict[str, Any]:
    """The last of the runs of that name at the SuperLink.

    Raises:
        SettingError: there is none.
    """
    with control(coordinator) as orders:
        runs: dict[str, dict[str, Any]] = {str(run["config"].get("fh-run")): run for run in reversed(orders.runs())}
    if name not in runs:
        raise SettingError(f"a run must be there, found no {name!r}. {did_you_mean(name, runs)}")
    return runs[name]


def follow(coordinator: CoordinatorFolder, name: str, watch: Callable[[dict[str, Any]], None]) -> Path:
    """The folder of a run once it has ended; `watch` gets each round's row.

    Raises:
        FedHealthError: what the run failed of.
        OSError: likewise.
    """
    folder = run_folder(coordinator, name)
    listener, asked_at = Listener(folder / TOLD_FILE), time.monotonic()
    heard_at = asked_at
    while True:
        for kind, said in listener.news():
            if kind == "round":
                watch(said)
            elif kind == "failed":
                raise error_in(said)
            elif kind == "done":
                return folder
        if time.monotonic() - asked_at >= ASK_S:
            asked_at = time.monotonic()
            try:
                run = find(coordinator, name)
                heard_at = asked_at
            except Unreachable:
                # Its supervisor starts it again; the run goes on meanwhile.
                if time.monotonic() - heard_at > AWAY_S:
                    raise
                continue
            if str(run["state"]).startswith("finished") and not listener.news():
                raise FedHealthError(
                    f"a run must end by its own word, found it {run['state']}: {run['why'] or 'no reason given'}. See "
                    f"{folder}/run.log, and go on with: fedhealth coordinator submit {coordinator.path} --resume {name}"
                )
        time.sleep(LOOK_S)
