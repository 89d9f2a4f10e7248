"""Getting a hospital ready for a coordinator: its keys, made here, and its request to be enrolled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.manifest import load_manifest
from fedhealth.core.private_file import write_private
from fedhealth.runtime.deployment.enrolment import fingerprint, write_request
from fedhealth.runtime.deployment.site_folder import REQUEST, SiteFolder
from fedhealth.site.keys import FOLDER, Keys

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.manifest import SiteManifest


def init(folder: Path, invitation: bytes | None = None) -> tuple[Path, str]:
    """The request to send to the coordinator, and its fingerprint; keys that are there stay.

    Args:
        folder: the hospital's, with its site.yaml.
        invitation: the coordinator's; None where it was accepted before.

    Raises:
        SettingError: no site.yaml, or no invitation.
    """
    manifest, hospital = load_manifest(folder), SiteFolder(folder)
    if invitation is not None:
        hospital.accept(invitation)
    _ = hospital.address
    keys = Keys(folder / FOLDER)
    keys.init()
    content = write_request(manifest.name, hospital.make_transport_key(), keys.identity, card(manifest))
    write_private(folder / REQUEST, content)
    return folder / REQUEST, fingerprint(content)


def card(manifest: SiteManifest) -> dict[str, str | int | bool]:
    """What reports may say of a hospital, in its own words."""
    return {
        "title": manifest.title,
        "region": manifest.region,
        "description": manifest.description,
        "simulated": manifest.source["kind"] == "synthetic",
        "min_cell": manifest.policy.min_cell,
        "min_cohort": manifest.policy.min_cohort,
        "shared": manifest.policy.share_site_results,
    }
