"""The trail: what the hospital's audit log says of each message that it was asked and answered.

    request ─heard→ "asked" ─work→ reply ─left→ "left", "refused" or "failed" ─→ out

The receipt is written before the message goes, and covers all that is in it. A message for
which none can be written does not go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.runtime.codec import CONFIG, contents_of, said_along, say_along

if TYPE_CHECKING:
    from flwr.app import Message

    from fedhealth.governance.audit import Fact
    from fedhealth.governance.countersign import Countersigner


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was heard.

    Attributes:
        facts: what the log says of it, and of its answer.
        peer: the name of the asker's log, None where it keeps none.
        checkpoint: of the hospital's own log, with the request in it.
    """

    facts: dict[str, Fact]
    peer: str | None
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Trail:
    """One hospital's.

    Attributes:
        countersigner: its log, and what it has seen of others' logs.
    """

    countersigner: Countersigner

    def heard(self, message: Message, study: str) -> Asked:
        """A request, logged; and its asker's log countersigned, where that came along.

        Args:
            message: the request.
            study: the digest of the study that it is of.
        """
        round_ = int(message.content.get(CONFIG, {}).get("server-round", 0))
        facts: dict[str, Fact] = {
            "study": study,
            "round": round_,
            "purpose": str(message.metadata.message_type),
            "message": str(message.metadata.message_id),
        }
        receipt = self.countersigner.log.append("asked", **facts)
        said = said_along(message)
        peer = None if said is None else self.countersigner.hears(said)
        return Asked(facts, peer, receipt.checkpoint)

    def left(self, reply: Message, asked: Asked) -> Message:
        """The reply, once its receipt is on the disk; with it goes how far the log has come.

        That is as far as the request: a receipt can't be in a checkpoint that it accounts for,
        so it is in the next one.
        """
        if reply.has_content() and asked.peer is not None:
            say_along(reply, self.countersigner.says(asked.peer, asked.checkpoint))
        found = contents_of(reply)
        facts = {**asked.facts, "bytes": found.size_bytes}
        if reply.has_content():
            parts = [list(part) for part in found.parts]
            self.countersigner.log.append("left", **facts, content=found.sha256, parts=parts)
            return reply
        kind, _, rest = str(reply.error.reason).partition(":")
        if kind == "refused":
            self.countersigner.log.append("refused", **facts, code=rest)
        else:
            error, _, incident = rest.partition(":")
            self.countersigner.log.append("failed", **facts, error=error, incident=incident)
        return reply
