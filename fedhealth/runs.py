"""The runs on this disk: where they are, and what a comparison reads of one."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.report.run_groups import Run
from fedhealth.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIG = "config.yaml"


def beneath(folder: Path) -> Iterator[Path]:
    """The run's folder itself, or the folders of all runs beneath it, sorted."""
    if (folder / CONFIG).is_file():
        yield folder
    elif folder.is_dir():
        for inner in sorted(folder.iterdir()):
            yield from beneath(inner)


def named(words: Sequence[str]) -> list[Path]:
    """The folders of the runs that the words name: runs, folders of runs, or patterns of either.

    Each is there once, in the order of the words.

    Raises:
        SettingError: a word names no run.
    """
    found: dict[Path, None] = {}
    for word in words:
        # A folder that is there is meant as it is, brackets and all.
        places = [word] if Path(word).exists() else sorted(glob.glob(word))  # noqa: PTH207 (it may be absolute)
        runs = [run for place in places for run in beneath(Path(place))]
        if not runs:
            raise SettingError(
                f"--compare must name runs or folders of runs, found no {CONFIG} in or under {word}. See fedhealth runs."
            )
        found.update(dict.fromkeys(runs))
    return list(found)


def above(folders: Sequence[Path]) -> Path:
    """The nearest folder that holds all of the runs."""
    relative = not any(folder.is_absolute() for folder in folders)
    return Path(os.path.commonpath([folder.parent if relative else folder.parent.absolute() for folder in folders]))


def read(folder: Path) -> Run:
    """A finished run as a comparison reads it.

    Raises:
        SettingError: the run is not finished.
        IntegrityError: a file of it is not whole.
    """
    if not (folder / "report.json").is_file():
        last = max(Store(folder).rounds(), default=0)
        raise SettingError(
            f"a run must be finished to be compared, found {folder} stopped after round {last}. "
            f"Go on with it: fedhealth simulate --resume {folder}, or leave it out."
        )
    store = Store(folder)
    return Run(
        folder=str(folder),
        config=store.read_config(),
        report=store.read_json("report.json"),
        cohorts=store.read_manifest().get("cohorts") or {},
    )
