"""Memory: what a hospital keeps of one round for its own next, on its own disk.

Flower's context would lose it with the process, and a study resumed at an earlier round
must find what held then. So each round's is a file, and `before` finds the newest that is
older than the round asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedhealth.core.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.pull import Arrays

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Memory:
    """A folder with one file a round; nothing is there before the first is kept."""

    folder: Path

    def before(self, round_: int) -> Arrays | None:
        """What the last round before `round_` left; None where there is none.

        Raises:
            IntegrityError: the file is not whole.
        """
        try:
            # Of ten thousand simulated hospitals each is asked twice a round, and `Path.glob` takes ten times as long.
            names = os.listdir(self.folder)  # noqa: PTH208
        except FileNotFoundError:
            return None
        rounds = [int(name.removesuffix(SUFFIX)) for name in names if name[0].isdigit() and name.endswith(SUFFIX)]
        past = [number for number in rounds if number < round_]
        if not past:
            return None
        path = self._path(max(past))
        try:
            return dict(load_tensors(path.read_bytes()))
        except (SafetensorError, ValueError):
            raise IntegrityError(
                f"{path} must be as it was written, found no whole safetensors file. Start the study anew."
            ) from None

    def keep(self, round_: int, arrays: Arrays) -> None:
        """Keep a round's arrays; a crash leaves the whole file or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(round_)
        draft = path.with_suffix(".draft")
        draft.write_bytes(save_tensors(arrays))
        draft.replace(path)

    def _path(self, round_: int) -> Path:
        return self.folder / f"{round_:05d}{SUFFIX}"
