"""The audited grid: every message, asked and answered, in the coordinator's log, each log countersigned by the other.

It stands around the grid that carries the messages and below the policy grid, which sees
replies as it would without: what goes along of the logs is put in and taken out here.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedhealth.governance.audit import Log
from fedhealth.governance.countersign import Countersigner
from fedhealth.governance.signing import new_key, signing_key
from fedhealth.runtime import flower
from fedhealth.runtime.codec import AUDIT, CONFIG, contents_of, said_along

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flwr.app import Message, RecordDict

    from fedhealth.core.study import Study
    from fedhealth.governance.audit import Fact
    from fedhealth.runtime.flower import Run

#: Why a hospital gave no answer, as `runtime.codec` writes it.
REASON = re.compile(r"(refused|failed):[A-Za-z0-9_:]{1,100}")


class AuditedGrid(Grid):
    """A grid that logs what it carries.

    Args:
        inner: carries the messages.
        names: the hospital at each node.
        log: the coordinator's.
        study: the digest of the study that is asked for.
        identities: by hospital, its public key in hex, where it is known; a log of another key is doubted.
    """

    def __init__(
        self, inner: Grid, names: Mapping[int, str], log: Log, study: str, identities: Mapping[str, str] | None = None
    ) -> None:
        self._inner = inner
        self._names = dict(names)
        self._countersigner = Countersigner(log)
        self._study = study
        self._keys = {name: bytes.fromhex(key) for name, key in (identities or {}).items()}
        self._asked: dict[str, tuple[str, dict[str, Fact]]] = {}

    def set_run(self, run: Run) -> None:
        """Pass the run on."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The inner grid's run."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message for the inner grid."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """The inner grid's."""
        return list(self._inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Log what is asked of whom, then ask it; how far the log has come goes along."""
        pending = list(messages)
        if not pending:
            return []
        config = pending[0].content.get(CONFIG, {})
        facts: dict[str, Fact] = {
            "study": self._study,
            "round": int(config.get("server-round", 0)),
            "purpose": str(pending[0].metadata.message_type),
        }
        sites = [self._names.get(message.metadata.dst_node_id, "unknown") for message in pending]
        checkpoint = self._countersigner.log.append("asked", **facts, sites=sorted(sites)).checkpoint
        sent = []
        for message, site in zip(pending, sites, strict=True):
            # A strategy's messages may share one set of records.
            own = flower.twin(message)
            own.content[AUDIT] = ConfigRecord(self._countersigner.says(_origin(site), checkpoint))
            sent.append(own)
        ids = list(self._inner.push_messages(sent))
        self._asked |= {id_: (site, facts) for id_, site in zip(ids, sites, strict=True)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are ready, each logged, as they would have come without logs."""
        replies = list(self._inner.pull_messages(message_ids))
        for reply in replies:
            asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                self._take(reply, *asked)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies, or those within the time; rounds ask through the policy grid instead."""
        ids, replies = self.push_messages(messages), list[Message]()
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(replies) < len(ids) and (deadline is None or time.monotonic() < deadline):
            answered = {reply.metadata.reply_to_message_id for reply in replies}
            found = self.pull_messages([id_ for id_ in ids if id_ not in answered])
            replies += found
            if not found:
                time.sleep(0.05)
        return replies

    def _take(self, reply: Message, site: str, facts: dict[str, Fact]) -> None:
        found, log = contents_of(reply), self._countersigner.log
        more: dict[str, Fact] = {**facts, "site": site, "bytes": found.size_bytes}
        if not reply.has_content():
            code = str(reply.error.reason or "no_reason")
            # A hospital's code; of whatever else its length tells enough.
            log.append(
                "lost", **more, reason=code if code.startswith(("refused:", "failed:")) and len(code) < 200 else ""
            )
            return
        log.append("came", **more, content=found.sha256)
        said = said_along(reply, take=True)
        if said is not None:
            self._countersigner.hears(said, peer=_origin(site), key=self._keys.get(site))


def _origin(site: str) -> str:
    return f"fedhealth/site/{site}"


def logged(grid: Grid, names: Mapping[int, str], study: Study, study_digest: str, folder: Path) -> AuditedGrid:
    """The grid of a simulated coordinator that keeps its log and its key in the run's folder."""
    place = folder / "keys" / "coordinator"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        new_key(place)
    log = Log(folder / "audit" / "coordinator", "fedhealth/coordinator/simulation", signing_key(place))
    return AuditedGrid(grid, names, log, study_digest, study.identities)
