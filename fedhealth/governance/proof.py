"""A proof that one event is in a log, as one file that anybody can check without the log.

The format is C2SP's tlog-proof, with the event's own line as its extra data: the hashes lead
from it to the root, and the checkpoint below them vouches for the root.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.study import canonical
from fedhealth.governance import note
from fedhealth.governance.audit import CHECKPOINT, COUNTERSIGNED, verified
from fedhealth.governance.merkle import is_included, leaf_hash

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.governance.note import PublicKey

HEAD = "c2sp.org/tlog-proof@v1"


def proof_of(folder: Path, index: int) -> str:
    """The proof of event `index` of the log in `folder`, under the checkpoint that most others countersigned last.

    Raises:
        SettingError: there is no such event.
        IntegrityError: the log is not as it was written.
    """
    found = verified(folder)
    if not 0 <= index < len(found.events):
        raise SettingError(
            f"an event must be one of the log's {len(found.events)}, counted from 0, found {index}. See fedhealth audit tail."
        )
    kept = [path.read_text(encoding="utf-8") for path in sorted((folder / COUNTERSIGNED).glob("[a-z0-9]*"))]
    kept = [text for text in kept if note.opened(text, found.key).size > index]
    newest = max(kept, key=lambda text: note.opened(text, found.key).size, default=None)
    checkpoint = newest or (folder / CHECKPOINT).read_text(encoding="utf-8")
    size = note.opened(checkpoint, found.key).size
    if index >= size:
        raise SettingError(f"an event must be in a checkpoint, found {index} after it. Let the site log another first.")
    hashes = [base64.b64encode(part).decode() for part in found.tree.inclusion(index, size)]
    line = canonical(found.events[index]).encode()
    head = [HEAD, f"extra {base64.b64encode(line).decode()}", f"index {index}", *hashes]
    return "\n".join([*head, "", checkpoint])


def proved(text: str, key: PublicKey) -> tuple[dict[str, Any], int]:
    """The event that a proof is of, and the size of the checkpoint that it is in.

    Raises:
        IntegrityError: it proves nothing, or not under this key.
    """
    head, _, checkpoint = text.partition("\n\n")
    point = note.opened(checkpoint, key)
    try:
        first, extra, index, *hashes = head.split("\n")
        line = base64.b64decode(extra.removeprefix("extra "), validate=True)
        number = int(index.removeprefix("index "))
        proof = [base64.b64decode(part, validate=True) for part in hashes]
        event = json.loads(line)
    except (ValueError, binascii.Error, RecursionError):
        raise _no_proof("something else") from None
    if first != HEAD or not isinstance(event, dict):
        raise _no_proof("something else")
    if not is_included(leaf_hash(line), number, point.size, point.root, proof):
        raise _no_proof(f"hashes that do not lead from event {number} to the checkpoint's root")
    return event, point.size


def _no_proof(found: str) -> IntegrityError:
    return IntegrityError(f"a proof must be as fedhealth audit prove wrote it, found {found}. Ask for it again.")
