"""The secure grid: every question is answered by one sum over hospitals, or by nobody.

    question ─→ adverts ─→ shares ─→ vectors ─→ confirmations ─→ reveals ─→ one reply, of all hospitals

It is the policy grid around a protocol (`fedhealth.secagg.protocol`): each of the five
exchanges has its quorum, deadline and named failures. A strategy gets one reply, from a
node that stands for all, with the mean and the total count, and works as it would with one
hospital that trained on everybody. It stands here and not in `fedhealth.runtime` since it
joins three rooms that know nothing of one another.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import IntegrityError, QuorumError, Refused, SettingError
from fedhealth.core.parts import build
from fedhealth.core.update import ALL
from fedhealth.evaluation.spans import spans_of
from fedhealth.privacy.distributed import lattices
from fedhealth.privacy.noise_share import noise_in, spare_noise
from fedhealth.runtime import flower
from fedhealth.runtime.codec import ARRAYS, read_request, write_average, write_request
from fedhealth.runtime.policy import PolicyGrid
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.masked import MESSAGE
from fedhealth.secagg.protocol.codec import decode
from fedhealth.secagg.protocol.keys import SEED_BYTES
from fedhealth.secagg.protocol.messages import FromSite, unpack
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.strategies.method import method_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.app import Message
    from flwr.serverapp import Grid

    from fedhealth.core.study import Study
    from fedhealth.core.update import Update
    from fedhealth.runtime.codec import Request
    from fedhealth.runtime.policy import Fault, Patience
    from fedhealth.secagg.masked import Masked

#: The node that stands for all hospitals; no true node's id is so small.
EVERYBODY = 0


@dataclass(frozen=True, slots=True)
class MaskedStudy:
    """What the coordinator needs to know of a study to ask it under masks."""

    study: Study
    digest: str
    masked: Masked


class SecureGrid(PolicyGrid):
    """A policy grid whose replies are sums, and which sees no hospital's own.

    Args:
        inner: carries the messages.
        names: the hospital at each node.
        patience: of each of the five exchanges.
        asked: the study that it asks for.

    Raises:
        SettingError: the study has no keys of its hospitals.
    """

    remedy = "Mend them: a masked sum takes secagg.min_cohort hospitals, and most of those it began with."

    def __init__(self, inner: Grid, names: Mapping[int, str], patience: Patience, asked: MaskedStudy) -> None:
        super().__init__(inner, names, patience)
        if not asked.study.identities:
            raise SettingError(
                "a masked study must hold `identities`, found none. Add each hospital's public key: fedhealth site keys init."
            )
        self._study = asked
        self._nodes = {name: node for node, name in self._names.items()}
        self._session: ServerSession | None = None
        self._counted: tuple[str, ...] = ()
        self._noise = 0.0
        self._least = 0

    @property
    def is_masked(self) -> bool:
        """Always."""
        return True

    @property
    def noise(self) -> float:
        """The standard deviation of the noise in each number of the last sum; 0 where hospitals share none."""
        return self._noise

    def name_of(self, node: int) -> str:
        """The hospital at a node, or all of them."""
        return ALL if node == EVERYBODY else super().name_of(node)

    def hospitals_of(self, reply: Message) -> tuple[str, ...]:
        """The hospitals in the last sum."""
        return self._counted if reply.metadata.src_node_id == EVERYBODY else super().hospitals_of(reply)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        fault_of: Fault | None = None,
    ) -> list[Message]:
        """One reply, which stands for the hospitals of `hospitals_of`.

        Args:
            messages: one question, the same for every hospital.
            timeout: seconds for each of the five exchanges.
            fault_of: what makes the sum unusable, or None.

        Raises:
            QuorumError: too few hospitals stayed, at one of the five exchanges.
            IntegrityError: the sum can't be one of honest hospitals.
        """
        pending = list(messages)
        if not pending:
            return []
        request = read_request(pending[0])
        update = self._sum(pending, request, timeout)
        fault = fault_of(update.arrays) if fault_of is not None else None
        if fault is not None:
            raise IntegrityError(
                f"the sum over {len(self._counted)} hospitals must be an answer to {request.purpose}, found {fault}. "
                "One of them sent something else; ask each for its log."
            )
        reply = write_average(update.arrays, update.metrics, update.weight, to=pending[0])
        flower.set_sender(reply, EVERYBODY)
        return [reply]

    def _sum(self, pending: list[Message], request: Request, timeout: float | None) -> Update:
        """What the hospitals that stay say together."""
        asked = self._study
        method = method_of(asked.study.strategy)
        mechanism = build(asked.study.privacy, where="privacy", room="fedhealth.privacy")
        content, terms = asked.masked.asked(
            request, asked.study, asked.digest, method=method, spans=spans_of,
            lattice=lattices(mechanism, rounds=asked.study.rounds, sharing=asked.masked.sharing(len(asked.study.roster))),
        )  # fmt: skip
        spare_from = content.lattice.spare_from if isinstance(content, Noised) else ()
        session = ServerSession(terms, seed=os.urandom(SEED_BYTES), threads=os.cpu_count() or 1, spare_from=spare_from)
        self._session = session
        self._counted, self._least, self._noise = (), terms.min_cohort, 0.0
        try:
            self._exchange(pending, timeout)
            cohort = session.cohort()
            # Stragglers are waited for until so many have answered, whatever the study's quorum.
            self._least = terms.quorum(len(cohort.adverts))
            self._step("query.share", dict.fromkeys(session.awaited, cohort.pack()), timeout)
            inboxes = {name: inbox.pack() for name, inbox in session.inboxes().items()}
            self._step("query.mask", inboxes, timeout)
            survivors = session.survivors()
            counted = tuple(sorted(session.awaited))
            self._step("query.confirm", dict.fromkeys(counted, survivors.pack()), timeout)
            quorum = session.quorum().pack()
            self._step("query.reveal", dict.fromkeys(session.awaited, quorum), timeout)
            started = time.monotonic()
            words = session.total()
        except Refused as refused:
            raise QuorumError(
                f"enough hospitals must stay for a masked sum of {request.purpose}, found: {refused}"
            ) from refused
        finally:
            self._session, self._least = None, 0
        if isinstance(content, Noised):
            told = session.spare
            words[1:] -= spare_noise(content.lattice, told, len(words) - 1).view(words.dtype)
            self._noise = noise_in(content.lattice, len(counted), told=len(told), spare=len(told[0]))
        update = content.read(decode(terms.layout, words, len(counted)))
        self._since[-1] = replace(self._since[-1], took_s=self._since[-1].took_s + time.monotonic() - started)
        self._counted = counted
        return update

    def _step(self, purpose: str, by_site: Mapping[str, bytes], timeout: float | None) -> None:
        """Send each hospital its message of a step; the session takes the answers as they come."""
        self._exchange(
            [
                write_request(purpose, self._nodes[name], {MESSAGE: np.frombuffer(content, dtype=np.uint8)})
                for name, content in sorted(by_site.items())
            ],
            timeout,
        )

    def _quorum(self, asked: int) -> int:
        return max(super()._quorum(asked), min(self._least, asked))

    def _exchange(self, messages: list[Message], timeout: float | None) -> None:
        super().send_and_receive(messages, timeout=timeout)

    def _fault(self, reply: Message, sent: Message, fault_of: Fault | None) -> str | None:
        """Why a message of the protocol does not count, or None; it is added to the sum here, and not kept."""
        if self._session is None:
            return super()._fault(reply, sent, fault_of)
        if reply.has_error():
            return None
        records: Any = reply.content
        if set(records) != {ARRAYS} or set(records[ARRAYS]) != {MESSAGE}:
            return "more or less than one message of the masking protocol"
        try:
            # Taken out, so that no more than one vector is held beside the sum.
            found = records[ARRAYS].pop(MESSAGE).numpy()
            message = unpack(found.tobytes())
            if not isinstance(message, FromSite):
                return "a message that only the coordinator sends"
            self._session.take(self.name_of(sent.metadata.dst_node_id), message)
        except (ValueError, OSError, EOFError):
            return "bytes that can't be read"
        except Refused as refused:
            return f"a message that is refused: {refused.rule}"
        return None
