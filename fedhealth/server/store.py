"""The run's folder: checkpoints that are whole or absent, and the one way a file is written.

runs/<study>/<time>/
    config.yaml  metrics.jsonl  manifest.json  model.safetensors  results.json  …
    checkpoints/00007/  model.safetensors  strategy.safetensors  state.json
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.core.errors import IntegrityError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[np.generic]"]

MODEL, STRATEGY, STATE = "model.safetensors", "strategy.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on after round `round_` as if it had never stopped."""

    round_: int
    model: Arrays
    strategy: Arrays
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Store:
    """A run's folder."""

    folder: Path

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint: at any moment the folder holds it whole or not at all.

        The files go to a hidden folder that is renamed once all of them are on the disk.

        Raises:
            OSError: the disk is full, say; checkpoints written before stay as they are.
        """
        target = self.folder / "checkpoints" / f"{checkpoint.round_:05d}"
        draft = target.with_name(f".{target.name}")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        files = {MODEL: save_tensors(checkpoint.model), STRATEGY: save_tensors(checkpoint.strategy)}
        state = {
            "round": checkpoint.round_,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "state": checkpoint.state,
        }
        for name, content in {**files, STATE: json.dumps(state).encode()}.items():
            write_bytes(draft / name, content)
        # First the names of the files, then the name of their folder: a rename may reach the disk before what it names.
        _sync(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        _sync(target.parent)

    def load(self, round_: int | None = None) -> Checkpoint | None:
        """A round's checkpoint, by default the last; None where there is none yet.

        Raises:
            IntegrityError: a file is not what was written.
        """
        rounds = self.rounds()
        if not rounds:
            return None
        folder = self.folder / "checkpoints" / f"{rounds[-1] if round_ is None else round_:05d}"
        try:
            found = json.loads((folder / STATE).read_text(encoding="utf-8"))
            contents = {name: (folder / name).read_bytes() for name in (MODEL, STRATEGY)}
            for name, content in contents.items():
                if hashlib.sha256(content).hexdigest() != found["sha256"][name]:
                    raise IntegrityError(
                        f"{folder / name} must be as it was written, found another SHA-256. "
                        "Remove that checkpoint to resume from the one before."
                    )
            return Checkpoint(
                found["round"], load_tensors(contents[MODEL]), load_tensors(contents[STRATEGY]), found["state"]
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise IntegrityError(
                f"{folder} must hold a whole checkpoint, found {type(error).__name__}. "
                "Remove it to resume from the one before."
            ) from error

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, rising."""
        return sorted(int(path.name) for path in (self.folder / "checkpoints").glob("[0-9]*"))

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew, a line a round."""
        write_bytes(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document into the folder."""
        write_bytes(self.folder / name, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON document from the folder.

        Raises:
            SettingError: there is none.
            IntegrityError: it is not whole.
        """
        path = self.folder / name
        if not path.is_file():
            raise SettingError(f"a finished run must hold {name}, found none in {self.folder}. Resume the run first.")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise IntegrityError(
                f"{path} must be JSON, found something else. Resume the run to write it anew."
            ) from None
        return dict(found)

    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; use with `contextlib.contextmanager`.

        Raises:
            SettingError: another run holds it.
        """
        with (self.folder / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SettingError(
                    f"one run at a time may write to {self.folder}, found another at work there. "
                    "Wait for it, or choose another run.folder."
                ) from None
            yield


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it.

    Everything a run stores passes here; sealing at rest is a change to this one function.
    """
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
