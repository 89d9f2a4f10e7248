"""The doctor: what must be in order before a hospital takes part, each in one line with its remedy.

It reads, and writes nothing. To the coordinator it says no more than a handshake and a
question for its health, so it can be run beside a node at work.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from cryptography import x509

from fedhealth.core.errors import DataError, FedHealthError
from fedhealth.core.manifest import load_manifest
from fedhealth.core.study import study_from
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.site.cohort import load_cohort
from fedhealth.site.files import allowed
from fedhealth.site.keys import FOLDER, Keys
from fedhealth.site.sources import Reachable, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from fedhealth.core.manifest import SiteManifest

#: A coordinator takes a signature that is at most 5 s from the future and 5 minutes from the past.
FAST_S, SLOW_S = 4.0, 240.0
LEAST_DISK_BYTES, LEAST_MEMORY_BYTES = 2**30, 2**30
#: A certificate that ends sooner is worth a word.
SOON_DAYS = 14
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at.

    Attributes:
        what: it.
        found: what was found.
        remedy: what to do; empty where it is in order.
    """

    what: str
    found: str
    remedy: str = ""

    @property
    def is_green(self) -> bool:
        """Whether it is in order."""
        return not self.remedy


def examined(folder: Path, document: Mapping[str, Any] | None = None) -> list[Line]:
    """A line for each thing a hospital needs.

    Args:
        folder: the hospital's.
        document: a study; with one, its data is read for it.
    """
    lines = [_line("site.yaml", lambda: load_manifest(folder).title), _user(), _permissions(folder)]
    lines += [_line("keys", lambda: _keys(folder)), _disk(folder), _memory(), *_data(folder, document)]
    try:
        address = SiteFolder(folder).address
    except FedHealthError as error:
        return [*lines, _of("coordinator", error)]
    return [*lines, _proxy(address), *_coordinator(SiteFolder(folder), address), _node(SiteFolder(folder))]


def _line(what: str, look: Callable[[], str]) -> Line:
    try:
        return Line(what, look())
    except (FedHealthError, OSError) as error:
        return _of(what, error)


def _of(what: str, error: Exception) -> Line:
    """An error as a line: what it found, and its last sentence as the remedy."""
    said = " ".join(str(error).split()).rstrip(".")
    found, _, remedy = said.rpartition(". ")
    return Line(what, found or said, remedy or "Mend that")


def _user() -> Line:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Line("user", "root", "Run it as a user of its own: nothing here needs more")
    return Line("user", "not root")


def _permissions(folder: Path) -> Line:
    for name in ("keys", "state"):
        path = folder / name
        if path.is_dir() and path.stat().st_mode & 0o077:
            return Line("permissions", f"{path} open to others", f"chmod 700 {path}")
    if not os.access(folder / "state" if (folder / "state").is_dir() else folder, os.W_OK):
        return Line("permissions", f"{folder} can't be written to", "Give its user the folder")
    return Line("permissions", "keys and state are the user's alone")


def _keys(folder: Path) -> str:
    keys = Keys(folder / FOLDER)
    _ = keys.identity, keys.seal, SiteFolder(folder).transport_key
    return "all three, readable by their owner alone"


def _disk(folder: Path) -> Line:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free"
    return Line("disk", found, "" if free >= LEAST_DISK_BYTES else "Free at least 1 GiB")


def _memory() -> Line:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return Line("memory", "this system does not tell")
    return Line("memory", f"{free / 2**30:.1f} GiB free", "" if free >= LEAST_MEMORY_BYTES else "Free at least 1 GiB")


def _data(folder: Path, document: Mapping[str, Any] | None) -> list[Line]:
    try:
        manifest = load_manifest(folder)
    except FedHealthError:
        return []
    if document is None:
        return [_line("data source", lambda: _reached(manifest, folder))]
    return [_line("data source", lambda: _read(manifest, folder, document))]


def _reached(manifest: SiteManifest, folder: Path) -> str:
    """What is there, in words; no patient is read."""
    source, kind = open_source(manifest, folder), str(manifest.source["kind"])
    if isinstance(source, Reachable):
        source.reach(folder)
        return f"{kind}, it answers"
    paths = [str(getattr(source, name)) for name in ("path", "outcomes") if getattr(source, name, "")]
    for path in paths:
        place = allowed(folder, path, manifest)
        try:
            if place.is_file():
                place.open("rb").close()
        except OSError as error:
            raise DataError(
                f"source.path of {folder.name} must name a readable file, found {error.strerror}. "
                "Correct the path or the rights."
            ) from None
    return f"{kind}, {'its file can be read' if paths else 'its settings in order'}"


def _read(manifest: SiteManifest, folder: Path, document: Mapping[str, Any]) -> str:
    study = study_from(document, where="the study")
    load_cohort(manifest, folder, spec=study.features, task=study.task, split=study.split, seed=study.seed)
    # How many patients there are is nobody's business who looks over a shoulder.
    return f"{manifest.source['kind']}, every column and unit that {study.name} asks for"


def _proxy(address: str) -> Line:
    host = address.rpartition(":")[0].strip("[]")
    proxy = getproxies().get("https")
    if not proxy or proxy_bypass(host):
        return Line("proxy", "none on the way")
    # It may hold a password.
    return Line("proxy", f"calls go through {proxy.rpartition('@')[2]}; it must let CONNECT to {address} through")


def _coordinator(folder: SiteFolder, address: str) -> list[Line]:
    """The way to the coordinator, its certificate, and this machine's clock beside its own."""
    import httpx

    try:
        context = folder.client_context()
        answer = httpx.get(f"https://{address}/health", verify=context, timeout=TIMEOUT_S)
    except FedHealthError as error:
        return [_of("certificate", error)]
    except httpx.TransportError as error:
        return [_unreached(address, error)]
    lines = [Line("coordinator", f"{address} answers over TLS 1.3"), _certificate(folder, address)]
    try:
        ahead_s = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])).total_seconds()
    except (KeyError, ValueError):
        return lines
    is_right = -SLOW_S < ahead_s < FAST_S + 1
    found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    return [
        *lines,
        Line("clock", found, "" if is_right else "Set it, by NTP: signatures from another time are refused"),
    ]


def _unreached(address: str, error: Exception) -> Line:
    words = " ".join(str(error).split())
    if "certificate" in words.lower():
        why = "has expired" if "expired" in words else "is not of the coordinator's authority, or for another name"
        return Line(
            "certificate", f"what {address} shows {why}",
            "Compare fingerprints by telephone; the coordinator may have to renew it",
        )  # fmt: skip
    return Line("coordinator", f"nobody reached at {address}: {words or type(error).__name__}",
                f"Open outbound TCP to {address}, and ask whether it runs")  # fmt: skip


def _certificate(folder: SiteFolder, address: str) -> Line:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain,
            folder.client_context().wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):
        return Line("certificate", "of the coordinator's authority")
    if shown is None:
        return Line("certificate", "of the coordinator's authority")
    left = x509.load_der_x509_certificate(shown).not_valid_after_utc - datetime.now(UTC)
    remedy = "" if left.days >= SOON_DAYS else "Have the coordinator renew it: fedhealth coordinator renew"
    return Line("certificate", f"of the coordinator's authority, {left.days} days left", remedy)


def _node(folder: SiteFolder) -> Line:
    said = folder.said()
    if not said:
        return Line("enrolment", "never let in so far", f"Send {folder.path}/enrolment.json, then fedhealth site start")
    if said.get("why"):
        return _of("enrolment", FedHealthError(said["why"]))
    return Line("enrolment", f"let in, and {said.get('state')} at {said.get('at')}")
