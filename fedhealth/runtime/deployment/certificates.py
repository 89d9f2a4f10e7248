"""Certificates of a coordinator: its own authority, its server's certificate, and TLS 1.3 on both ends.

Hospitals trust the authority's certificate and no other, so a certificate that any other
authority gave out for the coordinator's name opens nothing.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397
#: A certificate is valid from a little before it was made: clocks differ.
BEFORE = timedelta(hours=1)


def make_authority(name: str) -> tuple[bytes, bytes]:
    """A new authority: its key and its certificate, both PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _dated(AUTHORITY_DAYS)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return _pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def make_server(
    authority_key: bytes, authority: bytes, names: Sequence[str], *, days: float = SERVER_DAYS
) -> tuple[bytes, bytes]:
    """A new server key and a certificate of the authority's for these host names and addresses, both PEM."""
    signer = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise SettingError(
            "an authority must have an elliptic-curve key, found another kind. Make it by coordinator init."
        )
    issuer = x509.load_pem_x509_certificate(authority)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _dated(days)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    return _pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a PEM certificate, in groups that two people can compare by telephone."""
    digest = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()
    return " ".join(digest[i : i + 8] for i in range(0, len(digest), 8))


def days_left(certificate: bytes) -> float:
    """Days until a PEM certificate expires; below 0 where it has."""
    return (x509.load_pem_x509_certificate(certificate).not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def client_context(authority: Path) -> ssl.SSLContext:
    """TLS 1.3 to a server of the authority's, and to no other.

    Raises:
        SettingError: the file holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"{authority} must hold the coordinator's certificate, found {error.strerror or 'something else'}. "
            "Take it from the invitation again."
        ) from None
    return context


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 for a server; a client that offers no more than 1.2 is refused in the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(certificate), str(key))
    return context


def _dated(days: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
