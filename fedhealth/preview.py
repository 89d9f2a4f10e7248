"""The preview: what would leave a hospital for a study, worked out here and sent nowhere.

The hospital's own client answers the coordinator's own questions, both in this process. It
charges a copy of the hospital's ledger, and what it keeps it keeps in a folder that is deleted.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import FedHealthError
from fedhealth.core.study import packed
from fedhealth.runtime import flower
from fedhealth.runtime.codec import contents_of, failure, read_request, write_average, write_error
from fedhealth.runtime.local import FIRST_NODE, LocalGrid
from fedhealth.runtime.policy import Patience, PolicyGrid
from fedhealth.secagg.masked import Masked
from fedhealth.server.rehearsal import rehearse
from fedhealth.site.client import Client
from fedhealth.site.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Context, Message

    from fedhealth.core.update import PrivateUpdate
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.privacy.ledger import Ledger
    from fedhealth.runtime.codec import Request


@dataclass(frozen=True, slots=True)
class Part:
    """One array that would leave: its name, type, shape, bytes of content, and Euclidean norm."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size_bytes: int
    norm: float


@dataclass(frozen=True, slots=True)
class Leaving:
    """What one question would get.

    Attributes:
        purpose: what is asked.
        of: the part of the split that it is about; empty where it is about none.
        parts: the arrays.
        numbers: the numbers beside them, by name.
        size_bytes: of all of it, names included, as a receipt would say; in a masked study of its vector.
        shares_noise: whether noise is still to be added under the mask, so that the norms are those before it.
    """

    purpose: str
    of: str
    parts: tuple[Part, ...]
    numbers: dict[str, float]
    size_bytes: int
    shares_noise: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What would leave, and what it would cost.

    Attributes:
        leaving: the answers, in the order of the questions.
        before: what the hospital's patients have spent already, over all studies.
        after: what they would have spent once all of this had left.
    """

    leaving: list[Leaving]
    before: Guarantee
    after: Guarantee


def previewed(document: Mapping[str, Any], folder: Path) -> Preview:
    """What would leave the hospital in `folder` in the first round of the study in `document` and at its end.

    Raises:
        FedHealthError: the hospital would refuse, or fail: the very error.
    """
    flower.quiet()
    with TemporaryDirectory(prefix="fedhealth-preview-") as place:
        # Approved for this process alone.
        client = Client(folder, packed(document), "")
        client = replace(client, approved=client.digest)
        ledger, memory = _copied(client.ledger, Path(place)), Memory(Path(place) / "memory")
        found: list[Leaving] = []
        faults: list[FedHealthError] = []

        def answer(message: Message, context: Context) -> Message:
            del context
            try:
                request = read_request(message)
                private = client.computed(request, memory, ledger)
            except FedHealthError as error:
                # Kept, since a message carries its code alone.
                faults.append(error)
                return write_error(failure(error, "preview"), to=message)
            # Between two halves of this process; nothing is sealed, since nothing leaves.
            update = private.update
            reply = write_average(update.arrays, update.metrics, update.weight, to=message)
            found.append(_leaving(client, request, private, reply))
            return reply

        name, delta = client.manifest.name, client.manifest.policy.delta
        before = ledger.spent(name, delta=delta)
        grid = PolicyGrid(LocalGrid(answer, [{}], {}), {FIRST_NODE: name}, Patience(quorum=1, poll_s=0))
        try:
            rehearse(client.study, grid)
        except FedHealthError as error:
            raise (faults[0] if faults else error) from None
        return Preview(found, before, ledger.spent(name, delta=delta))


def _copied(ledger: Ledger, place: Path) -> Ledger:
    """A copy of a hospital's ledger, as it stands; the original is read and nothing else."""
    copy = replace(ledger, path=place / ledger.path.name)
    head = ledger.path.with_name(ledger.path.name + ".head")
    # The head first: what another process adds in between is more than it says, never less.
    if head.exists():
        shutil.copyfile(head, place / head.name)
    if ledger.path.exists():
        with closing(sqlite3.connect(ledger.path)) as found, closing(sqlite3.connect(copy.path)) as into:
            found.backup(into)
    return copy


def _leaving(client: Client, request: Request, private: PrivateUpdate, reply: Message) -> Leaving:
    update, sealing = private.update, client.sealing
    size = contents_of(reply).size_bytes
    if isinstance(sealing, Masked):
        # Word 0 counts the patients, and of training the numbers are in the vector as well.
        words = 1 + sum(np.size(array) for array in update.arrays.values())
        is_training = request.purpose == "train"
        size = (words + len(update.metrics) if is_training else words) * (sealing.bits if is_training else 64) // 8
    parts = tuple(
        Part(name, str(array.dtype), array.shape, array.nbytes, float(np.linalg.norm(np.ravel(array))))
        for name, array in sorted(update.arrays.items())
    )
    numbers = {"patients": update.weight, **update.metrics}
    return Leaving(request.purpose, str(request.config.get("part", "")), parts, numbers, size, private.shares_noise)
