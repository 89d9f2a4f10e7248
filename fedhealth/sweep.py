"""A sweep: one run after another, each in a folder of its own; one that fails doesn't end the rest."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import FedHealthError
from fedhealth.runs import beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep, over.

    Attributes:
        title: the overrides that tell it from the other jobs.
        folder: where its results are; None where its config was wrong.
        fault: why it failed; None where it did not.
    """

    title: str
    folder: Path | None
    fault: FedHealthError | None


def conducted(jobs: Sequence[Sequence[str]], stamp: str, run: Callable[[dict[str, Any], str], object]) -> Iterator[Job]:
    """Each job of the sweep once it is over, in order.

    Args:
        jobs: each job's overrides.
        stamp: the sweep's name among the study's runs, where the config names no folder.
        run: runs a config to its end; it is told the job's title too.
    """
    titles = [" ".join(words) for words in _varying(jobs)]
    width = len(str(len(jobs)))
    for number, (job, title) in enumerate(zip(jobs, titles, strict=True), start=1):
        folder = None
        try:
            config = resolved(composed(job))
            # A config without these keys is refused where it is run, in the words for that.
            settings = config.get("run") or {}
            above = Path(str(settings.get("folder") or f"runs/{config.get('name')}/{stamp}"))
            folder = above / f"{number:0{width}}-{_slug(title)}"
            run({**config, "run": {**settings, "folder": str(folder)}} if settings else config, title)
        except FedHealthError as error:
            yield Job(title, folder, error)
        else:
            yield Job(title, folder, None)


def to_compare(jobs: Sequence[Job]) -> list[str]:
    """What names the jobs that are done to a comparison: their common folder where it holds no others."""
    done = [job.folder for job in jobs if job.folder and not job.fault]
    if len(done) < 2:
        return []
    folder = done[0].parent
    return [shlex.quote(str(path)) for path in ([folder] if set(beneath(folder)) == set(done) else done)]


def _varying(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job's overrides, those that are not the same in all jobs; of a lone job all."""
    varies = [len(set(words)) > 1 or len(jobs) == 1 for words in zip(*jobs, strict=True)]
    return [[word for word, does in zip(job, varies, strict=True) if does] for job in jobs]


def _slug(title: str) -> str:
    """The title as part of a folder's name that no shell needs quoted."""
    return re.sub(r"[^\w.=,+-]+", "_", title.replace(" ", ","))[:80]
