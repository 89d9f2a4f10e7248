"""Where a hospital's decisions about studies are, and the keys they are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.governance.approval import Approvals
from fedhealth.governance.signing import public
from fedhealth.site.keys import FOLDER, Keys

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.manifest import SiteManifest


def approvals_of(manifest: SiteManifest, folder: Path) -> Approvals:
    """A hospital's decisions.

    Args:
        manifest: the hospital's.
        folder: the hospital's own.

    Raises:
        SettingError: it has no keys, or others may read them.
    """
    return Approvals(folder, manifest.name, public(Keys(folder / FOLDER).identity), manifest.proposers)
