"""`fedhealth site init | doctor | start | unit | status | pause | resume | stop`: a hospital's part in a deployment."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.core.errors import FedHealthError, SettingError

if TYPE_CHECKING:
    from fedhealth.runtime.deployment.site_folder import SiteFolder

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add a hospital's part in a deployment to `site`."""

    def verb(name: str, run: Any, help_: str) -> Parser:  # noqa: ANN401 - a command
        parser = records.add_parser(name, help=help_)
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="the hospital's, with site.yaml")
        parser.set_defaults(run=run)
        return parser

    init = verb("init", _init, "make its keys and a request to be enrolled")
    init.add_argument("--invitation", type=Path, metavar="FILE", help="the coordinator's; once")
    doctor = verb("doctor", _doctor, "look whether all is in order to take part")
    doctor.add_argument("--study", type=Path, metavar="FILE", help="read the data for this study, too")
    verb("start", _start, "take part until it is ended")
    verb("unit", _unit, "print a systemd unit that takes part")
    verb("status", _status, "say what runs, and what it does")
    verb("pause", _pause, "answer nothing for now")
    verb("resume", _resume, "answer again")
    verb("stop", _stop, "end its processes")


def _folder(chosen: argparse.Namespace) -> SiteFolder:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.runtime.deployment.site_folder import SiteFolder

    load_manifest(chosen.folder)
    return SiteFolder(chosen.folder)


def _init(chosen: argparse.Namespace) -> None:
    from fedhealth.runtime.deployment import certificates
    from fedhealth.site.enrolling import init

    if chosen.invitation is not None and not chosen.invitation.is_file():
        raise SettingError(f"--invitation must name a file, found no {chosen.invitation}. Ask the coordinator for it.")
    folder = _folder(chosen)
    request, shown = init(folder.path, chosen.invitation.read_bytes() if chosen.invitation else None)
    authority = certificates.fingerprint(folder.authority.read_bytes())
    sys.stdout.write(
        f"coordinator: {folder.address}\n"
        f"authority: {authority}\n"
        f"compare that line with the coordinator's by telephone; then send it {request}\n"
        f"request: {shown}\n"
    )


def _doctor(chosen: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.progress import console
    from fedhealth.site.doctor import examined

    document = None
    if chosen.study is not None:
        try:
            document = json.loads(chosen.study.read_bytes())
        except ValueError:
            raise SettingError(f"{chosen.study} must be a study's document, found no JSON. Ask for it again.") from None
    lines = examined(chosen.folder, document)
    table = Table("", "", "found", "what to do", box=None, show_header=False)
    for line in lines:
        sign = Text("ok", style="green") if line.is_green else Text("no", style="red")
        table.add_row(sign, Text(line.what), Text(line.found), Text(line.remedy))
    console().print(table)
    return 0 if all(line.is_green for line in lines) else 1


def _start(chosen: argparse.Namespace) -> int:
    from fedhealth.runtime.deployment.supervisor import Child, Supervisor, command

    folder = _folder(chosen)
    address, _ = folder.address, folder.transport_key
    sys.stdout.write(f"{chosen.folder.name} takes part at {address}; end it with Ctrl-C\n")
    sys.stdout.flush()
    home = {"FLWR_HOME": str(folder.path.resolve() / "state" / "flower")}
    ended_by = Supervisor(folder.path, [Child("node", command("node", folder.path))], home).run()
    return 130 if ended_by == "SIGINT" else 0


def _unit(chosen: argparse.Namespace) -> None:
    from fedhealth.runtime.deployment.supervisor import systemd_unit

    sys.stdout.write(systemd_unit(f"hospital {chosen.folder.name}", ["site", "start"], _folder(chosen).path))


def _status(chosen: argparse.Namespace) -> int:
    from fedhealth.runtime.deployment.supervisor import running

    folder = _folder(chosen)
    found, said = running(folder.path), folder.said()
    if not found:
        sys.stdout.write(f"not running; start it: fedhealth site start {chosen.folder}\n")
        return 1
    node = found["children"].get("node", {})
    again = f", started {node['starts']} times" if node.get("starts", 0) > 1 else ""
    sys.stdout.write(
        f"node: process {node.get('pid') or 'starting'}{again}\nworker: process {said.get('worker') or 'starting'}\n"
    )
    paused = ", paused: it refuses every question" if folder.is_paused else ""
    sys.stdout.write(f"it is {said.get('state', 'starting')} at {said.get('at', '')}{paused}\n")
    sys.stdout.write(f"answered since it started: {said.get('answered', 0)}\n")
    if said.get("why"):
        sys.stdout.write(f"why: {said['why']}\n")
    return 0


def _pause(chosen: argparse.Namespace) -> None:
    _folder(chosen).pause(on=True)
    sys.stdout.write(f"paused; what is asked from now on is refused. Resume: fedhealth site resume {chosen.folder}\n")


def _resume(chosen: argparse.Namespace) -> None:
    _folder(chosen).pause(on=False)
    sys.stdout.write("it answers again\n")


def _stop(chosen: argparse.Namespace) -> None:
    from fedhealth.runtime.deployment.supervisor import stop

    if not stop(_folder(chosen).path):
        raise FedHealthError(f"a hospital must be running to be stopped, found {chosen.folder} not. Nothing to do.")
    sys.stdout.write("stopped\n")
