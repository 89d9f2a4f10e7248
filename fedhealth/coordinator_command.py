"""`fedhealth coordinator …`: make and run a coordinator, enrol hospitals, submit studies and look at them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.asked_once import add_questions, asks_once, document_asked, said, words_of
from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

#: In the coordinator's folder, the key that signs its proposals (`fedhealth.conduct`).
PROPOSER = "proposer.key"
#: Lines of a log that are shown.
TAIL = 200


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `coordinator` to the command line."""
    coordinator = commands.add_parser("coordinator", help="run studies over hospitals that are elsewhere")
    verbs = coordinator.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def verb(name: str, run: Any, help_: str) -> Parser:  # noqa: ANN401 - a command
        parser = verbs.add_parser(name, help=help_)
        parser.add_argument("folder", type=Path, metavar="DIR", help="the coordinator's")
        parser.set_defaults(run=run)
        return parser

    init = verb("init", _init, "make its folder: authority, certificate, tokens, secrets")
    init.add_argument("--name", action="append", metavar="HOST", help="a name or address hospitals reach it by")
    init.add_argument("--port", type=int, default=9443)
    init.add_argument("--listen", default="0.0.0.0", metavar="ADDRESS")  # noqa: S104 - hospitals come from elsewhere
    verb("start", _start, "run it until it is ended")
    verb("unit", _unit, "print a systemd unit that runs it")
    verb("renew", _renew, "give its server a new certificate; restart it then")
    enroll = verb("enroll", _enroll, "let a hospital in")
    enroll.add_argument("request", type=Path, metavar="ENROLMENT.json", help="what the hospital sent")
    revoke = verb("revoke", _revoke, "let a hospital in no more")
    revoke.add_argument("name", metavar="HOSPITAL")
    verb("sites", _sites, "list the hospitals, and whether they are there")
    token = verb("token", _token, "issue somebody a bearer token, list or revoke them")
    token.add_argument("name", nargs="?", metavar="NAME")
    token.add_argument("--role", help="coordinator, researcher, auditor or runtime")
    token.add_argument("--revoke", action="store_true", help="the token of NAME counts no more")
    study = verb("study", _study, "write a study as a file, signed, for hospitals to read and approve")
    study.add_argument("overrides", nargs="*", metavar="key=value", help="as for fedhealth simulate")
    add_questions(study)
    study.add_argument("--purpose", metavar="WORDS", help="what it is for, in words for a clinician")
    study.add_argument("--until", metavar="DATE", help="its last day, as YYYY-MM-DD")
    study.add_argument("--out", type=Path, metavar="FILE", help="the file to send; default: show what it would hold")
    submit = verb("submit", _submit, "run a study over the hospitals")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="as for fedhealth simulate")
    add_questions(submit)
    submit.add_argument("--resume", metavar="RUN", help="go on with a run that ended early")
    submit.add_argument("--follow", action="store_true", help="wait for its end, and show each round")
    verb("status", _status, "say what runs, who is there, and how far the runs are")
    logs = verb("logs", _logs, "show the end of a run's log, or of the processes' logs")
    logs.add_argument("name", nargs="?", metavar="RUN")
    stop = verb("stop", _stop, "stop a run; its rounds are kept")
    stop.add_argument("name", metavar="RUN")
    results = verb("results", _results, "show what a run found")
    results.add_argument("name", metavar="RUN")


def _folder(chosen: argparse.Namespace) -> CoordinatorFolder:
    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder

    found = CoordinatorFolder(chosen.folder)
    _ = found.settings
    return found


def _init(chosen: argparse.Namespace) -> None:
    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder, CoordinatorSettings

    names = tuple(chosen.name or ("localhost", "127.0.0.1"))
    folder = CoordinatorFolder(chosen.folder)
    shown = folder.init(CoordinatorSettings(listen=chosen.listen, port=chosen.port, names=names))
    from fedhealth.governance.signing import new_key

    proposer = new_key(folder.path / PROPOSER)
    sys.stdout.write(
        f"made {chosen.folder}\n"
        f"authority: {shown}\n"
        f"proposers: {{{json.dumps(names[0])}: {json.dumps(proposer)}}}\n"
        f"give hospitals {chosen.folder / 'invitation.json'}, and read them both lines above by telephone\n"
        f"start it: fedhealth coordinator start {chosen.folder}\n"
    )


def _start(chosen: argparse.Namespace) -> int:
    from fedhealth.runtime.deployment.superlink import check_port
    from fedhealth.runtime.deployment.supervisor import Child, Supervisor, command, running

    folder = _folder(chosen)
    folder.server_context()
    if not running(folder.path):
        check_port(folder)
    children = [Child(role, command(role, folder.path)) for role in ("superlink", "executor")]
    sys.stdout.write(f"coordinator at {folder.here}; end it with Ctrl-C\n")
    sys.stdout.flush()
    ended_by = Supervisor(folder.path, children, {"FLWR_HOME": str(folder.path.resolve() / "state" / "flower")}).run()
    return 130 if ended_by == "SIGINT" else 0


def _unit(chosen: argparse.Namespace) -> None:
    from fedhealth.runtime.deployment.supervisor import systemd_unit

    sys.stdout.write(systemd_unit("coordinator", ["coordinator", "start"], _folder(chosen).path))


def _renew(chosen: argparse.Namespace) -> None:
    folder = _folder(chosen)
    folder.renew(folder.settings)
    sys.stdout.write("a new certificate is in place, good for a year; restart the coordinator\n")


def _enroll(chosen: argparse.Namespace) -> None:
    from fedhealth.coordinating import enrol
    from fedhealth.runtime.deployment.enrolment import fingerprint

    content = _read(chosen.request)
    made = enrol(_folder(chosen), content)
    sys.stdout.write(f"{made.name} is enrolled\nrequest: {fingerprint(content)}\nidentity: {made.identity}\n")


def _revoke(chosen: argparse.Namespace) -> None:
    from fedhealth.coordinating import revoke

    sys.stdout.write(f"{revoke(_folder(chosen), chosen.name).name} is let in no more\n")


def _sites(chosen: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.coordinating import control
    from fedhealth.progress import console

    folder = _folder(chosen)
    with control(folder) as orders:
        there = orders.nodes()
    table = Table("hospital", "is", "since", "enrolled", "identity", box=None)
    for name, site in folder.register.enrolled().items():
        node = there.get(site.node_id, {"status": "unknown", "since": ""})
        table.add_row(*map(Text, (name, node["status"], node["since"][:19], site.enrolled[:10], site.identity[:16])))
    console().print(table if table.row_count else "no hospital is enrolled")


def _token(chosen: argparse.Namespace) -> None:
    tokens = _folder(chosen).tokens
    if chosen.name is None:
        for row in tokens.held():
            sys.stdout.write(f"{row['name']}\t{row['role']}\t{row['made']}\n")
    elif chosen.revoke:
        if not tokens.revoke(chosen.name):
            raise SettingError(f"a token must be there to be revoked, found none of {chosen.name!r}. List them.")
        sys.stdout.write(f"the token of {chosen.name} counts no more\n")
    else:
        # To standard output, for a pipe into a file: nobody can have it again.
        sys.stdout.write(f"{tokens.issue(chosen.name, chosen.role or '')}\n")


def _study(chosen: argparse.Namespace) -> None:
    from fedhealth.coordinating import proposed

    folder = _folder(chosen)
    document = _document(folder, chosen)
    if chosen.out is None:
        sys.stdout.write(f"{json.dumps(document, indent=1, ensure_ascii=False)}\n")
        return
    if not chosen.purpose or not chosen.until:
        raise SettingError(
            "a proposal must say what it is for and until when, found it not. Give --purpose and --until."
        )
    signed = proposed(folder, document, purpose=chosen.purpose, until=chosen.until)
    chosen.out.write_text(signed.text, encoding="utf-8")
    sys.stdout.write(
        f"study {signed.proposal.digest}: {chosen.out}\n"
        f"each hospital reads it with: fedhealth site inspect {chosen.out} --site FOLDER\n"
    )


def _submit(chosen: argparse.Namespace) -> None:
    from fedhealth.conduct import run_folder
    from fedhealth.coordinating import submit
    from fedhealth.core.study import digest
    from fedhealth.server.store import Store

    folder = _folder(chosen)
    if chosen.resume:
        if changes := said(chosen):
            raise SettingError(f"a resumed run must keep its config, found {changes[0]}. Submit a new one.")
        document = Store(run_folder(folder, chosen.resume)).read_config()
    else:
        document = _document(folder, chosen)
    name = submit(folder, document, chosen.resume or "")
    sys.stdout.write(f"run {name}\nstudy {digest(document)}, for hospitals to approve\n")
    if chosen.follow:
        shown(folder, name, document)


def _document(folder: CoordinatorFolder, chosen: argparse.Namespace) -> dict[str, Any]:
    """The document of the study that a command's words and options describe."""
    from fedhealth.coordinating import study_of

    return document_asked(study_of(folder, words_of(chosen)), chosen)


def shown(folder: CoordinatorFolder, name: str, document: dict[str, Any]) -> None:
    """Follow a run to its end and show what it found."""
    from fedhealth.coordinating import follow
    from fedhealth.progress import rounds_shown

    if asks_once(document):
        follow(folder, name, lambda _: None)
    else:
        with rounds_shown(document["title"], document["rounds"], len(document["roster"])) as show:
            follow(folder, name, show)
    _show_results(folder, name)


def _status(chosen: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.conduct import run_folder
    from fedhealth.coordinating import control
    from fedhealth.core.errors import FedHealthError
    from fedhealth.progress import console
    from fedhealth.runtime.deployment.certificates import days_left
    from fedhealth.runtime.deployment.supervisor import running
    from fedhealth.server.store import Store

    folder, out = _folder(chosen), console()
    found = running(folder.path)
    if not found:
        out.print(Text(f"not running; start it: fedhealth coordinator start {folder.path}"))
        return
    for name, child in found["children"].items():
        again = f", started {child['starts']} times" if child["starts"] > 1 else ""
        out.print(Text(f"{name}: {'process ' + str(child['pid']) if child['pid'] else 'starts again'}{again}"))
    out.print(Text(f"certificate: {days_left((folder.path / 'server.pem').read_bytes()):.0f} days left"))
    try:
        with control(folder, 0) as orders:
            there, runs = orders.nodes(), orders.runs()
    except FedHealthError as error:
        out.print(Text(str(error)))
        return
    online = [
        name
        for name, site in folder.register.enrolled().items()
        if there.get(site.node_id, {}).get("status") == "online"
    ]
    out.print(Text(f"hospitals there: {', '.join(online) or 'none'}"))
    table = Table("run", "state", "rounds", "why", box=None)
    for run in runs:
        name = str(run["config"].get("fh-run", ""))
        done = len(Store(run_folder(folder, name)).rounds()) if name else 0
        table.add_row(*map(Text, (name, str(run["state"]), str(done), str(run["why"])[:120])))
    out.print(table if table.row_count else "no runs")


def _logs(chosen: argparse.Namespace) -> None:
    from fedhealth.conduct import run_folder

    folder = _folder(chosen)
    files = (
        [run_folder(folder, chosen.name) / "run.log"] if chosen.name else sorted((folder.path / "logs").glob("*.log"))
    )
    tail(files)


def tail(files: list[Path]) -> None:
    """Write the end of each file; what is in it may be somebody else's words, so no control characters.

    Raises:
        SettingError: there is none.
    """
    there = [file for file in files if file.is_file()]
    if not there:
        raise SettingError(f"a log must be there, found no {files[0] if files else 'file'}. Has it begun?")
    for file in there:
        if len(there) > 1:
            sys.stdout.write(f"== {file.name}\n")
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
            sys.stdout.write("".join(sign if sign.isprintable() else "?" for sign in line) + "\n")


def _stop(chosen: argparse.Namespace) -> None:
    from fedhealth.coordinating import control, find

    folder = _folder(chosen)
    run = find(folder, chosen.name)
    if str(run["state"]).startswith("finished"):
        raise SettingError(f"a run must be going on to be stopped, found {chosen.name} {run['state']}. Nothing to do.")
    with control(folder) as orders:
        orders.stop(int(run["run_id"]))
    sys.stdout.write(f"stopped; go on with it: fedhealth coordinator submit {folder.path} --resume {chosen.name}\n")


def _results(chosen: argparse.Namespace) -> None:
    _show_results(_folder(chosen), chosen.name)


def _show_results(folder: CoordinatorFolder, name: str) -> None:
    from fedhealth.conduct import COUNTS, RELEASE, TABLES, run_folder, write_report
    from fedhealth.core.study import study_from
    from fedhealth.progress import console, result_table
    from fedhealth.releasing import CARD, PATIENTS
    from fedhealth.server.store import REPORT, Store
    from fedhealth.stats_command import show

    store = Store(run_folder(folder, name))
    document = store.read_config()
    store.read_manifest()
    if document.get("tabulation"):
        show(store.read_json(TABLES))
        return
    if asks_once(document):
        made, hospitals = store.folder / RELEASE, store.read_json(COUNTS)["hospitals"]
        sys.stdout.write(
            f"synthetic patients of {hospitals} hospitals: {made / PATIENTS}\n"
            f"what they are and are not for: {made / CARD}.md\n"
        )
        return
    study = study_from(document)
    is_there = (store.folder / REPORT).is_file()
    console().print(result_table(store.read_json(REPORT) if is_there else write_report(study, store)))
    sys.stdout.write(f"\nreport: {store.folder / 'report.html'}\nmodel: {store.folder / 'model.safetensors'}\n")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise SettingError(f"a file must be there, found no {path}. Correct the path.")
    return path.read_bytes()
