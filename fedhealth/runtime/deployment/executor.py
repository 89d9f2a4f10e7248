"""The executor of a coordinator: takes the tasks of runs, and keeps each going until it is told how it ended.

A task is worked on by a process of its own, which runs the installed server app. Where that
process is killed it is started again and goes on from its last checkpoint, under the same
task; where the executor is killed, its successor finds the tasks in `state/tasks/`. So a run
ends by its own word, or because nobody worked on it for a minute.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhealth.core.errors import FedHealthError
from fedhealth.core.private_file import write_private
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.line import Declined, Line, NotAdmitted, RunOver, Unreachable
from fedhealth.runtime.deployment.supervisor import command

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder

log = logging.getLogger(__name__)

#: Seconds between looks at what is at work, for a new task, and between signs of life.
LOOK_S, TAKE_S, BEAT_S = 0.1, 0.5, 10.0
#: How often a process that was killed is started again for one run.
MOST_STARTS = 6
#: How long the SuperLink may be away before a call is given up; its supervisor starts it again meanwhile.
PATIENCE_S = 120.0


@dataclass(slots=True)
class _Work:
    """A task at work."""

    task: flower.Task
    run_config: dict[str, str]
    file: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    beaten_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Executor:
    """Works on the runs of one coordinator."""

    folder: CoordinatorFolder
    _works: dict[int, _Work] = field(default_factory=dict, init=False)
    _ending: bool = field(default=False, init=False)

    def run(self) -> None:
        """Work until ended."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        tasks = flower.Tasks(
            self.folder.here,
            self.folder.client_context(),
            self.folder.token("runtime"),
            self.folder.secret(),
            Line(PATIENCE_S),
        )
        self._take_up()
        at_once, taken_at = self.folder.settings.runs_at_once, 0.0
        while not self._ending:
            for work in list(self._works.values()):
                self._look_after(tasks, work)
            if len(self._works) < at_once and time.monotonic() - taken_at >= TAKE_S:
                taken_at = time.monotonic()
                self._take(tasks)
            time.sleep(LOOK_S)
        tasks.close()
        for work in self._works.values():
            if work.process is not None:
                work.process.terminate()

    def _take(self, tasks: flower.Tasks) -> None:
        try:
            task = tasks.take()
            if task is not None:
                self._begin(tasks, task)
        except (Unreachable, NotAdmitted, RunOver, Declined) as error:
            log.warning("%s", error)

    def _end(self, _number: int, _frame: object) -> None:
        self._ending = True

    def _take_up(self) -> None:
        """Go on with what an earlier executor had taken."""
        for file in sorted((self.folder.path / "state" / "tasks").glob("*.json")):
            try:
                found = json.loads(file.read_bytes())
                task = flower.Task(found["task_id"], found["run_id"], found["token"])
                self._works[task.task_id] = _Work(task, dict(found["run_config"]), file)
            except (ValueError, KeyError, TypeError):
                file.unlink()

    def _begin(self, tasks: flower.Tasks, task: flower.Task) -> None:
        file = self.folder.path / "state" / "tasks" / f"{task.task_id}.json"
        work = _Work(task, tasks.begin(task), file)
        row = {"task_id": task.task_id, "run_id": task.run_id, "token": task.token, "run_config": work.run_config}
        write_private(file, json.dumps(row).encode())
        self._works[task.task_id] = work
        log.info("run=%d begins", task.run_id)

    def _look_after(self, tasks: flower.Tasks, work: _Work) -> None:
        """Keep a task's process going, and say how it ended once it has."""
        code = None if work.process is None else work.process.poll()
        if work.process is None or (code is not None and code < 0 and work.starts < MOST_STARTS):
            if work.starts:
                log.warning("run=%d was ended by signal %s, goes on from its last checkpoint", work.task.run_id, code)
            self._start(work)
        elif code is not None:
            self._finish(tasks, work, code)
            return
        if time.monotonic() - work.beaten_at >= BEAT_S:
            self._beat(tasks, work)

    def _start(self, work: _Work) -> None:
        with (self.folder.path / "logs" / "conduct.log").open("ab") as out:
            work.process = subprocess.Popen(  # noqa: S603 - this package's own process
                command("conduct", self.folder.path, str(work.file)), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        work.starts += 1

    def _beat(self, tasks: flower.Tasks, work: _Work) -> None:
        work.beaten_at = time.monotonic()
        try:
            if tasks.beat(work.task):
                return
        except (Unreachable, Declined) as error:
            log.warning("%s", error)
            return
        except (NotAdmitted, RunOver) as error:
            log.info("%s", error)
        log.warning("run=%d is over: it was stopped, or nobody worked on it for a minute", work.task.run_id)
        if work.process is not None:
            work.process.kill()
            work.process.wait()
        self._forget(work)

    def _finish(self, tasks: flower.Tasks, work: _Work, code: int) -> None:
        why = ""
        if code:
            said = work.file.with_suffix(".why")
            why = said.read_text(encoding="utf-8") if said.exists() else f"its process ended with {code}"
        try:
            tasks.finish(work.task, why=why)
        except FedHealthError as error:
            log.warning("run=%d could not be finished: %s", work.task.run_id, error)
        log.info("run=%d ended: %s", work.task.run_id, why or "done")
        self._forget(work)

    def _forget(self, work: _Work) -> None:
        del self._works[work.task.task_id]
        for file in (work.file, work.file.with_suffix(".why")):
            file.unlink(missing_ok=True)
