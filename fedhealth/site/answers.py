"""Answers: what a hospital told of a private study, kept as it left.

A request that comes again, as after a crash of the coordinator's, gets the answer it got. That tells
nothing new, so it costs nothing, while fresh noise over the same patients would be one more
look at them. Of each kind of request the last answer is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.core.errors import IntegrityError
from fedhealth.core.study import canonical
from fedhealth.core.update import Update

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.runtime.codec import Request

#: The one entry of a file's header: safetensors writes several in no fixed order.
_HEADER = "answer"


@dataclass(frozen=True, slots=True)
class Answers:
    """A folder with one file a kind of request: its purpose, and of an evaluation the part of the split."""

    folder: Path

    def find(self, request: Request) -> Update | None:
        """What was told when this very request came before; None where it did not, or another has come since.

        Raises:
            IntegrityError: the file is not whole.
        """
        path = self._path(request)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as found:
                header = json.loads(found.metadata()[_HEADER])
            if header["request"] != _name_of(request):
                return None
            return Update(header["weight"], dict(load_tensors(path.read_bytes())), header["metrics"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise IntegrityError(
                f"{path} must be as it was written, found no answer in it. Remove it; the request is then charged anew."
            ) from None

    def keep(self, request: Request, told: Update) -> None:
        """Keep what is about to leave; a crash leaves the whole file or the one before."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        header = {"request": _name_of(request), "weight": told.weight, "metrics": dict(told.metrics)}
        path = self._path(request)
        draft = path.with_suffix(".draft")
        draft.write_bytes(save_tensors(dict(told.arrays), metadata={_HEADER: canonical(header)}))
        draft.replace(path)

    def _path(self, request: Request) -> Path:
        # Letters alone: the coordinator chose these words.
        kind = f"{request.purpose}-{request.config.get('part', '')}"
        return self.folder / f"{''.join(c if c.isalpha() else '-' for c in kind)[:40]}.safetensors"


def _name_of(request: Request) -> str:
    """A hash of all that is asked."""
    said = {"purpose": request.purpose, "round": request.round_, "config": request.config}
    found = hashlib.sha256(canonical(said).encode())
    for name, array in sorted(request.arrays.items()):
        found.update(canonical({"name": name, "type": array.dtype.str, "shape": list(array.shape)}).encode())
        found.update(array.tobytes())
    return found.hexdigest()
