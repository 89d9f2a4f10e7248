"""A coordinator's folder: what lies where, made once by `init`.

    coordinator.json     the address and port, and the names in the certificate
    ca.pem  ca.key       the authority; move ca.key off the machine, it signs a new server certificate once a year
    server.pem  server.key
    invitation.json      for hospitals: the address and ca.pem; no secret
    tokens.json          the hashes of bearer tokens
    coordinator.token    of whoever runs commands here;  runtime.token  of the coordinator's own processes
    superexec.secret     what tasks are given out for
    sites.json           the enrolled hospitals
    superlink.db         Flower's runs and messages
    audit.jsonl          a line for each call
    runs/<study>/<time>/ what a run left
    logs/  state/        of the processes

All of it is for its owner alone.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError
from fedhealth.core.private_file import FOLDER_OWNER_ONLY, read_private, write_private
from fedhealth.core.settings import read, settings
from fedhealth.runtime.deployment import certificates
from fedhealth.runtime.deployment.enrolment import Register
from fedhealth.runtime.deployment.tokens import Tokens

if TYPE_CHECKING:
    import ssl

SETTINGS = "coordinator.json"


@settings
class CoordinatorSettings:
    """What a coordinator's folder was made for.

    Attributes:
        listen: the address to listen on; 0.0.0.0 for every one of the machine's.
        port: the one port.
        names: the host names and addresses under which hospitals reach it; the first is in their invitation.
        runs_at_once: runs that are worked on at a time; the others wait.
        strategies: packages beside FedHealth's and Flower's whose strategies may be submitted.
    """

    listen: str = "0.0.0.0"  # noqa: S104 - hospitals come from elsewhere
    port: int = 9443
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    runs_at_once: int = 2
    strategies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.port < 2**16:
            raise SettingError(f"`port` must lie in 1 to 65535, found {self.port}. Try 9443.")
        if self.runs_at_once < 1:
            raise SettingError(f"`runs_at_once` must be at least 1, found {self.runs_at_once}. Use 2.")
        if not self.names:
            raise SettingError("`names` must hold the name that hospitals reach it by, found none. Give one.")
        for name in self.names:
            if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]*[A-Za-z0-9])?", name):
                raise SettingError(
                    f"`names` must be host names or addresses, found {name!r}. Leave port and scheme out."
                )


@dataclass(frozen=True, slots=True)
class CoordinatorFolder:
    """The folder of one coordinator."""

    path: Path

    def init(self, chosen: CoordinatorSettings) -> str:
        """The authority's fingerprint, of a folder that is made now.

        Raises:
            SettingError: there is one already.
        """
        if (self.path / SETTINGS).exists():
            raise SettingError(
                f"a coordinator must have a folder of its own, found {self.path} made already. Choose another, or start it."
            )
        self.path.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
        self.path.chmod(FOLDER_OWNER_ONLY)
        for name in ("state", "logs", "runs"):
            (self.path / name).mkdir(exist_ok=True, mode=FOLDER_OWNER_ONLY)
        key, authority = certificates.make_authority(f"FedHealth coordinator {chosen.names[0]}")
        write_private(self.path / "ca.key", key)
        write_private(self.authority, authority)
        self.renew(chosen)
        write_private(self.path / "superexec.secret", secrets.token_hex(32).encode())
        for role in ("coordinator", "runtime"):
            write_private(self.path / f"{role}.token", self.tokens.issue(role, role).encode())
        host = f"[{chosen.names[0]}]" if ":" in chosen.names[0] else chosen.names[0]
        invitation = {"fedhealth": "invitation 1", "address": f"{host}:{chosen.port}", "authority": authority.decode()}
        write_private(self.path / "invitation.json", (json.dumps(invitation, indent=1) + "\n").encode())
        row = {name: getattr(chosen, name) for name in ("listen", "port", "names", "runs_at_once", "strategies")}
        # Last: a folder with it in is whole.
        write_private(self.path / SETTINGS, (json.dumps(row, indent=1) + "\n").encode())
        return certificates.fingerprint(authority)

    def renew(self, chosen: CoordinatorSettings, *, days: float = certificates.SERVER_DAYS) -> None:
        """Write a new server certificate, for the loopback too; hospitals notice nothing."""
        key, certificate = certificates.make_server(
            read_private(self.path / "ca.key", remedy="Bring it back from where it is kept."),
            self.authority.read_bytes(),
            list(dict.fromkeys((*chosen.names, _host(chosen), "localhost", "127.0.0.1"))),
            days=days,
        )
        write_private(self.path / "server.key", key)
        write_private(self.path / "server.pem", certificate)

    @property
    def settings(self) -> CoordinatorSettings:
        """What the folder was made for.

        Raises:
            SettingError: this is no coordinator's folder.
        """
        file = self.path / SETTINGS
        if not file.is_file():
            raise SettingError(
                f"a coordinator's folder must hold {SETTINGS}, found none in {self.path}. Run fedhealth coordinator init."
            )
        try:
            found = json.loads(file.read_bytes())
        except ValueError:
            raise SettingError(f"{file} must be JSON, found something else. Mend it.") from None
        return read(CoordinatorSettings, found, where=str(file))

    @property
    def here(self) -> str:
        """The address under which this machine's own processes reach it."""
        chosen = self.settings
        host = _host(chosen)
        return f"{f'[{host}]' if ':' in host else host}:{chosen.port}"

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.path / "ca.pem"

    @property
    def register(self) -> Register:
        """The enrolled hospitals."""
        return Register(self.path / "sites.json")

    @property
    def tokens(self) -> Tokens:
        """Who may speak to it."""
        return Tokens(self.path / "tokens.json")

    @property
    def audit(self) -> Path:
        """The file of a line for each call."""
        return self.path / "audit.jsonl"

    def token(self, role: str) -> str:
        """The token of a role that is kept here."""
        remedy = f"Issue one: fedhealth coordinator token DIR {role} --role {role}"
        return read_private(self.path / f"{role}.token", remedy=remedy).decode("ascii")

    def secret(self) -> bytes:
        """What tasks are given out for."""
        return read_private(self.path / "superexec.secret", remedy="Put it back, or make the folder anew.")

    def client_context(self) -> ssl.SSLContext:
        """TLS to the SuperLink of this folder."""
        return certificates.client_context(self.authority)

    def server_context(self) -> ssl.SSLContext:
        """TLS of the SuperLink.

        Raises:
            SettingError: the certificate has expired, or others may read its key.
        """
        read_private(self.path / "server.key", remedy="Run fedhealth coordinator renew.")
        left = certificates.days_left((self.path / "server.pem").read_bytes())
        if left <= 0:
            raise SettingError(
                f"a server's certificate must be valid, found one that expired {-left:.0f} days ago. Run fedhealth "
                f"coordinator renew {self.path}"
            )
        return certificates.server_context(self.path / "server.pem", self.path / "server.key")


def _host(chosen: CoordinatorSettings) -> str:
    """The address under which the machine reaches itself there."""
    return "127.0.0.1" if chosen.listen in ("0.0.0.0", "::") else chosen.listen  # noqa: S104 - compared
