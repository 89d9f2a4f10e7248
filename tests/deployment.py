"""A federation of real processes for tests: who runs in it, what it leaves, and a wire between its parts that can be cut."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedhealth.coordinating import control, find, follow, study_of, submit
from fedhealth.federate import approve_everywhere, federation
from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.runtime.deployment.supervisor import running


def until(happened, what: str, limit_s: float = 240.0, look_s: float = 0.02):
    """What `happened` gives, once it gives something."""
    deadline = time.monotonic() + limit_s
    while not (found := happened()):
        assert time.monotonic() < deadline, f"it took too long until {what}"
        time.sleep(look_s)
    return found


def fedhealth(
    *words: str, env: dict[str, str] | None = None, limit_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """A command's end."""
    return subprocess.run(  # noqa: PLW1510 - its exit code is what is looked at
        [sys.executable, "-m", "fedhealth", *words],
        capture_output=True, text=True, timeout=limit_s, env={**os.environ, **(env or {})},
    )  # fmt: skip


@dataclass
class Federation:
    """Three hospitals and their coordinator, running."""

    coordinator: CoordinatorFolder
    sites: dict[str, Path]

    def document(self, *overrides: str) -> dict:
        """A study over all hospitals."""
        return study_of(self.coordinator, ["experiment=smoke", f"sites.names=[{','.join(self.sites)}]", *overrides])

    def begin(self, *overrides: str) -> str:
        """The name of a new run, of a study that every hospital approved."""
        document = self.document(*overrides)
        approve_everywhere(self.coordinator, self.sites.values(), document)
        return submit(self.coordinator, document)

    def end(self, name: str) -> list[dict]:
        """The rounds of a run once it is done."""
        rows: list[dict] = []
        follow(self.coordinator, name, rows.append)
        return rows

    def folder(self, name: str) -> Path:
        """A run's folder."""
        return self.coordinator.path / "runs" / name

    def state(self, name: str) -> tuple[str, str]:
        """A run's state, and why it ended so."""
        run = find(self.coordinator, name)
        return str(run["state"]), str(run["why"])

    def pid(self, child: str) -> int:
        """The process of a child of the coordinator's supervisor, or of a run."""
        if child == "conduct":
            return until(self._conducting, "a run has a process", look_s=0.1)
        return until(lambda: running(self.coordinator.path)["children"][child]["pid"], f"{child} runs")

    def _conducting(self) -> int:
        found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        wanted = f"fedhealth.processes conduct {self.coordinator.path.resolve()}"
        return next((int(row.split()[0]) for row in found.splitlines() if wanted in row), 0)

    def settle(self) -> None:
        """Stop whatever run is left."""
        with control(self.coordinator, 30) as orders:
            for run in orders.runs():
                if not str(run["state"]).startswith("finished"):
                    orders.stop(int(run["run_id"]))

    def node(self, name: str) -> dict:
        """What a hospital's node told last."""
        return SiteFolder(self.sites[name]).said()

    def working(self, name: str) -> dict:
        """What a hospital's node tells once it has given its worker a question."""

        def is_so():
            said = self.node(name)
            return said if said.get("state") == "working" else None

        return until(is_so, f"{name} works")

    def rounds_done(self, name: str, at_least: int) -> None:
        """Wait until a run has so many checkpoints."""
        wanted = self.folder(name) / "checkpoints" / f"{at_least:05d}"
        until(wanted.exists, f"round {at_least} is done")


@contextmanager
def federated(folder: Path, *overrides: str):
    """A federation over the hospitals of the smoke study, or of those that the overrides name."""
    with federation(folder, ["experiment=smoke", *overrides]) as (coordinator, sites):
        made = Federation(coordinator, sites)
        for name in sites:
            until(lambda name=name: made.node(name).get("state") == "connected", f"{name} is let in")
        yield made


class Wire:
    """A TCP proxy on the loopback: a hospital's way to its coordinator, which can be cut and slowed."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.is_cut, self.delay_s = False, 0.0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            if self.is_cut:
                here.close()
                continue
            try:
                there = socket.create_connection(self._there)
            except OSError:
                here.close()
                continue
            self._pairs.append((here, there))
            threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        other = {here: there, there: here}
        try:
            while True:
                for side in select.select([here, there], [], [])[0]:
                    piece = side.recv(65_536)
                    if not piece:
                        return
                    time.sleep(self.delay_s)
                    other[side].sendall(piece)
        except (OSError, ValueError):
            return
        finally:
            here.close()
            there.close()

    def cut(self) -> None:
        """Drop what is open, and let nothing through."""
        self.is_cut = True
        for pair in self._pairs:
            for side in pair:
                try:
                    side.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def mend(self) -> None:
        """Let calls through again."""
        self.is_cut = False

    def close(self) -> None:
        """Be gone."""
        self.cut()
        self._server.close()
