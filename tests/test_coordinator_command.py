"""`fedhealth coordinator` and `fedhealth site` where nothing runs: what is made, and what is said of wrong input."""

from __future__ import annotations

import json
import stat

import pytest

from fedhealth import cli
from fedhealth.core.errors import Refused
from fedhealth.places import builtin_sites
from fedhealth.runtime.deployment.certificates import fingerprint
from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.study_document import check_strategy


@pytest.fixture
def made(tmp_path, capsys):
    folder = CoordinatorFolder(tmp_path / "fed")
    assert cli.main(["coordinator", "init", str(folder.path), "--name", "fed.example.org", "--port", "19443"]) == 0
    return folder, capsys.readouterr().out


@pytest.fixture
def elm(tmp_path):
    folder = tmp_path / "port-amity"
    folder.mkdir()
    (folder / "site.yaml").write_bytes((builtin_sites() / "port-amity" / "site.yaml").read_bytes())
    return folder


def says(capsys, *words: str) -> tuple[int, str]:
    code = cli.main(list(words))
    return code, capsys.readouterr().err


def test_what_init_makes_is_its_owners_alone_and_the_invitation_holds_no_secret(made):
    folder, said = made
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    for file in folder.path.rglob("*"):
        assert not file.stat().st_mode & 0o077, file
    invitation = json.loads((folder.path / "invitation.json").read_text())
    assert (set(invitation), invitation["address"]) == ({"fedhealth", "address", "authority"}, "fed.example.org:19443")
    assert f"authority: {fingerprint(folder.authority.read_bytes())}\n" in said


def test_a_second_init_changes_nothing_and_says_so(made, capsys):
    folder, _ = made
    before = folder.authority.read_bytes()
    code, said = says(capsys, "coordinator", "init", str(folder.path))
    assert (code, folder.authority.read_bytes()) == (2, before)
    assert "must have a folder of its own" in said


def test_an_expired_certificate_keeps_the_coordinator_from_starting_and_renew_mends_it(made, capsys):
    folder, _ = made
    folder.renew(folder.settings, days=-3)
    code, said = says(capsys, "coordinator", "start", str(folder.path))
    assert code == 2
    assert f"found one that expired 3 days ago. Run fedhealth coordinator renew {folder.path}" in said
    assert cli.main(["coordinator", "renew", str(folder.path)]) == 0
    folder.server_context()


def test_a_key_that_others_may_read_keeps_it_from_starting(made, capsys):
    folder, _ = made
    (folder.path / "server.key").chmod(0o640)
    code, said = says(capsys, "coordinator", "start", str(folder.path))
    assert (code, "must be its owner's alone (0600), found 0640" in said) == (2, True)


def test_a_hospital_makes_its_keys_itself_and_keeps_them_when_asked_again(made, elm, capsys):
    folder, _ = made
    words = ["site", "init", str(elm), "--invitation", str(folder.path / "invitation.json")]
    assert cli.main(words) == 0
    keys = {file.name: file.read_bytes() for file in (elm / "keys").iterdir()}
    assert set(keys) == {"identity", "seal", "transport"}
    assert cli.main(words[:3]) == 0
    assert {file.name: file.read_bytes() for file in (elm / "keys").iterdir()} == keys
    assert fingerprint(folder.authority.read_bytes()) in capsys.readouterr().out
    assert SiteFolder(elm).address == "fed.example.org:19443"
    assert not [
        file for file in elm.rglob("*") if file.name != "site.yaml" and file.is_file() and file.stat().st_mode & 0o077
    ]


@pytest.mark.parametrize(
    "content", ["{}", "nothing", '{"address": "x", "authority": "y"}', '{"address": "h:1", "authority": ""}']
)
def test_what_is_no_invitation_gets_one_line(elm, tmp_path, capsys, content):
    (tmp_path / "i").write_text(content)
    code, said = says(capsys, "site", "init", str(elm), "--invitation", str(tmp_path / "i"))
    assert (code, said.count("\n")) == (2, 1)
    assert "as fedhealth coordinator init wrote it" in said


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["status"], 0, ""),
        (["enroll", "absent.json"], 2, "a file must be there, found no absent.json"),
        (["token", "ann", "--role", "king"], 2, "`role` must be a known role"),
        (["token", "ann", "--revoke"], 2, "found none of 'ann'"),
        (["revoke", "elm"], 2, "a hospital must be enrolled, found no 'elm'"),
        (["results", "../../etc"], 2, "a run must be named study/time"),
        (["logs"], 2, "a log must be there"),
        (["submit", "experiment=smoke"], 2, "a study's hospitals must be enrolled, found none that is"),
        (["submit", "--resume", "demo/2026", "--epsilon", "3"], 2, "must keep its config, found --epsilon"),
        (["submit", "seed=2", "--resume", "demo/2026", "--synthesize"], 2, "must keep its config, found seed=2"),
        (["submit", "attack=gaussian", "attack.sites=[elm]"], 2, "`attack` must be plain where hospitals are real"),
        (["submit", "rounds=0"], 2, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_without_a_coordinator_or_with_wrong_input_gets_one_line(made, capsys, words, code, line):
    folder, _ = made
    found, said = says(capsys, "coordinator", words[0], str(folder.path), *words[1:])
    assert found == code
    assert line in said
    assert said.count("\n") == (0 if code == 0 else 1)


class Clock:
    """A time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_coordinator_that_is_not_there_is_waited_for_as_one_that_is_starting(made, capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("fedhealth.runtime.deployment.line.time", clock)
    code, said = says(capsys, "coordinator", "sites", str(made[0].path))
    assert (code, said.count("\n")) == (1, 1)
    assert "a coordinator must be running for this, found nobody at 127.0.0.1:19443" in said
    # 0.2 + 0.4 + 0.8 + 1.6 s fall short of the five seconds it has; the next pause, of 3 s, does not.
    assert clock.now == pytest.approx(6.0)


def test_a_folder_that_is_no_coordinators_is_refused(tmp_path, capsys):
    code, said = says(capsys, "coordinator", "status", str(tmp_path))
    assert (code, "must hold coordinator.json, found none" in said) == (2, True)


def test_a_hospital_that_does_not_run_says_how_to_start(made, elm, capsys):
    folder, _ = made
    cli.main(["site", "init", str(elm), "--invitation", str(folder.path / "invitation.json")])
    assert cli.main(["site", "status", str(elm)]) == 1
    assert "not running; start it: fedhealth site start" in capsys.readouterr().out
    code, said = says(capsys, "site", "stop", str(elm))
    assert (code, "must be running to be stopped" in said) == (1, True)


def test_a_token_is_printed_once_and_listed_without_itself(made, capsys):
    folder, _ = made
    assert cli.main(["coordinator", "token", str(folder.path), "ann", "--role", "auditor"]) == 0
    token = capsys.readouterr().out.strip()
    assert folder.tokens.bearer(token).role == "auditor"
    assert cli.main(["coordinator", "token", str(folder.path)]) == 0
    listed = capsys.readouterr().out
    assert "ann\tauditor\t" in listed
    assert token not in listed


@pytest.mark.parametrize(
    "strategy",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "fedhealth.federate.place"},
        {"_target_": "flwr.serverapp.strategy.FedAvg", "evaluate": [{"_target_": "os.system"}]},
    ],
    ids=["a function", "of another room", "within one that may"],
)
def test_a_submitted_strategy_from_elsewhere_is_refused_before_it_is_built(strategy):
    with pytest.raises(Refused, match="a submitted strategy must be from"):
        check_strategy({"strategy": strategy})
    check_strategy({"strategy": {"_target_": "mine.Own"}}, more=["mine"])
