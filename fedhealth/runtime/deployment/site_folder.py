"""A hospital's folder as deployment uses it, beside its site.yaml.

    coordinator.json   where the coordinator is, and its authority's certificate: the invitation
    enrolment.json     the request to be enrolled; holds no secret
    keys/              identity and seal (site.keys), and transport: the key that opens the coordinator's door
    approved/          the studies that the hospital said yes to
    state/             what it keeps from round to round, the ledger, answers until they are taken, who runs
    logs/

The data itself is only ever read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.core.private_file import FOLDER_OWNER_ONLY, read_private, write_private
from fedhealth.runtime.deployment import certificates

if TYPE_CHECKING:
    import ssl

INVITATION, REQUEST, TRANSPORT = "coordinator.json", "enrolment.json", "transport"


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """The folder of one hospital."""

    path: Path

    def accept(self, invitation: bytes) -> str:
        """The fingerprint of the authority in an invitation, which is kept.

        Raises:
            SettingError: it is no invitation.
        """
        try:
            found = dict(json.loads(invitation))
            address, authority = str(found["address"]), str(found["authority"]).encode()
            shown = certificates.fingerprint(authority)
            is_whole = re.fullmatch(r"[^\s/]+:[0-9]{1,5}", address) is not None
        except (ValueError, KeyError, TypeError):
            is_whole = False
        if not is_whole:
            raise SettingError(
                "an invitation must be as fedhealth coordinator init wrote it, found something else. Ask for that file."
            )
        for name in ("state", "logs"):
            (self.path / name).mkdir(exist_ok=True, mode=FOLDER_OWNER_ONLY)
        write_private(self.path / INVITATION, invitation)
        write_private(self.path / "state" / "authority.pem", authority)
        return shown

    def make_transport_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that opens the coordinator's door, made now where there is none."""
        path = self.path / "keys" / TRANSPORT
        if not path.exists():
            key = ec.generate_private_key(ec.SECP384R1())
            path.parent.mkdir(exist_ok=True, mode=FOLDER_OWNER_ONLY)
            write_private(
                path,
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            )
        return self.transport_key

    @property
    def transport_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that opens the coordinator's door.

        Raises:
            SettingError: there is none, or others may read it.
            IntegrityError: it is not such a key.
        """
        path = self.path / "keys" / TRANSPORT
        content = read_private(path, remedy=f"Run fedhealth site init {self.path}")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except ValueError:
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IntegrityError(f"{path} must be an elliptic-curve key, found something else. Put it back.")
        return key

    @property
    def address(self) -> str:
        """Where the coordinator is, as host:port.

        Raises:
            SettingError: the hospital has accepted no invitation.
        """
        path = self.path / INVITATION
        if not path.is_file():
            raise SettingError(
                f"a hospital must have its coordinator's invitation, found no {path}. Run fedhealth site init "
                f"{self.path} --invitation FILE"
            )
        return str(json.loads(path.read_bytes())["address"])

    @property
    def authority(self) -> Path:
        """The certificate of the coordinator's authority."""
        return self.path / "state" / "authority.pem"

    def client_context(self) -> ssl.SSLContext:
        """TLS to the coordinator."""
        return certificates.client_context(self.authority)

    @property
    def is_paused(self) -> bool:
        """Whether the hospital answers nothing for now."""
        return (self.path / "state" / "paused").exists()

    def pause(self, *, on: bool) -> None:
        """Answer nothing from now on, or answer again."""
        if on:
            write_private(self.path / "state" / "paused", b"")
        else:
            (self.path / "state" / "paused").unlink(missing_ok=True)

    def say(self, **now: Any) -> None:  # noqa: ANN401 - plain values
        """Tell whoever asks for the hospital's status what its node is doing."""
        write_private(self.path / "state" / "node.json", json.dumps(now).encode())

    def said(self) -> dict[str, Any]:
        """What its node last told; empty where it never did."""
        try:
            return dict(json.loads((self.path / "state" / "node.json").read_bytes()))
        except (OSError, ValueError):
            return {}
