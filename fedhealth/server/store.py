"""The run's folder: checkpoints that are whole or absent, and the one way a file is written.

runs/<study>/<time>/
    config.yaml  metrics.jsonl  manifest.json  model.safetensors  results.json  …
    checkpoints/00007/  model.safetensors  strategy.safetensors  state.json

The config and a JSON document carry their own SHA-256, and manifest.json, written last, that of every file a
report is worked out from. That tells of a fault or a slip of the hand; who forges a document
can forge its hash with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.study import digest
from fedhealth.core.yaml_text import text_of, values_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[np.generic]"]

MODEL, STRATEGY, STATE = "model.safetensors", "strategy.safetensors", "state.json"
CONFIG, HISTORY, MANIFEST, REPORT = "config.yaml", "metrics.jsonl", "manifest.json", "report.json"
SUMS = ("statistics.json", "results.json", "baselines.json")
#: What a report is worked out from.
SOURCES = (CONFIG, HISTORY, *SUMS)


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

        The files go to a hidden folder that is renamed once all of them are on the disk. A
        manifest goes: it speaks of a run that had ended.

        Raises:
            OSError: the disk is full, say; checkpoints written before stay as they are.
        """
        (self.folder / MANIFEST).unlink(missing_ok=True)
        target = self.folder / "checkpoints" / f"{checkpoint.round_:05d}"
        draft = target.with_name(f".{target.name}")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        files = {MODEL: save_tensors(checkpoint.model), STRATEGY: save_tensors(checkpoint.strategy)}
        # A safetensors file sorts its names, and some strategies keep lists in the model's order.
        order = {MODEL: list(checkpoint.model), STRATEGY: list(checkpoint.strategy)}
        state = {"round": checkpoint.round_, "order": order, "state": checkpoint.state}
        said = json.dumps(state)
        hashes = {name: _sha256(content) for name, content in {**files, STATE: said.encode()}.items()}
        # As if the hashes had stood in it: it names each hospital in each round, and need not be said twice.
        files[STATE] = f'{said[:-1]}, "sha256": {json.dumps(hashes)}}}'.encode()
        for name, content in files.items():
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
            found = json.loads((folder / STATE).read_bytes())
            hashes = found.pop("sha256")
            contents = {name: (folder / name).read_bytes() for name in (MODEL, STRATEGY)}
            for name, content in {**contents, STATE: json.dumps(found).encode()}.items():
                if _sha256(content) != hashes[name]:
                    raise IntegrityError(
                        f"{folder / name} must be as it was written, found another SHA-256. "
                        "Remove that checkpoint to resume from the one before."
                    )
            tensors = {name: load_tensors(content) for name, content in contents.items()}
            model, strategy = ({key: tensors[name][key] for key in found["order"][name]} for name in (MODEL, STRATEGY))
            return Checkpoint(found["round"], model, strategy, found["state"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise IntegrityError(
                f"{folder} must hold a whole checkpoint, found {type(error).__name__}. "
                "Remove it to resume from the one before."
            ) from error

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, rising."""
        return sorted(int(path.name) for path in (self.folder / "checkpoints").glob("[0-9]*") if path.name.isdecimal())

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, with the SHA-256 of its values in the first line."""
        write_bytes(self.folder / CONFIG, f"{_first_line(config)}\n{text_of(config)}".encode())

    def read_config(self) -> dict[str, Any]:
        """The config that the run began with.

        Raises:
            SettingError: this is no run's folder.
            IntegrityError: it is not what was written.
        """
        path = self.folder / CONFIG
        if not path.is_file():
            raise SettingError(f"a run's folder must hold {CONFIG}, found none in {self.folder}. See fedhealth runs.")
        try:
            text = path.read_text(encoding="utf-8")
            found = values_in(text)
            is_whole = text.startswith(f"{_first_line(found)}\n")
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise _changed(path, "something else")
        return dict(found)

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew, a line a round."""
        write_bytes(self.folder / HISTORY, "".join(json.dumps(row) + "\n" for row in history).encode())

    def read_history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; none before the first round.

        Raises:
            IntegrityError: a row is not whole.
        """
        path = self.folder / HISTORY
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError):
            raise _changed(path, "a row that is not whole") from None

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document, and in it its SHA-256, into the folder."""
        whole = {**document, "sha256": digest(document)}
        write_bytes(self.folder / name, _lines(whole).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON document from the folder.

        Raises:
            SettingError: there is none.
            IntegrityError: it is not what was written.
        """
        path = self.folder / name
        if not path.is_file():
            raise SettingError(f"a finished run must hold {name}, found none in {self.folder}. Resume the run first.")
        try:
            found = json.loads(path.read_bytes())
            is_whole = found.pop("sha256") == digest(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise _changed(path, "something else")
        return dict(found)

    def write_manifest(self, document: Mapping[str, Any], sources: Iterable[str] = SOURCES) -> None:
        """Write manifest.json, which ends a run: the document, and the SHA-256 of every file of `sources`."""
        files = {name: _sha256((self.folder / name).read_bytes()) for name in sources}
        self.write_json(MANIFEST, {**document, "files": files})

    def read_manifest(self) -> dict[str, Any]:
        """manifest.json, with every file that it names known to be as it was when the run ended.

        Raises:
            SettingError: the run has not ended.
            IntegrityError: a file is not what was written.
        """
        found = self.read_json(MANIFEST)
        for name, expected in found["files"].items():
            path = self.folder / name
            if not path.is_file() or _sha256(path.read_bytes()) != expected:
                raise _changed(path, f"another SHA-256 than {MANIFEST} names" if path.is_file() else "no such file")
        return found

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


def _lines(document: Mapping[str, Any]) -> str:
    """A document as JSON, a line for each key of it and of the mappings in it: `indent` takes ten times as long."""
    said = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            inner = (f"  {json.dumps(name)}: {json.dumps(each, allow_nan=False)}" for name, each in value.items())
            text = "{\n" + ",\n".join(inner) + "\n }"
        else:
            text = json.dumps(value, allow_nan=False)
        said.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(said) + "\n}\n"


def _first_line(config: Mapping[str, Any]) -> str:
    return f"# sha256 {digest(config)}"


def _changed(path: Path, found: str) -> IntegrityError:
    remedy = "Put it back as it was" + ("." if path.name == CONFIG else ", or remove it and resume the run.")
    return IntegrityError(f"{path} must be as it was written, found {found}. {remedy}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
