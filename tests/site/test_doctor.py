"""The doctor: one line for each thing, green or with what to do; asked of a real server with real faults."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import yaml

from fedhealth import cli
from fedhealth.runtime.deployment import certificates
from fedhealth.site.doctor import examined
from fedhealth.site.enrolling import init

POLICY = {"min_patients": 5, "min_cell": 5, "min_cohort": 3}


def hospital(folder, **more):
    folder.mkdir()
    row = {"name": folder.name, "title": "Elm", "policy": POLICY, "source": {"kind": "csv", "path": "patients.csv"}}
    (folder / "site.yaml").write_text(yaml.safe_dump({**row, **more}))
    (folder / "patients.csv").write_text("age,died\n50,1\n")
    return folder


@contextmanager
def coordinator(tmp_path, *, days: float = 30, foreign: bool = False, ahead_s: float = 0.0):
    """A coordinator's health and nothing else, over TLS; and its invitation."""
    authority = certificates.make_authority("test")
    signer = certificates.make_authority("test") if foreign else authority
    key, certificate = certificates.make_server(*signer, ["127.0.0.1"], days=days)
    (tmp_path / "k").write_bytes(key)
    (tmp_path / "c").write_bytes(certificate)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            return

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            return

    server = Quiet(("127.0.0.1", 0), Health)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"127.0.0.1:{server.server_address[1]}"
        yield json.dumps({"address": address, "authority": authority[1].decode()}).encode()
    finally:
        server.shutdown()
        server.server_close()


def lines(folder):
    return {line.what: line for line in examined(folder)}


def test_a_hospital_that_is_ready_is_green_but_for_being_enrolled(tmp_path):
    with coordinator(tmp_path) as invitation:
        folder = hospital(tmp_path / "elm")
        init(folder, invitation)
        found = lines(folder)
    red = {name for name, line in found.items() if not line.is_green} - {"user"}
    assert red == {"enrolment"}
    assert found["enrolment"].remedy == f"Send {folder}/enrolment.json, then fedhealth site start"
    assert found["certificate"].found in (
        "of the coordinator's authority, 29 days left",
        "of the coordinator's authority, 30 days left",
    )
    assert found["data source"].found == "csv, its file can be read"


@pytest.mark.parametrize(
    ("fault", "what", "found"),
    [
        ({"ahead_s": -60}, "clock", "60 s ahead of the coordinator's"),
        ({"ahead_s": 600}, "clock", "600 s behind the coordinator's"),
        ({"days": -1}, "certificate", "shows has expired"),
        ({"foreign": True}, "certificate", "is not of the coordinator's authority"),
        ({"days": 5}, "certificate", "4 days left"),
    ],
    ids=["fast clock", "slow clock", "expired", "foreign", "ends soon"],
)
def test_a_fault_of_clock_or_certificate_is_named_with_its_remedy(tmp_path, fault, what, found):
    with coordinator(tmp_path, **fault) as invitation:
        folder = hospital(tmp_path / "elm")
        init(folder, invitation)
        line = lines(folder)[what]
    said = (
        line.found.replace("59 s", "60 s").replace("61 s", "60 s").replace("599 s", "600 s").replace("601 s", "600 s")
    )
    assert found in said
    assert line.remedy


def test_what_is_wrong_at_the_hospital_itself_is_named(tmp_path):
    folder = hospital(tmp_path / "elm")
    with coordinator(tmp_path) as invitation:
        init(folder, invitation)
    (folder / "patients.csv").unlink()
    (folder / "keys" / "identity").chmod(0o644)
    found = lines(folder)
    assert (found["data source"].remedy, found["data source"].is_green) == ("Correct the path", False)
    assert found["keys"].remedy == "Run chmod 600 on it"
    assert "nobody reached" in found["coordinator"].found


def test_without_an_invitation_the_line_says_how_to_use_one(tmp_path):
    folder = hospital(tmp_path / "elm")
    assert "--invitation FILE" in lines(folder)["coordinator"].remedy


def test_the_data_is_read_for_a_study_and_what_it_lacks_is_named(tmp_path, smoke):
    from fedhealth.study_document import document_of

    folder = hospital(tmp_path / "elm")
    found = {line.what: line for line in examined(folder, document_of(smoke(), ["elm", "oak", "ash"]))}
    assert not found["data source"].is_green


def test_the_command_ends_with_1_where_something_is_red_and_shows_no_password_of_a_proxy(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.hospital:3128")
    monkeypatch.setenv("NO_PROXY", "")
    folder = hospital(tmp_path / "elm")
    init(
        folder,
        json.dumps({"address": "far.example:443", "authority": certificates.make_authority("x")[1].decode()}).encode(),
    )
    assert cli.main(["site", "doctor", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "proxy.hospital:3128" in said
    assert "s3cret" not in said
