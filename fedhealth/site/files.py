"""Files: which of them a hospital's source may read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.core.errors import DataError

if TYPE_CHECKING:
    from fedhealth.core.manifest import SiteManifest


def allowed(folder: Path, path: str, manifest: SiteManifest) -> Path:
    """The file or folder at `path`, which begins at the hospital's folder or at an environment variable: `${NAME}/…`.

    Raises:
        DataError: there is none; it leads out of where it begins, by dots or a link, and into
            none of the manifest's `folders`; or the variable is unset.
    """
    root, inside = begun(folder, path)
    found = root / inside
    try:
        if not found.exists():
            raise DataError(f"source.path of {folder.name} must name a file, found none at {found}. Correct the path.")
        real = found.resolve()
    except OSError as error:
        raise DataError(
            f"source.path of {folder.name} must name a readable file, found {error.strerror}. "
            "Correct the path or the rights."
        ) from None
    homes = [root, *(begun(folder, each)[0] / begun(folder, each)[1] for each in manifest.folders)]
    if not any(real.is_relative_to(home.resolve()) for home in homes):
        raise DataError(
            f"source.path of {folder.name} must lie in its own folder or in one that site.yaml lists under `folders`, "
            f"found {real}. List that folder, or move the file."
        )
    return found


def begun(folder: Path, path: str) -> tuple[Path, str]:
    """Where a path begins, and the rest of it.

    Raises:
        DataError: it begins at an environment variable that is unset.
    """
    variable = re.match(r"\$\{(\w+)\}/?", path)
    if not variable:
        return folder, path
    value, rest = os.environ.get(variable[1]), path[variable.end() :]
    if not value:
        raise DataError(
            f"the data of {folder.name} must be under {variable[1]}, found that variable unset. "
            f"Set it to the folder that holds {rest}."
        )
    return Path(value), rest
