"""Enrolment: how a coordinator comes to know a hospital.

    at the hospital     site init      makes both keys, writes a request signed by both
    on its way          any            the request holds no secret; compare its fingerprint by telephone
    at the coordinator  enroll         checks it, gives it a node id, remembers it

A request counts once: the register remembers each by its SHA-256, also those of hospitals that
were revoked since. So nobody enrols a hospital again with an old request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.core.errors import IntegrityError, SettingError, did_you_mean
from fedhealth.core.private_file import write_private
from fedhealth.core.study import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: A request is good for so long.
DAYS = 30
#: What a request says of the hospital for reports, from its site.yaml.
CARD = ("title", "region", "description", "simulated", "min_cell", "min_cohort", "shared")


@dataclass(frozen=True, slots=True)
class Request:
    """A hospital's wish to be known.

    Attributes:
        name: the hospital's.
        transport: the public key its messages are let in by, PEM.
        identity: the public Ed25519 key it signs with, hex.
        card: what a report may say of it.
        made: when, in UTC.
        digest: the SHA-256 of the request, hex.
    """

    name: str
    transport: bytes
    identity: str
    card: dict[str, Any]
    made: str
    digest: str


def write_request(
    name: str, transport: ec.EllipticCurvePrivateKey, identity: Ed25519PrivateKey, card: Mapping[str, Any]
) -> bytes:
    """A request, signed by both keys, so that nobody can ask for keys that are not theirs."""
    body = {
        "fedhealth": "enrolment 1",
        "name": name,
        "transport": public_pem(transport.public_key()).decode(),
        "identity": identity.public_key().public_bytes_raw().hex(),
        "card": {key: card[key] for key in CARD},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "nonce": secrets.token_hex(16),
    }
    signed = canonical(body).encode()
    signatures = {
        "transport": base64.b64encode(transport.sign(signed, ec.ECDSA(hashes.SHA384()))).decode(),
        "identity": base64.b64encode(identity.sign(signed)).decode(),
    }
    return (json.dumps({**body, "signatures": signatures}, indent=1, ensure_ascii=False) + "\n").encode()


def read_request(content: bytes) -> Request:
    """The request in a file, as its keys signed it.

    Raises:
        SettingError: it is no request, or too old.
        IntegrityError: it was changed since it was signed.
    """
    try:
        body = dict(json.loads(content))
        signatures = body.pop("signatures")
        signed = canonical(body).encode()
        transport = serialization.load_pem_public_key(body["transport"].encode())
        identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex(body["identity"]))
        proofs = {name: base64.b64decode(signatures[name], validate=True) for name in ("transport", "identity")}
        made = datetime.fromisoformat(body["made"])
        name, card = str(body["name"]), {key: body["card"][key] for key in CARD}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnsupportedAlgorithm):
        transport = None
    if not isinstance(transport, ec.EllipticCurvePublicKey):
        raise SettingError(
            "an enrolment request must be as fedhealth site init wrote it, found something else. Send that file."
        )
    try:
        transport.verify(proofs["transport"], signed, ec.ECDSA(hashes.SHA384()))
        identity.verify(proofs["identity"], signed)
    except InvalidSignature:
        raise IntegrityError(
            "an enrolment request must be signed by both of its keys, found a signature that is not. It was changed on "
            "its way: have it sent again, and compare fingerprints."
        ) from None
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise SettingError(
            f"a hospital's name must be lower-case letters, digits and dashes, found {name[:80]!r}. Rename it."
        )
    age = datetime.now(UTC) - made
    if not timedelta(days=-1) < age < timedelta(days=DAYS):
        raise SettingError(
            f"an enrolment request must be less than {DAYS} days old, found one made {body['made']}. "
            "Make another: fedhealth site init."
        )
    return Request(name, body["transport"].encode(), body["identity"], card, body["made"], fingerprint(content))


def fingerprint(content: bytes) -> str:
    """The SHA-256 of a request, hex."""
    return hashlib.sha256(content).hexdigest()


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key in PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A hospital that a coordinator knows.

    Attributes:
        name: the hospital's.
        node_id: its number at the SuperLink.
        identity: the public Ed25519 key it signs with, hex.
        transport: the public key it is let in by, PEM.
        card: what a report may say of it.
        request: the SHA-256 of its request.
        enrolled: when.
        revoked: since when it is let in no more; empty where it is.
    """

    name: str
    node_id: int
    identity: str
    transport: str
    card: dict[str, Any]
    request: str
    enrolled: str
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Register:
    """The file of all hospitals that a coordinator knows or knew."""

    path: Path

    def check(self, request: Request) -> None:
        """Do nothing where a request may be granted.

        Raises:
            SettingError: it was used before, or its name or a key of it is taken.
        """
        for known in self._read():
            if known.request == request.digest:
                raise SettingError(
                    f"an enrolment request must be used once, found the one that {known.name} was enrolled by on "
                    f"{known.enrolled[:10]}. Have the hospital make another: fedhealth site init."
                )
            if request.transport.decode() == known.transport or request.identity == known.identity:
                raise SettingError(
                    f"a hospital must have keys of its own, found a key of {known.name}'s in the request. Have new keys "
                    "made: remove keys/ in the hospital's folder, and site init."
                )
            if known.name == request.name and not known.revoked:
                raise SettingError(
                    f"a hospital's name must be free, found {request.name} enrolled already. Revoke it first: "
                    f"fedhealth coordinator revoke DIR {request.name}"
                )

    def add(self, request: Request, node_id: int) -> Enrolled:
        """Remember a hospital."""
        made = Enrolled(
            name=request.name,
            node_id=node_id,
            identity=request.identity,
            transport=request.transport.decode(),
            card=request.card,
            request=request.digest,
            enrolled=_now(),
        )
        self._write([*self._read(), made])
        return made

    def revoke(self, name: str) -> Enrolled:
        """The hospital of that name, which counts no more.

        Raises:
            SettingError: there is none.
        """
        found = self.named(name)
        rows = [{**_row(each), "revoked": _now()} if each == found else _row(each) for each in self._read()]
        self._write([Enrolled(**row) for row in rows])
        return found

    def enrolled(self) -> dict[str, Enrolled]:
        """The hospitals that count, by name."""
        return {each.name: each for each in sorted(self._read(), key=lambda each: each.name) if not each.revoked}

    def named(self, name: str) -> Enrolled:
        """One of them.

        Raises:
            SettingError: there is none of that name.
        """
        known = self.enrolled()
        if name not in known:
            raise SettingError(f"a hospital must be enrolled, found no {name!r}. {did_you_mean(name, known)}")
        return known[name]

    def _read(self) -> list[Enrolled]:
        if not self.path.exists():
            return []
        try:
            return [Enrolled(**row) for row in json.loads(self.path.read_bytes())]
        except (ValueError, TypeError):
            raise IntegrityError(
                f"{self.path} must hold the enrolled hospitals, found something else. Put it back."
            ) from None

    def _write(self, rows: list[Enrolled]) -> None:
        write_private(self.path, (json.dumps([_row(each) for each in rows], indent=1) + "\n").encode())


def _row(each: Enrolled) -> dict[str, Any]:
    return {name: getattr(each, name) for name in Enrolled.__slots__}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
