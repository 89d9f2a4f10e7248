"""Where a hospital's privacy ledger lies.

What patients have spent outlives a study's run and an update of this program, so the ledger
lies in neither's folder, nor in the hospital's own one, which may be read-only and in version
control: `policy.ledger` names the file, and without it a folder of the user's state does. It
must be on a disk of this machine, since SQLite's locks do not hold over a network. Hospitals of
one name on one machine share that folder, so at most one of them may leave `policy.ledger` out.

A hospital that takes part in a deployment keeps it in `state/` of its own folder, beside what it
keeps of its rounds, unless it had one in the user's state before: a new one would forget what
patients have spent.

A simulation keeps one a run, where the hospital does not name its own: simulated patients
have nothing to lose, but real data that is only studied in one process has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.governance.key_file import key_from
from fedhealth.privacy.ledger import Ledger

if TYPE_CHECKING:
    from fedhealth.core.manifest import SiteManifest

FILE = "ledger.sqlite"


def ledger_of(manifest: SiteManifest, folder: Path, *, run: Path | None = None) -> Ledger:
    """A hospital's ledger; nothing is made or read but its key.

    Args:
        manifest: the hospital's.
        folder: the hospital's own; `policy.ledger` and `policy.ledger_key` may be relative to it.
        run: in a simulation the run's folder.

    Raises:
        SettingError: the key's file is missing, or not for its owner alone.
    """
    policy = manifest.policy
    key = key_from(folder / Path(policy.ledger_key).expanduser()) if policy.ledger_key else None
    return Ledger(_path(manifest, folder, run).resolve(), key=key)


def _path(manifest: SiteManifest, folder: Path, run: Path | None) -> Path:
    if manifest.policy.ledger:
        return folder / Path(manifest.policy.ledger).expanduser()
    if run is not None:
        return run / "ledgers" / manifest.name / FILE
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    of_user = state / "fedhealth" / manifest.name / FILE
    is_deployed = (folder / "state").is_dir() and not of_user.exists()
    return folder / "state" / FILE if is_deployed else of_user
