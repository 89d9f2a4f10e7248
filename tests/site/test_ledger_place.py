"""Where the ledger lies: in no folder that is thrown away, replaced or published with the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.site.ledger_place import ledger_of

FOLDER = Path("/hospitals/riverside")


def manifest(**policy):
    return SiteManifest(
        name="riverside",
        title="Riverside",
        policy=Policy(min_patients=20, min_cell=10, min_cohort=3, **policy),
        source={"kind": "csv", "path": "patients.csv"},
    )


def test_without_a_word_it_lies_in_the_users_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledger_of(manifest(), FOLDER).path == tmp_path / "fedhealth" / "riverside" / "ledger.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ledger_of(manifest(), FOLDER).path == tmp_path / ".local/state/fedhealth/riverside/ledger.sqlite"


def test_a_simulation_keeps_it_with_the_run(tmp_path):
    assert ledger_of(manifest(), FOLDER, run=tmp_path).path == tmp_path / "ledgers" / "riverside" / "ledger.sqlite"


def test_a_deployed_hospital_keeps_it_in_its_own_state_unless_it_had_one_that_must_not_be_forgotten(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    (tmp_path / "state").mkdir()
    assert ledger_of(manifest(), tmp_path).path == tmp_path / "state" / "ledger.sqlite"
    older = tmp_path / "user" / "fedhealth" / "riverside" / "ledger.sqlite"
    older.parent.mkdir(parents=True)
    older.touch()
    assert ledger_of(manifest(), tmp_path).path == older


@pytest.mark.parametrize(
    ("named", "path"),
    [("/var/lib/fedhealth/r.sqlite", "/var/lib/fedhealth/r.sqlite"), ("../own/r.sqlite", "/hospitals/own/r.sqlite")],
)
def test_the_hospitals_word_counts_in_a_simulation_too(tmp_path, named, path):
    found = manifest(ledger=named)
    assert ledger_of(found, FOLDER).path == ledger_of(found, FOLDER, run=tmp_path).path == Path(path)


def test_it_is_made_with_the_hospitals_key(tmp_path):
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    assert ledger_of(manifest(ledger_key="key"), tmp_path).key == bytes(range(32))
    assert ledger_of(manifest(), tmp_path).key is None


@pytest.mark.parametrize("policy", [{"epsilon_cap": 0.0}, {"epsilon_cap": -2.0}, {"delta": 0.0}, {"delta": 1.0}])
def test_a_cap_that_bounds_nothing_is_no_policy(policy):
    with pytest.raises(SettingError, match=f"policy.{next(iter(policy))}"):
        manifest(**policy)
