"""Where the configs and the built-in hospitals are: beside the package, or inside an installed one."""

from __future__ import annotations

import os
from pathlib import Path

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.manifest import MANIFEST

_PACKAGE = Path(__file__).resolve().parent


def configs_folder() -> Path:
    """The folder of the config groups."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def builtin_sites() -> Path:
    """The folder of the hospitals that come with FedHealth."""
    inside = _PACKAGE / "builtin_sites"
    return inside if inside.is_dir() else _PACKAGE.parent / "sites"


def cache_folder() -> Path | None:
    """The folder of what this user's programs can make again, `$XDG_CACHE_HOME` or `~/.cache`; None without an absolute one."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        found = chosen.expanduser() / "fedhealth"
    except RuntimeError:
        return None
    # By the standard a relative one counts for nothing: whatever folder a command starts in would hold what it runs.
    return found if found.is_absolute() else None


def site_names(folder: Path) -> list[str]:
    """The hospitals in a folder, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}") if path.is_file())


def site_folder(name: str, folder: Path) -> Path:
    """One hospital's own folder.

    Raises:
        SettingError: there is no such hospital.
    """
    # A name with a slash in it would lead out of the folder.
    if (folder / name).parent != folder or not (folder / name / MANIFEST).is_file():
        raise SettingError(f"sites.names must name hospitals in {folder}, found {name!r}. "
                           f"{did_you_mean(name, site_names(folder))}")  # fmt: skip
    return folder / name
