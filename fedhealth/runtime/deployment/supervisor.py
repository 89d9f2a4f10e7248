"""The supervisor: starts a place's processes, starts again what ends, and leaves nothing running.

It needs no root and no service manager, and does under one as without (`systemd_unit`). A
process that it started ends with it, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fedhealth.core.errors import FedHealthError, SettingError
from fedhealth.core.private_file import OWNER_ONLY, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOOK_S = 0.1
#: Pauses before a process that ended is started again: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.3, 20.0
#: A process that ran for so long has begun well, and the pauses begin anew.
WELL_S = 30.0
#: What a process gets to take its leave.
LEAVE_S = 8.0
#: A log is set aside at this size, the one set aside before being dropped.
LOG_BYTES = 20 * 2**20

#: Where this is set, a supervisor ends when the process that started it does: that of a trial.
WITH_PARENT = "FEDHEALTH_WITH_PARENT"

#: Nothing is sent to Flower's makers, and nothing is fetched from a package index.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


@dataclass(slots=True)
class Child:
    """One process to keep running.

    Attributes:
        name: of it, its log and its line in the status.
        command: what to run.
    """

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    since: float = field(default=0.0, init=False)
    starts: int = field(default=0, init=False)
    pause_s: float = field(default=FIRST_PAUSE_S, init=False)
    due_at: float = field(default=0.0, init=False)


@dataclass(slots=True)
class Supervisor:
    """Keeps some processes running.

    Attributes:
        folder: with `state/` and `logs/` in it.
        children: what to run, in this order.
        environment: what the processes read beside this one's own.
    """

    folder: Path
    children: list[Child]
    environment: Mapping[str, str] = field(default_factory=dict)
    _ending: str = field(default="", init=False)

    def run(self) -> str:
        """Keep them running until told to end; the name of the signal that did.

        Raises:
            SettingError: another supervisor is at work here.
        """
        with held(self.folder):
            before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                parent = os.getppid()
                while not self._ending:
                    if os.environ.get(WITH_PARENT) and os.getppid() != parent:
                        return "SIGTERM"
                    self._look()
                    time.sleep(LOOK_S)
                return self._ending
            finally:
                self._stop()
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _end(self, number: int, _frame: object) -> None:
        self._ending = signal.Signals(number).name

    def _look(self) -> None:
        """Start what is not running and is due."""
        has_changed, now = False, time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                if now - child.since >= WELL_S:
                    child.pause_s = FIRST_PAUSE_S
                self._log(child, f"ended with {child.process.returncode}, starts again in {child.pause_s:g} s")
                # What it had started goes with it, also where that hangs.
                _signal(child.process, signal.SIGKILL)
                child.process, child.due_at = None, now + child.pause_s
                child.pause_s, has_changed = min(2 * child.pause_s, LONGEST_PAUSE_S), True
            if child.process is None and now >= child.due_at:
                self._start(child)
                has_changed = True
        if has_changed:
            self._tell()

    def _start(self, child: Child) -> None:
        with self._open_log(child) as log:
            child.process = subprocess.Popen(  # noqa: S603 - this package's own processes
                list(child.command),
                env={**os.environ, **QUIET, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child.since, child.starts = time.monotonic(), child.starts + 1

    def _stop(self) -> None:
        """End them all, the last first, by kindness and then by force."""
        running = [child.process for child in reversed(self.children) if child.process is not None]
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_S
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        (self.folder / "state" / "supervisor.json").unlink(missing_ok=True)

    def _tell(self) -> None:
        rows = {
            child.name: {"pid": child.process.pid if child.process else None, "starts": child.starts}
            for child in self.children
        }
        said = {"pid": os.getpid(), "children": rows, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        write_private(self.folder / "state" / "supervisor.json", json.dumps(said).encode())

    def _log(self, child: Child, words: str) -> None:
        with self._open_log(child) as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} supervisor: {child.name} {words}\n".encode())

    def _open_log(self, child: Child) -> IO[bytes]:
        path = self.folder / "logs" / f"{child.name}.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OWNER_ONLY), "ab")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a place for this process.

    Raises:
        SettingError: another holds it, or it is no such place.
    """
    if not (folder / "state").is_dir():
        raise SettingError(f"{folder} must have been made by init, found no state/ in it. Run init first.")
    with os.fdopen(os.open(folder / "state" / "lock", os.O_RDWR | os.O_CREAT, OWNER_ONLY), "r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(
                f"one supervisor at a time may run {folder}, found one at work (process {running(folder).get('pid')}). "
                "Stop it first."
            ) from None
        yield


def running(folder: Path) -> dict[str, Any]:
    """What a place's supervisor told last: its process and its children's; empty where none is at work."""
    lock = folder / "state" / "lock"
    if not lock.exists():
        return {}
    with lock.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                return dict(json.loads((folder / "state" / "supervisor.json").read_bytes()))
            except (OSError, ValueError):
                return {"pid": None, "children": {}}
    return {}


def stop(folder: Path, *, within_s: float = 2 * LEAVE_S) -> bool:
    """Whether there was a supervisor at work; it and its processes have ended.

    Raises:
        FedHealthError: it does not end.
    """
    found = running(folder).get("pid")
    if not found:
        return False
    os.kill(int(found), signal.SIGTERM)
    deadline = time.monotonic() + within_s
    while running(folder):
        if time.monotonic() > deadline:
            raise FedHealthError(
                f"process {found} must end when asked to, found it running still. Kill it: kill -9 {found}"
            )
        time.sleep(LOOK_S)
    return True


def end_with_parent() -> None:
    """From now on end when the process that started this one does, however it ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def command(role: str, folder: Path, *more: str) -> list[str]:
    """The command that is one of a deployment's processes."""
    return [sys.executable, "-P", "-m", "fedhealth.processes", role, str(folder.resolve()), *more]


def systemd_unit(what: str, words: Sequence[str], folder: Path) -> str:
    """A systemd unit that runs a command as a user of its own, which may write to the folder and nowhere else."""
    line = shlex.join([sys.executable, "-m", "fedhealth", *words, str(folder.resolve())])
    return f"""\
[Unit]
Description=FedHealth {what}
After=network-online.target
Wants=network-online.target

[Service]
User=fedhealth
ExecStart={line}
Restart=always
RestartSec=5
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
CapabilityBoundingSet=
ReadWritePaths={shlex.quote(str(folder.resolve()))}

[Install]
WantedBy=multi-user.target
"""


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and all it started."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
