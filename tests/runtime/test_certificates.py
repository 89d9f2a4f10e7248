"""Certificates: TLS 1.3 to the authority's own server, and to nobody else; asked of real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.runtime.deployment import certificates


@pytest.fixture(scope="module")
def authority():
    return certificates.make_authority("test")


@contextmanager
def server(folder, key: bytes, certificate: bytes):
    (folder / "k").write_bytes(key)
    (folder / "c").write_bytes(certificate)
    context = certificates.server_context(folder / "c", folder / "k")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            try:
                with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def shake(port: int, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return str(secure.version())


def trusting(folder, authority: bytes) -> ssl.SSLContext:
    (folder / "ca").write_bytes(authority)
    return certificates.client_context(folder / "ca")


def test_hands_are_shaken_over_tls_1_3(tmp_path, authority):
    with server(tmp_path, *certificates.make_server(*authority, ["127.0.0.1"])) as port:
        assert shake(port, trusting(tmp_path, authority[1])) == "TLSv1.3"


def test_a_client_that_offers_1_2_alone_is_refused(tmp_path, authority):
    old = trusting(tmp_path, authority[1])
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with server(tmp_path, *certificates.make_server(*authority, ["127.0.0.1"])) as port, pytest.raises(ssl.SSLError):
        shake(port, old)


@pytest.mark.parametrize("fault", ["expired", "foreign", "another name"])
def test_a_wrong_certificate_is_refused(tmp_path, authority, fault):
    signer = certificates.make_authority("test") if fault == "foreign" else authority
    names = ["127.0.0.2"] if fault == "another name" else ["127.0.0.1"]
    made = certificates.make_server(*signer, names, days=-2 if fault == "expired" else 30)
    assert (certificates.days_left(made[1]) < 0) == (fault == "expired")
    with server(tmp_path, *made) as port, pytest.raises(ssl.SSLCertVerificationError):
        shake(port, trusting(tmp_path, authority[1]))


def test_a_file_without_a_certificate_gets_one_line(tmp_path):
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(SettingError, match="must hold the coordinator's certificate"):
        certificates.client_context(tmp_path / "ca")
    with pytest.raises(SettingError, match="must hold the coordinator's certificate"):
        certificates.client_context(tmp_path / "absent")


def test_a_fingerprint_can_be_read_aloud(authority):
    words = certificates.fingerprint(authority[1]).split()
    assert [len(word) for word in words] == [8] * 8
