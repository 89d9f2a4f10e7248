"""A whole deployment in real processes: the bits of a study in one process, and who is let in.

Starting it takes some ten seconds, so one federation serves every test here.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
import subprocess
from itertools import combinations
from pathlib import Path

import httpx
import numpy as np
import pytest
from deployment import Federation, federated, fedhealth, until
from safetensors.numpy import load as load_tensors

from fedhealth import cli
from fedhealth.asked_once import of_tables, release_words
from fedhealth.compose import composed, resolved
from fedhealth.coordinating import enrol, study_of, submit
from fedhealth.core.errors import SettingError
from fedhealth.core.study import digest
from fedhealth.core.update import ALL
from fedhealth.federate import approve_everywhere, place
from fedhealth.governance.proposal import read
from fedhealth.privacy.ledger import Ledger
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.line import Line, NotAdmitted
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.runtime.deployment.supervisor import running
from fedhealth.server.store import Store
from fedhealth.simulate import checked, clients
from fedhealth.site.enrolling import init
from fedhealth.stats_command import tabulated, told
from fedhealth.synthesize_command import planned

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with federated(tmp_path_factory.mktemp("federation")) as made:
        yield made


@pytest.fixture(scope="module")
def plain(there: Federation):
    """A run of the smoke study, as everything left it."""
    name = there.begin()
    there.end(name)
    return name


@pytest.fixture
def does(capsys):
    """What a command that people type says; in this process, for most of a command's time is its start."""

    def said(*words: str) -> str:
        code = cli.main(list(words))
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return said


def here(folder: Path, *overrides: str) -> Path:
    """The folder of the same study's run in one process."""
    run = folder / "here"
    assert cli.main(["simulate", "experiment=smoke", "run.report=false", f"run.folder={run}", *overrides]) == 0
    return run


def test_a_deployed_study_gives_the_bits_of_one_in_this_process(there, plain, tmp_path):
    expected = here(tmp_path)
    for name in ("model.safetensors", "results.json", "statistics.json"):
        assert (there.folder(plain) / name).read_bytes() == (expected / name).read_bytes()
    # The process that ran it ends soon after it has told the last round.
    until(lambda: there.state(plain) == ("finished:completed", ""), "the run is done", look_s=0.3)


def test_a_masked_study_gives_the_plain_model_and_no_hospitals_own_numbers(there, tmp_path):
    name = there.begin("secagg=masked", "rounds=1")
    there.end(name)
    ours = load_tensors((there.folder(name) / "model.safetensors").read_bytes())
    theirs = load_tensors((here(tmp_path, "rounds=1") / "model.safetensors").read_bytes())
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, rtol=0, atol=1e-6)
    results = Store(there.folder(name)).read_json("results.json")
    assert (set(results["counted"]), list(results["sums"])) == (set(there.sites), [ALL])


def test_a_private_study_is_charged_to_each_hospitals_own_ledger(there):
    study = ("privacy=dp_sgd", "privacy.epsilon=8", "rounds=1")
    there.end(there.begin(*study))
    asked = digest(there.document(*study))
    for site in there.sites.values():
        # Studies without a bound are in there, too, once each.
        rows = Ledger(site / "state" / "ledger.sqlite").rows()
        assert [row.what for row in rows if row.digest == asked] == ["query.shape", "train", "evaluate"]


def test_a_study_that_was_not_approved_is_refused_by_each_and_the_run_says_so(there):
    document = there.document("seed=4711")
    name = submit(there.coordinator, document)
    with pytest.raises(Exception, match="refused: the hospital has not approved the study"):
        there.end(name)
    until(lambda: there.state(name)[0] == "finished:failed", "the run has ended", look_s=0.3)
    assert "the hospital has not approved the study" in there.state(name)[1]


def test_deployed_tables_are_those_of_one_process_once_every_hospital_approved_them(there, tmp_path, does):
    document = of_tables(there.document("secagg=masked"), {"tables": [["sodium"]], "times": []}, epsilon=None)
    early = submit(there.coordinator, document)
    with pytest.raises(Exception, match="port-amity refused: the hospital has not approved the study"):
        there.end(early)
    until(lambda: there.state(early)[0] == "finished:failed", "the run has ended", look_s=0.3)
    approve_everywhere(there.coordinator, there.sites.values(), document)
    name = submit(there.coordinator, document)
    there.end(name)
    simulation = checked(resolved(composed(["experiment=smoke", "secagg=masked"])))
    expected = told(tabulated(simulation, {"tables": [["sodium"]], "times": []}), Store(tmp_path))
    assert Store(there.folder(name)).read_json("tables.json")["tables"] == expected.findings()
    shown = does("coordinator", "results", str(there.coordinator.path), name)
    assert "3 hospitals" in shown
    assert "No noise" in shown
    for site in there.sites.values():
        rows = Ledger(site / "state" / "ledger.sqlite").rows()
        assert [row.what for row in rows if row.digest == digest(document)] == ["query.table"]
        asked = [line for line in (site / "audit").rglob("*") if line.is_file() and b"query.table" in line.read_bytes()]
        assert asked


def test_a_study_of_hospitals_that_are_not_enrolled_is_refused_with_the_words_for_those_that_are(there, capsys):
    assert cli.main(["coordinator", "submit", str(there.coordinator.path), "experiment=demo"]) == 2
    said = capsys.readouterr().err
    assert "found 'st-columba'" in said
    assert "sites.names=null" in said
    everybody = study_of(there.coordinator, ["experiment=demo", "sites.names=null"])
    assert everybody["roster"] == sorted(there.sites)


def test_noisy_tables_by_the_commands_people_type_are_charged_once_to_each_hospital(there, tmp_path, does):
    words = ["experiment=smoke", f"sites.names=[{','.join(there.sites)}]", "--features", "age", "--epsilon", "3"]
    folder, file, day = str(there.coordinator.path), str(tmp_path / "age.study"), ("--until", "2999-06-30")
    does("coordinator", "study", folder, *words, "--purpose", "To know who comes.", *day, "--out", file)
    for site in there.sites.values():
        does("site", "approve", file, "--site", str(site), *day)
    assert "(ε = 3, δ = 1e-05)" in does("coordinator", "submit", folder, *words, "--follow")
    asked = read(Path(file).read_bytes()).proposal.digest
    for site in there.sites.values():
        rows = Ledger(site / "state" / "ledger.sqlite").rows()
        assert [(row.what, row.view) for row in rows if row.digest == asked] == [("query.table", "updates")]


@pytest.fixture
def larger(there):
    """Twice as many patients at each hospital, some 2,160 of them to train on, while a test runs."""
    manifests = {site / "site.yaml": (site / "site.yaml").read_text() for site in there.sites.values()}
    for path, text in manifests.items():
        path.write_text(re.sub(r"size: \d+", "size: 1250", text))
    yield there
    for path, text in manifests.items():
        path.write_text(text)


def test_a_release_by_the_commands_people_type_is_near_the_pooled_patients_and_charged_once_to_each_hospital(
    larger, tmp_path, does
):
    folder, file, day = str(larger.coordinator.path), str(tmp_path / "release.study"), ("--until", "2999-06-30")
    words = ["experiment=smoke", f"sites.names=[{','.join(larger.sites)}]", "--synthesize", "--epsilon", "8"]
    does("coordinator", "study", folder, *words, "--purpose", "To have some to build with.", *day, "--out", file)
    for site in larger.sites.values():
        does("site", "approve", file, "--site", str(site), *day)
    said = does("coordinator", "submit", folder, *words, "--follow")
    made = larger.folder(said.split()[1]) / "release"
    assert f"synthetic patients of 3 hospitals: {made / 'patients.csv'}" in said
    assert {path.name for path in made.iterdir()} == {"patients.csv", "card.md", "card.json"}

    asked = read(Path(file).read_bytes()).proposal.digest
    parts = "margins", "share", "mask", "confirm", "reveal"
    for site in larger.sites.values():
        rows = Ledger(site / "state" / "ledger.sqlite").rows()
        assert [(row.what, row.view) for row in rows if row.digest == asked] == [("query.margins", "sums")]
        receipts = [line.split() for line in does("site", "receipts", "--site", str(site)).splitlines()]
        assert [words[5] for words in receipts if asked[:12] in words] == [f"query.{part}" for part in parts]
        does("audit", "verify", str(site / "audit"))

    card = json.loads((made / "card.json").read_text())
    rows = list(csv.DictReader((made / "patients.csv").read_text().splitlines()))
    here = [*words[:2], f"sites.folder={next(iter(larger.sites.values())).parent}"]
    real = [client.cohort.part("train") for client in clients(planned(release_words(here, 8.0))).values()]
    assert card["rows"] == len(rows) == pytest.approx(sum(len(part.y) for part in real), abs=100)
    # Noise of some 16 patients on each count of 2,160 takes ten cells 0.03 away.
    apart = distances(rows, real, card["variables"])
    assert max(apart) < 0.1
    # The release of a sum that lacked a hospital would lie nearer to the other two.
    without_one = [np.mean(distances(rows, two, card["variables"])) for two in combinations(real, 2)]
    assert np.mean(apart) < 0.7 * min(without_one)


def distances(rows, parts, variables) -> list[float]:
    """By variable, the total variation between a release and real patients, in the cells that its card lists."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns["died_in_hospital"] = np.concatenate([part.y for part in parts])
    return [
        np.abs(shares([row[name] for row in rows], **cut) - shares(columns[name], **cut)).sum() / 2
        for name, cut in variables.items()
    ]


def shares(values, cells: int, edges=None, levels=None) -> np.ndarray:
    """The share of a variable's values in each of its cells, those without one last."""
    if levels:
        found = [levels.index(value) if value in levels else cells - 1 for value in values]
    else:
        numbers = np.array([float(value) if str(value) else np.nan for value in values])
        found = np.where(np.isnan(numbers), cells - 1, np.digitize(numbers, edges))
    return np.bincount(found, minlength=cells) / len(found)


def test_a_paused_hospital_refuses_and_answers_again_once_resumed(there, does):
    site = there.sites["port-amity"]
    does("site", "pause", str(site))
    try:
        name = there.begin("seed=8", "rules.quorum=2", "rounds=1")
        rows = there.end(name)
        assert rows[0]["failed"] == [{"site": "port-amity", "reason": "refused: the hospital has paused its client"}]
    finally:
        does("site", "resume", str(site))


def test_two_runs_at_once_do_not_disturb_each_other(there, tmp_path):
    names = [there.begin("seed=21", "rounds=1"), there.begin("seed=22", "rounds=1")]
    for name in names:
        there.end(name)
    assert (there.folder(names[1]) / "model.safetensors").read_bytes() == (
        here(tmp_path, "seed=22", "rounds=1") / "model.safetensors"
    ).read_bytes()


def test_the_same_study_is_under_way_once_and_a_stopped_one_goes_on(there):
    name = there.begin("seed=31", "rounds=400")
    with pytest.raises(SettingError, match="must be under way once"):
        there.begin("seed=31", "rounds=400")
    there.rounds_done(name, 2)
    stopped = fedhealth("coordinator", "stop", str(there.coordinator.path), name)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert there.state(name)[0] == "finished:stopped"
    assert cli.main(["coordinator", "stop", str(there.coordinator.path), name]) == 2


def test_a_client_that_offers_no_more_than_tls_1_2_is_refused_in_the_handshake(there):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl must be there to ask as an old client")

    def asked(version: str) -> str:
        words = [
            openssl,
            "s_client",
            "-connect",
            there.coordinator.here,
            version,
            "-CAfile",
            str(there.coordinator.authority),
        ]
        found = subprocess.run(words, check=False, input=b"", capture_output=True, timeout=20)
        return (found.stdout + found.stderr).decode(errors="replace")

    assert "Cipher is (NONE)" in asked("-tls1_2") or "alert" in asked("-tls1_2")
    assert "TLS_AES_256_GCM_SHA384" in asked("-tls1_3")
    assert "Verify return code: 0 (ok)" in asked("-tls1_3")


def test_who_has_no_token_is_refused_on_every_path_and_leaves_a_line(there):
    address, context = there.coordinator.here, there.coordinator.client_context()
    with httpx.Client(verify=context, base_url=f"https://{address}") as client:
        for path in (
            "/v1/control/start-run",
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/docs",
            "/responses",
        ):
            assert client.post(path, content=b"", headers={"authorization": "Bearer wrong"}).status_code == 401
        auditor = there.coordinator.tokens.issue("an.auditor", "auditor")
        headers = {"authorization": f"Bearer {auditor}", "content-type": "application/protobuf"}
        assert client.post("/v1/control/start-run", headers=headers).status_code == 403
        assert client.post("/v1/control/list-invitations", headers=headers).status_code == 404
    lines = [json.loads(line) for line in there.coordinator.audit.read_text().splitlines()]
    assert {(line["who"], line["asked"], line["status"]) for line in lines} >= {
        ("", "POST /docs", 401),
        ("an.auditor", "POST /v1/control/start-run", 403),
        ("coordinator", "POST /v1/control/start-run", 200),
    }
    assert auditor not in there.coordinator.audit.read_text()


def test_a_task_is_given_to_nobody_without_the_secret(there):
    tasks = flower.Tasks(
        there.coordinator.here,
        there.coordinator.client_context(),
        there.coordinator.token("runtime"),
        b"x" * 64,
        Line(0),
    )
    try:
        with pytest.raises(NotAdmitted):
            tasks.take()
    finally:
        tasks.close()


def test_a_hospital_that_was_not_enrolled_is_not_let_in_and_can_say_why(there, tmp_path, does):
    stranger = tmp_path / "strange"
    stranger.mkdir()
    text = (there.sites["port-amity"] / "site.yaml").read_text().replace("name: port-amity", "name: strange")
    (stranger / "site.yaml").write_text(text)
    request, _ = init(stranger, (there.coordinator.path / "invitation.json").read_bytes())
    with place("site start", stranger):
        said = until(lambda: SiteFolder(stranger).said().get("why"), "it was turned away")
        assert "must be enrolled" in said
        assert "why: a hospital must be enrolled" in does("site", "status", str(stranger))
        enrol(there.coordinator, request.read_bytes())
        until(lambda: SiteFolder(stranger).said().get("state") == "connected", "it is let in")
        with pytest.raises(SettingError, match="must be used once, found the one that strange was enrolled by"):
            enrol(there.coordinator, request.read_bytes())
        revoked = does("coordinator", "revoke", str(there.coordinator.path), "strange")
        assert revoked == "strange is let in no more\n"
        until(lambda: SiteFolder(stranger).said().get("state") == "not connected", "it is turned away")
    with pytest.raises(SettingError, match="must be used once"):
        enrol(there.coordinator, request.read_bytes())


def test_a_hospital_listens_on_no_port(there):
    if shutil.which("ss") is None:
        pytest.skip("ss must be there to list who listens")
    listening = subprocess.run(["ss", "-ltnp"], check=True, capture_output=True, text=True)
    for site in there.sites.values():
        pids = [running(site)["children"]["node"]["pid"], SiteFolder(site).said()["worker"], running(site)["pid"]]
        assert not [line for line in listening.stdout.splitlines() for pid in pids if f"pid={pid}," in line]


def test_nothing_in_either_place_is_readable_by_others_and_no_command_line_has_a_secret(there, plain):
    places = [there.coordinator.path, *there.sites.values()]
    for folder in places:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.name != "site.yaml" and "runs" not in file.parts:
                assert not file.stat().st_mode & 0o077, file
    assert not there.coordinator.path.stat().st_mode & 0o077
    commands = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    secrets = [
        there.coordinator.token("runtime"),
        there.coordinator.token("coordinator"),
        there.coordinator.secret().decode(),
    ]
    logs = "".join(file.read_text(errors="replace") for folder in places for file in folder.glob("logs/*.log"))
    assert not [secret for secret in secrets if secret in commands or secret in logs]


def test_a_second_supervisor_is_refused_and_so_is_a_port_in_use(there, tmp_path):
    second = fedhealth("coordinator", "start", str(there.coordinator.path))
    assert second.returncode == 2
    assert "one supervisor at a time may run" in second.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = tmp_path / "other"
        words = ["--listen", "127.0.0.1", "--port", str(port)]
        assert fedhealth("coordinator", "init", str(other), *words).returncode == 0
        found = fedhealth("coordinator", "start", str(other))
    assert found.returncode == 2
    assert f"a coordinator's port must be free, found 127.0.0.1:{port} not" in found.stderr


def test_the_commands_say_who_is_there_and_what_was_found(there, plain, does):
    folder = str(there.coordinator.path)
    status = does("coordinator", "status", folder)
    assert f"hospitals there: {', '.join(sorted(there.sites))}" in status
    assert plain in status
    assert "AUROC on each hospital's own test patients" in does("coordinator", "results", folder, plain)
    assert "online" in does("coordinator", "sites", folder)
    site = str(there.sites["port-amity"])
    assert "it is connected" in does("site", "status", site)
    doctor = fedhealth("site", "doctor", site).stdout
    assert "answers over TLS 1.3" in doctor
    assert "behind the coordinator's" in doctor or "ahead of the coordinator's" in doctor
