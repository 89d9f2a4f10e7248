"""The node process of a hospital: its one connection, outwards, and no patient in reach.

    take a message ─→ the worker, over a pipe ─→ keep its answer ─→ give it

The node listens on no port and loads nothing that reads a patient. The worker has the
patients and no connection but the pipe. A worker that ends is started again and given the
same message; a node that ends is started again by its supervisor, takes leave of the
SuperLink in its predecessor's name, is let in, and is asked again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING

import httpx
from flwr.app import Error, Message

from fedhealth.core.errors import FedHealthError
from fedhealth.runtime import flower as in_any_runtime
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.grid import AGAIN, FIRST
from fedhealth.runtime.deployment.line import Declined, Line, NotAdmitted, RunOver, Unreachable
from fedhealth.runtime.deployment.outbox import Outbox

if TYPE_CHECKING:
    from fedhealth.runtime.deployment.site_folder import SiteFolder

log = logging.getLogger(__name__)

#: Seconds between looks for a message, where the coordinator did not have this hospital wait for one.
LOOK_S = 1.0
#: Seconds until it is tried again to be let in: at first, and at most.
FIRST_TRY_S, LONGEST_TRY_S = 1.0, 30.0
#: For how long a call is repeated before the hospital enters anew.
PATIENCE_S = 60.0
#: A message that ended the worker so often is answered with a failure.
MOST_DEATHS = 2


class _Ending(Exception):
    """The node was told to end."""


@dataclass(slots=True)
class Worker:
    """The process that has the patients, behind a pipe."""

    folder: SiteFolder
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pipe: Connection | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it where it is not running; it loads meanwhile."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        ours, theirs = Pipe()
        words = ["-P", "-m", "fedhealth.site.worker", str(self.folder.path.resolve()), str(theirs.fileno())]
        with (self.folder.path / "logs" / "worker.log").open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - this package's own process
                [sys.executable, *words],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        theirs.close()
        self._pipe = ours

    def answer(self, message: Message, run_config: dict[str, str]) -> Message | None:
        """The reply to a message; None where the process ended over it."""
        self.start()
        if self._pipe is None:
            return None
        try:
            self._pipe.send_bytes(json.dumps(run_config).encode())
            self._pipe.send_bytes(flower.to_bytes(message))
            return flower.from_bytes(self._pipe.recv_bytes())
        except (EOFError, OSError):
            # The pipe may tell before the process is gone.
            self.stop()
            return None

    @property
    def pid(self) -> int | None:
        """Its process."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> None:
        """End it."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None


@dataclass(slots=True)
class Node:
    """A hospital's end of the line, and its worker."""

    folder: SiteFolder
    _fleet: flower.Fleet = field(init=False)
    _line: Line = field(init=False)
    _worker: Worker = field(init=False)
    _outbox: Outbox = field(init=False)
    _answered: int = field(default=0, init=False)
    _beating: threading.Event = field(default_factory=threading.Event, init=False)
    _is_lost: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        self._line = Line(PATIENCE_S)
        self._worker = Worker(self.folder)
        self._outbox = Outbox(self.folder.path / "state" / "outbox")
        self._fleet = flower.Fleet(
            self.folder.address, self.folder.client_context(), self.folder.transport_key, self._line
        )

    def run(self) -> None:
        """Answer until told to end."""
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pause_s = FIRST_TRY_S
        try:
            self._worker.start()
            while True:
                try:
                    self._enter()
                    pause_s = FIRST_TRY_S
                    self._serve()
                except (Unreachable, NotAdmitted, Declined) as error:
                    self._say("not connected", why=str(error))
                    log.warning("%s", error)
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_TRY_S)
        except _Ending:
            self._say("ended")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._worker.stop()
            self._fleet.leave()
            self._fleet.close()

    def _enter(self) -> None:
        # A predecessor that was killed may count as there still.
        node_id = self._fleet.enter(int(self.folder.said().get("node", 0)))
        self._is_lost.clear()
        self._say("connected")
        log.info("let in node=%d", node_id)
        if not self._beating.is_set():
            self._beating.set()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _serve(self) -> None:
        """Take messages and answer them, until the line has to be entered anew."""
        while not self._is_lost.is_set():
            broken, asked_at = self._line.broken, time.monotonic()
            try:
                message = self._fleet.take()
                if message is not None:
                    self._answer(message)
            except RunOver as error:
                log.info("%s", error)
                self._say("connected")
            except flower.HALF_SENT as error:
                log.warning("a message came or went in part: %s", type(error).__name__)
                return
            if self._line.broken > broken:
                # A message may have been given out and lost on the way; whoever enters anew is asked again.
                return
            if message is None:
                self._worker.start()
                time.sleep(max(asked_at + LOOK_S - time.monotonic(), 0.0))

    def _answer(self, message: Message) -> None:
        first = message.metadata.message_id
        if AGAIN in message.content:
            first = str(message.content.pop(AGAIN)[FIRST])
        kept = self._outbox.kept(first)
        if kept is None:
            run_id = int(message.metadata.run_id)
            self._say("working", run=run_id, asked=message.metadata.message_type)
            reply = self._worked(message, self._fleet.run_config(run_id))
            if reply.has_content():
                self._outbox.keep(first, flower.content_to_bytes(reply.content))
        else:
            reply = Message(flower.content_from_bytes(kept), reply_to=message)
        self._fleet.give(reply)
        self._answered += 1
        self._say("connected")

    def _worked(self, message: Message, run_config: dict[str, str]) -> Message:
        """What the worker says; a failure where the message ends it again and again."""
        for _ in range(MOST_DEATHS):
            reply = self._worker.answer(message, run_config)
            if reply is not None:
                return reply
            log.warning("the worker ended over a message; it is started again")
        incident = uuid.uuid4().hex[:8]
        log.error("the worker ended %d times over one message incident=%s", MOST_DEATHS, incident)
        return Message(Error(in_any_runtime.CLIENT_FAILED, f"failed:WorkerEnded:{incident}"), reply_to=message)

    def _beat(self) -> None:
        """Say that the hospital is there, as long as the process lives."""
        pause_s = flower.HEARTBEAT_S / 2
        while True:
            time.sleep(pause_s)
            try:
                # Where the SuperLink thinks it gone, it has to be let in again.
                if not self._fleet.beat():
                    self._is_lost.set()
                pause_s = flower.HEARTBEAT_S / 2
            except (httpx.HTTPError, FedHealthError):
                pause_s = FIRST_TRY_S

    def _say(self, state: str, **more: object) -> None:
        self.folder.say(
            state=state,
            node=self._fleet.node_id or self.folder.said().get("node", 0),
            process=os.getpid(),
            worker=self._worker.pid,
            answered=self._answered,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        )


def _end(_number: int, _frame: object) -> None:
    raise _Ending
