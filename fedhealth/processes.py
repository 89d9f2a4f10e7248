"""The processes of a deployment, each put together here and started by its place's supervisor.

    python -m fedhealth.processes superlink | executor DIR
    python -m fedhealth.processes conduct DIR TASK
    python -m fedhealth.processes node DIR

The hospital's worker is `fedhealth.site.worker`: the one process with patients in it.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.core.errors import FedHealthError
from fedhealth.governance.record import append
from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.runtime.deployment.supervisor import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable


def superlink(folder: Path) -> None:
    """Be a coordinator's SuperLink."""
    from fedhealth.runtime.deployment.superlink import be_superlink

    coordinator = CoordinatorFolder(folder)
    be_superlink(coordinator, functools.partial(append, coordinator.audit))


def executor(folder: Path) -> None:
    """Be a coordinator's executor."""
    from fedhealth.runtime.deployment.executor import Executor
    from fedhealth.runtime.deployment.line import go_straight

    coordinator = CoordinatorFolder(folder)
    # And so does each process of a run, which it starts.
    go_straight(coordinator.here)
    Executor(coordinator).run()


def conduct(folder: Path, task: str) -> None:
    """Be the process of one run."""
    from fedhealth.conduct import conducted

    conducted(CoordinatorFolder(folder), Path(task))


def node(folder: Path) -> None:
    """Be a hospital's node."""
    from fedhealth.runtime.deployment.node import Node

    Node(SiteFolder(folder)).run()


ROLES: dict[str, Callable[..., None]] = {"superlink": superlink, "executor": executor, "conduct": conduct, "node": node}


def main(words: list[str]) -> int:
    """The exit code of one process, which ends when its supervisor does."""
    os.umask(0o077)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("fedhealth").setLevel(logging.INFO)
    # Else it narrates every call, and twice.
    logging.getLogger("flwr").propagate = False
    logging.getLogger("flwr").setLevel(logging.WARNING)
    role, folder, *more = words
    try:
        ROLES[role](Path(folder), *more)
    except (FedHealthError, OSError) as error:
        logging.getLogger("fedhealth").error("%s", error)  # noqa: TRY400 - one line, as everywhere
        return error.exit_code if isinstance(error, FedHealthError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
