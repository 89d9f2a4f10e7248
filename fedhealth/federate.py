"""`fedhealth federate DIR`: a coordinator and its hospitals on one machine, for trying and for tests.

Each is a process of its own with the folder, keys and certificates it would have in the field,
and every step is the command that is used there. What differs: one person plays all parts,
so that they alone propose and approve the study, with the hospitals' keys.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

#: How long a SuperLink may take to start, on a busy machine.
START_S = 60.0
#: What a place gets to end its processes.
LEAVE_S = 20.0
#: Entries of a hospital's folder that are its own, and not copied.
OWN = frozenset(
    {"site.yaml", "keys", "state", "logs", "approved", "denied", "audit", "coordinator.json", "enrolment.json"}
)


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `federate` to the command line."""
    parser = commands.add_parser("federate", help="try a deployment: coordinator and hospitals on this machine")
    parser.add_argument("folder", type=Path, metavar="DIR", help="for all their folders; made where there is none")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for fedhealth simulate")
    parser.set_defaults(run=_federate)


def _federate(chosen: argparse.Namespace) -> None:
    from fedhealth.coordinating import study_of, submit
    from fedhealth.coordinator_command import shown

    with federation(chosen.folder, chosen.overrides) as (coordinator, sites):
        document = study_of(coordinator, [*chosen.overrides, f"sites.names=[{','.join(sites)}]"])
        approve_everywhere(coordinator, sites.values(), document)
        name = submit(coordinator, document)
        sys.stdout.write(f"run {name}\n")
        sys.stdout.flush()
        shown(coordinator, name, document)


def approve_everywhere(coordinator: CoordinatorFolder, sites: Iterable[Path], document: dict[str, Any]) -> None:
    """Propose a study and approve it at every hospital, for a week: what people do in the field, each for their own."""
    from fedhealth.coordinating import proposed
    from fedhealth.core.manifest import load_manifest
    from fedhealth.site.approvals import approvals_of
    from fedhealth.site.keys import FOLDER, Keys

    until = (datetime.now(UTC) + timedelta(days=7)).date().isoformat()
    signed = proposed(coordinator, document, purpose="A trial on this machine.", until=until)
    for site in sites:
        approvals_of(load_manifest(site), site).approve(
            signed, until=until, by="fedhealth federate", key=Keys(site / FOLDER).identity
        )


@contextmanager
def federation(folder: Path, overrides: Sequence[str] = ()) -> Iterator[tuple[CoordinatorFolder, dict[str, Path]]]:
    """A coordinator and its hospitals, running and enrolled; ended afterwards, their folders stay.

    Raises:
        FedHealthError: one of them can't be made or started.
    """
    from fedhealth.coordinating import enrol, proposer_of
    from fedhealth.site.enrolling import init

    coordinator = _coordinator(folder / "coordinator")
    sites = _sites(folder / "sites", overrides, proposer_of(coordinator))
    # A trial on a machine where a hospital of that name keeps its ledger must not be charged to it.
    own = {"XDG_STATE_HOME": str(folder.resolve() / "state"), "no_proxy": "*"}
    with ExitStack() as running:
        running.enter_context(place("coordinator start", coordinator.path))
        invitation = (coordinator.path / "invitation.json").read_bytes()
        known = coordinator.register.enrolled()
        for name, site in sites.items():
            if name not in known:
                request, _ = init(site, invitation)
                enrol(coordinator, request.read_bytes(), patience_s=START_S)
            running.enter_context(place("site start", site, own))
        yield coordinator, sites


@contextmanager
def place(words: str, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A place's supervisor, by the command that starts it in the field; it and its processes end afterwards."""
    from fedhealth.runtime.deployment.supervisor import WITH_PARENT

    with _log(folder / "logs" / "supervisor.log") as out:
        process = subprocess.Popen(  # noqa: S603 - this package's own command
            [sys.executable, "-P", "-m", "fedhealth", *words.split(), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {}), WITH_PARENT: "1"},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _coordinator(folder: Path) -> CoordinatorFolder:
    from fedhealth.runtime.deployment.coordinator_folder import SETTINGS, CoordinatorFolder, CoordinatorSettings

    found = CoordinatorFolder(folder)
    if not (folder / SETTINGS).exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        found.init(CoordinatorSettings(listen="127.0.0.1", port=port, names=("127.0.0.1", "localhost")))
    return found


def _sites(folder: Path, overrides: Sequence[str], proposer: str) -> dict[str, Path]:
    """By name, each hospital's folder here: its site.yaml, in which it trusts `proposer`, and links to its data."""
    import yaml

    from fedhealth.compose import composed, resolved
    from fedhealth.core.settings import read
    from fedhealth.places import builtin_sites, site_folder, site_names
    from fedhealth.simulate import Sites

    chosen = read(Sites, resolved(composed(overrides))["sites"], where="sites")
    root = builtin_sites() if chosen.folder is None else Path(chosen.folder)
    names = site_names(root) if chosen.names is None else list(chosen.names)
    made = {}
    for name in sorted(names):
        original, made[name] = site_folder(name, root), folder / name
        made[name].mkdir(parents=True, exist_ok=True, mode=0o700)
        manifest = yaml.safe_load((original / "site.yaml").read_text(encoding="utf-8"))
        manifest["proposers"] = {**manifest.get("proposers", {}), "federate": proposer}
        (made[name] / "site.yaml").write_text(
            yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        for entry in original.iterdir():
            link = made[name] / entry.name
            if entry.name not in OWN and not link.is_symlink():
                link.symlink_to(entry.resolve())
    return made
