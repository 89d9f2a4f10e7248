"""Flower's simulation runtime: the hospitals' work spread over the processes of Ray.

    fedhealth simulate
      ├── superlink     Flower's: keeps the run, on a port of this machine drawn for it
      └── simulation    Flower's: the server app, which drives Ray
            └── Ray     a worker for each core, which serves whatever hospital is next

Each of the two is a session of its own, Ray's processes being in the simulation's. It ends
when the run does, when the run fails, on Ctrl-C, and when `fedhealth simulate` is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fedhealth.core.errors import FedHealthError, SettingError
from fedhealth.core.settings import settings
from fedhealth.runtime import flower
from fedhealth.runtime.told import TOLD, Listener, error_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Pause between looks at what the server app told.
POLL_S = 0.1
#: Seconds to take leave of a Ray that stays.
LEAVE_S = 30.0
#: The longest private folder under which Ray's sockets have names that Unix takes.
LONGEST_HOME = 35

#: The app that Flower is given: where the installed package has its two halves, no code.
APP = """\
[project]
name = "simulation"
version = "1"
[tool.flwr.app]
publisher = "fedhealth"
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
[tool.flwr.app.config]
{keys}
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What runs on Ray.

    Attributes:
        server: the server app, as "module:name".
        client: the client app, as "module:name".
        run_config: what both read as their run config, beside the file to tell into (`runtime.told`).
        nodes: how many hospitals take part.
        log: the file for what Flower and Ray log.
    """

    server: str
    client: str
    run_config: Mapping[str, str]
    nodes: int
    log: Path


@settings
class Ray:
    """The hospitals on Ray, as many at a time as there are cores for.

    Flower and Ray take 10 to 35 s to start, and carrying a round's messages takes a few
    tenths of a second, so this pays where a hospital's share of a round takes seconds. The
    results are those of `Local`.

    Attributes:
        cpus: cores that Ray may use; None for `cpus_per_site` a hospital, at most the machine's.
        cpus_per_site: cores set aside for a hospital at work. The work itself uses one, so
            more of them only means fewer hospitals, and less memory, at a time.
        address: a Ray that is there, started with `ray start`: its head's host:port, or auto
            for the one this machine belongs to. Every machine of it needs the same packages
            installed, and the hospitals' folders at the same paths.
        start_timeout_s: seconds until every hospital must have answered once.
    """

    cpus: int | None = None
    cpus_per_site: int = 1
    address: str | None = None
    start_timeout_s: float = 180.0

    def __post_init__(self) -> None:
        if self.cpus_per_site < 1:
            raise SettingError(f"`cpus_per_site` must be at least 1, found {self.cpus_per_site}. Use 1.")
        if self.cpus is not None and self.cpus < self.cpus_per_site:
            raise SettingError(
                f"`cpus` must be at least cpus_per_site={self.cpus_per_site}, found {self.cpus}. Raise it, or use null."
            )
        if self.cpus is not None and self.address is not None:
            raise SettingError(f"`cpus` must be null with an `address`, found {self.cpus}. That Ray has its own cores.")
        check_address(self.address)
        if not self.start_timeout_s > 0:
            raise SettingError(
                f"`start_timeout_s` must be above 0 seconds, found {self.start_timeout_s}. Use 180 or more."
            )

    def require(self) -> None:
        """Do nothing where Ray is installed and there is one at the address.

        Raises:
            SettingError: it isn't, or there is none.
        """
        require_ray(self.address, "runtime=ray")

    def run(self, job: Job, watch: Callable[[dict[str, Any]], None]) -> None:
        """Run a job to its end; `watch` gets each round's row. Nothing is left running, however it ends.

        Raises:
            FedHealthError: what the server app told; or it ended, or never started, without a word.
            OSError: what the server app told.
        """
        self.require()
        cpus = self._cpus(job.nodes)
        with tempfile.TemporaryDirectory(prefix="fh-", ignore_cleanup_errors=True) as folder, job.log.open("ab") as log:
            home = Path(folder)
            config = {**job.run_config, TOLD: str(home / "told")}
            plan = {
                "parent": os.getpid(),
                "port": _free_port(),
                "app": APP.format(
                    server=job.server, client=job.client, keys="\n".join(f'{key} = ""' for key in config)
                ),
                "run_config": config,
                "nodes": job.nodes,
                "cpus_per_node": self.cpus_per_site,
                "cpus": cpus,
            }
            for name, content in {"plan": json.dumps(plan), "secret": secrets.token_hex(32)}.items():
                (home / name).touch(mode=0o600)
                (home / name).write_text(content, encoding="utf-8")
            environment, deadline = self._environment(home), time.monotonic() + self.start_timeout_s
            with (
                _session("superlink", home, environment, log) as superlink,
                _session("simulation", home, environment, log) as simulation,
            ):
                listener = Listener(home / "told")
                self._follow({"SuperLink": superlink, "simulation": simulation}, listener, job.log, watch, deadline)
                if self.address is not None:
                    # A Ray that stays is taken leave of; one's own is killed faster than it ends.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        simulation.wait(LEAVE_S)

    def _cpus(self, nodes: int) -> int | None:
        """The cores of the Ray to start; None where one is there."""
        if self.address is not None:
            return None
        if self.cpus is not None:
            return self.cpus
        there = os.cpu_count() or 1
        if there < self.cpus_per_site:
            raise SettingError(
                f"`runtime.cpus_per_site` must be at most this machine's cores {there}, found {self.cpus_per_site}. "
                "Lower it."
            )
        return min(there, nodes * self.cpus_per_site)

    def _environment(self, home: Path) -> dict[str, str]:
        """What the two processes read from their environment, and Ray's workers from theirs."""
        return {
            **os.environ,
            "FLWR_HOME": str(home / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # "local" starts a new Ray even where another runs on this machine.
            "RAY_ADDRESS": self.address or "local",
            **ray_environment(home, is_own=self.address is None),
        }

    def _follow(
        self,
        processes: Mapping[str, subprocess.Popen[bytes]],
        listener: Listener,
        log: Path,
        watch: Callable[[dict[str, Any]], None],
        deadline: float,
    ) -> None:
        """Return once the server app told that it is done."""
        has_started = False
        while True:
            # Looked up before reading, so that the last line before an end is read.
            ended = {name: process.returncode for name, process in processes.items() if process.poll() is not None}
            for kind, said in listener.news():
                has_started = True
                if kind == "round":
                    watch(said)
                elif kind == "failed":
                    raise error_in(said)
                elif kind == "done":
                    return
            for name, code in ended.items():
                raise FedHealthError(
                    f"Flower's {name} must last until the results are there, found it ended with code {code}. "
                    f"See {log}."
                )
            if not has_started and time.monotonic() > deadline:
                raise FedHealthError(
                    f"every hospital must answer within {self.start_timeout_s:g} s, found Flower and Ray still "
                    f"starting. Raise runtime.start_timeout_s, or see {log}."
                )
            time.sleep(POLL_S)


def check_address(address: str | None) -> None:
    """Do nothing where an address can be a Ray's.

    Raises:
        SettingError: it can't.
    """
    if address is not None and not re.fullmatch(r"auto|[^\s/]+:\d+", address):
        raise SettingError(f"`address` must be host:port or auto, found {address!r}. Leave it null for none.")


def require_ray(address: str | None, chosen: str) -> None:
    """Do nothing where Ray is installed and there is one at the address.

    Raises:
        SettingError: it isn't, or there is none.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingError(f"{chosen} needs Ray, found none installed. Run: pip install 'fedhealth[ray]'")
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise SettingError(
            f"`runtime.address` must be a Ray's head, found nobody at {address} ({error.strerror or error}). "
            "Start one: ray start --head"
        ) from None


def ray_environment(home: Path, *, is_own: bool) -> dict[str, str]:
    """What Ray reads from the environment.

    Args:
        home: a private folder, for the token and the sockets of a Ray of one's own.
        is_own: whether it is started for this run.
    """
    found = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # What this process can import, the others can: a strategy of the user's own, say.
        "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray hides accelerators from work that does not ask for them; here engine.device does.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if not is_own:
        return found
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    # Ray listens on this machine's network and runs what it is sent: nobody without the token sends it anything.
    found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    return found | ({"RAY_TMPDIR": str(home)} if len(str(home)) <= LONGEST_HOME else {})


@contextlib.contextmanager
def _session(
    role: str, home: Path, environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """One of the two processes in a session of its own, all of which is gone afterwards."""
    process = subprocess.Popen(  # noqa: S603 - this very module
        [sys.executable, "-P", "-m", "fedhealth.runtime.ray", role, str(home)],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # Ray's processes among them. Nothing is lost: what is worth keeping was told or stored.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_with(parent: int, home: Path) -> None:
    """Once `parent` is gone, which would have done it, clear `home` and kill this process's session."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    shutil.rmtree(home, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(role: str, home: Path) -> None:
    """Be one of the two processes of a run, whose plan lies in `home`."""
    plan = json.loads((home / "plan").read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(plan["parent"], home), daemon=True).start()
    if role == "superlink":
        flower.superlink(plan["port"], home / "secret")
    else:
        flower.simulation(
            plan["port"],
            home / "secret",
            plan["app"],
            plan["run_config"],
            nodes=plan["nodes"],
            cpus_per_node=plan["cpus_per_node"],
            cpus=plan["cpus"],
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
