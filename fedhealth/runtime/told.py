"""What a server app in a process of its own tells the process that waits for it: a file of JSON lines.

A line is written whole and never changed, so the reader can look at any moment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedhealth.core import errors
from fedhealth.core.errors import FedHealthError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The key of the run config that names the file.
TOLD = "fh-told"
#: Every node has answered; a round is over; the run has failed; its results are written.
Kind = Literal["started", "round", "failed", "done"]


def tell(path: Path, kind: Kind, said: Mapping[str, Any] | None = None) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps([kind, dict(said or {})]) + "\n")


@dataclass(slots=True)
class Listener:
    """Reads a file of lines as they come; it need not be there yet."""

    path: Path
    _read_bytes: int = field(default=0, init=False)

    def news(self) -> list[tuple[Kind, dict[str, Any]]]:
        """The whole lines since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        lines = [json.loads(line) for line in whole.splitlines()]
        return [(kind, said) for kind, said in lines]


def said_of(error: FedHealthError | OSError) -> dict[str, Any]:
    """An error as `error_in` reads it."""
    if isinstance(error, OSError):
        return {"kind": "OSError", "args": [error.errno, error.strerror, error.filename]}
    return {"kind": type(error).__name__, "args": list(error.args), "details": vars(error)}


def error_in(said: Mapping[str, Any]) -> FedHealthError | OSError:
    """The error that was told, of the class it had, with its message and details."""
    if said["kind"] == "OSError":
        return OSError(*said["args"])
    found = getattr(errors, said["kind"], FedHealthError)
    # Some take other arguments than their message, so none is called again.
    error: FedHealthError = found.__new__(found, *said["args"])
    error.__dict__.update(said["details"])
    return error
