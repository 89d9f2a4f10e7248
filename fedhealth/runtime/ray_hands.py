"""Blocks of hospitals on workers of Ray, on this machine or on many.

Each worker is a process of one thread that is told once which hospitals are its own. It loads or draws their
patients itself; what crosses to it is a block's questions, and what comes back the block's answers.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import FedHealthError
from fedhealth.runtime.batched import Desk
from fedhealth.runtime.ray import ray_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedhealth.runtime.block import Crew
    from fedhealth.runtime.codec import Request

#: Seconds until every worker must have started.
START_S = 180.0
#: Blocks that a worker has at a time: one to work on, and the next, so that it never waits for the head.
AHEAD = 2


class RayHands:
    """Workers of Ray that answer blocks; `runtime.batched.Hands`.

    Args:
        shares: by worker, the nodes of its hospitals by id.
        crew: makes, at the worker, what answers for a block; found there by its name in the package.
        is_summed: whether hospitals may answer a question together; found there likewise.
        address: a Ray that is there, as host:port or auto; None to start one for this run.

    Raises:
        FedHealthError: not every worker started in time.
    """

    def __init__(
        self,
        shares: Sequence[Mapping[int, Mapping[str, Any]]],
        *,
        crew: Callable[[], Crew],
        is_summed: Callable[[Request], bool],
        address: str | None,
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="fh-", ignore_cleanup_errors=True)
        before, told = dict(os.environ), ray_environment(Path(self._home.name), is_own=address is None)
        self._restore = {name: before.get(name) for name in told}
        os.environ.update(told)
        # It reads its environment as it is loaded.
        import ray

        self._ray: Any = ray
        self._waiting: list[deque[tuple[int, Callable[[], bytes]]]] = [deque() for _ in shares]
        self._running: dict[Any, tuple[int, int]] = {}
        try:
            own = {"num_cpus": len(shares), "include_dashboard": False} if address is None else {}
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
            worker = self._ray.remote(_Worker).options(num_cpus=1, scheduling_strategy="SPREAD")
            self._workers: list[Any] = [worker.remote(crew, share, is_summed) for share in shares]
            self._wait_for_all()
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            self.close()
            raise FedHealthError(
                f"every worker of Ray must start, found {type(error).__name__}. Every machine needs this package "
                "and the hospitals' folders at the same paths."
            ) from None
        except BaseException:
            self.close()
            raise

    def give(self, number: int, content: Callable[[], bytes]) -> None:
        """Give a block to its worker, once it has done those before."""
        place = number % len(self._workers)
        self._waiting[place].append((number, content))
        self._send(place)

    def done(self) -> list[tuple[int, bytes]]:
        """The blocks that are done and their answers; waits up to 200 ms for the first.

        Raises:
            FedHealthError: a worker has ended.
        """
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), timeout=0.2)
        found = []
        for reference in ready:
            number, place = self._running.pop(reference)
            try:
                found.append((number, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                raise FedHealthError(
                    f"a worker of Ray must live to the end, found that of block {number} ended "
                    f"({type(error).__name__}). There may be too little memory; lower engine.cohort_bytes."
                ) from None
            self._send(place)
        return found

    def close(self) -> None:
        """End the workers, and a Ray of one's own."""
        self._ray.shutdown()
        for name, value in self._restore.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._home.cleanup()

    def _wait_for_all(self) -> None:
        """Return once every worker is there."""
        asked = [worker.ready.remote() for worker in self._workers]
        ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=START_S)
        if len(ready) < len(asked):
            raise FedHealthError(
                f"every worker of Ray must start within {START_S:g} s, found {len(ready)} of {len(asked)}. "
                "Lower runtime.processes to the cores that Ray has, or add machines."
            )
        self._ray.get(ready)

    def _send(self, place: int) -> None:
        """Send a worker what it may have by now."""
        has = sum(where == place for _, where in self._running.values())
        if has < AHEAD and self._waiting[place]:
            number, content = self._waiting[place].popleft()
            self._running[self._workers[place].serve.remote(content())] = number, place


class _Worker:
    """A worker, in its own process."""

    def __init__(
        self, crew: Callable[[], Crew], nodes: Mapping[int, Mapping[str, Any]], is_summed: Callable[[Request], bool]
    ) -> None:
        self._desk = Desk(crew(), nodes, is_summed)

    def ready(self) -> None:
        """Return, once the worker is there."""

    def serve(self, content: bytes) -> bytes:
        """The answers of a block."""
        return self._desk.serve(content)
