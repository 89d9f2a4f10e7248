"""The local grid: Flower messages handed to a client app in this very process."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.runtime import flower
from fedhealth.runtime.ray import check_address, require_ray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.clientapp import ClientApp

    from fedhealth.runtime.flower import Run

#: With fewer hospitals a second process waits longer than it works.
WORTH_A_FORK = 64
#: The first node's id. Ids follow the order in which nodes are given.
FIRST_NODE = 100


@settings
class Local:
    """All hospitals in this process, one message after the other or `workers` at a time.

    Results do not depend on `workers` or `processes`. Threads pay only where the client app leaves
    Python's lock for long, which a small model does not.

    Attributes:
        workers: threads that each take one hospital after the other; 0 for none. With engine=plain.
        processes: processes that share the hospitals of engine=batched; null for two where there are
            two cores and enough hospitals, else one.
        executor: what those processes are: `fork` for forked ones of this machine, `ray` for workers of Ray,
            which may be on many.
        address: with executor=ray a Ray that is there: its head's host:port, or auto for the one this machine
            belongs to; None for one of this machine, for this run.
    """

    workers: int = 0
    processes: int | None = None
    executor: str = "fork"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise SettingError(f"`processes` must be 1 or more, found {self.processes}. Use null to leave it open.")
        if self.workers < 0:
            raise SettingError(f"`workers` must be 0 or more, found {self.workers}. Use 0 for one after the other.")
        if self.executor not in ("fork", "ray"):
            raise SettingError(f"`executor` must be fork or ray, found {self.executor!r}. Use fork for one machine.")
        if self.executor == "fork" and self.address is not None:
            raise SettingError(f"`address` is for executor=ray, found {self.address!r} with fork. Leave it null.")
        if self.executor == "ray" and self.workers:
            raise SettingError(f"`workers` must be 0 with executor=ray, found {self.workers}. Use processes.")
        check_address(self.address)

    def require(self) -> None:
        """Do nothing where what the executor needs is there.

        Raises:
            SettingError: it isn't.
        """
        if self.executor == "ray":
            require_ray(self.address, "runtime.executor=ray")

    def forks(self, hospitals: int) -> int:
        """How many processes share so many hospitals."""
        if self.processes is not None:
            return self.processes
        return min(os.cpu_count() or 1, 2) if hospitals >= WORTH_A_FORK and hasattr(os, "fork") else 1

    def grid(self, app: ClientApp, nodes: Iterable[Mapping[str, Any]], run_config: Mapping[str, Any]) -> LocalGrid:
        """A grid with one node for each node config in `nodes`."""
        return LocalGrid(app, nodes, run_config, workers=self.workers)


class LocalGrid(Grid):
    """A `flwr.serverapp.Grid` without a network, a server process or Ray.

    With `workers=0` a message is run when its reply is pulled, in the order of pushing.
    Each node sees its own copy of the records, so none can change what another reads; the
    bytes of the arrays are shared, being immutable. A node's `Context` lives as long as
    the grid.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Iterable[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        *,
        workers: int = 0,
        run_id: int = 1,
    ) -> None:
        self._app = app
        self._run = flower.begin_run(run_id)
        self._contexts = {
            node_id: Context(
                run_id=run_id, node_id=node_id, node_config=dict(node), state=RecordDict(), run_config=dict(run_config)
            )
            for node_id, node in enumerate(nodes, start=FIRST_NODE)
        }
        self._ids = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._running: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="site") if workers else None

    def set_run(self, run: Run) -> None:
        """Take another run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid carries messages for."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message; `flwr.app.Message` does the same and is what strategies use."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """The nodes' ids, in the order they were given."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take the messages; the ids returned name their replies."""
        ids = []
        for message in messages:
            own = flower.twin(message)
            message_id = str(next(self._ids))
            flower.set_message_id(own, message_id)
            if self._pool:
                self._running[message_id] = self._pool.submit(self._answer, own)
            else:
                self._waiting[message_id] = own
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are ready: the next one, or with workers all that are done.

        With workers and none done yet, waits up to 200 ms for the first.
        """
        if not self._pool:
            following = next((i for i in message_ids if i in self._waiting), None)
            return [] if following is None else [self._answer(self._waiting.pop(following))]
        running = {self._running[i]: i for i in message_ids if i in self._running}
        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            del self._running[running[future]]
        return [future.result() for future in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies. `timeout` is for `PolicyGrid` to keep; here every message is answered."""
        del timeout
        open_ids = self.push_messages(messages)
        replies: list[Message] = []
        while len(replies) < len(open_ids):
            replies += self.pull_messages(open_ids)
        return replies

    def close(self) -> None:
        """Let the worker threads go, without waiting for stragglers."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # noqa: BLE001 - a node's failure is an error reply, as on a real grid
            # The kind of error only: its text may hold what a patient's record holds.
            reply = Message(Error(flower.CLIENT_FAILED, f"failed:{type(error).__name__}"), reply_to=message)
        flower.set_message_id(reply, f"r{message.metadata.message_id}")
        return reply
