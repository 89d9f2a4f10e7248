"""`fedhealth synthesize`: hospitals are asked once, and what they may not see made is not made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re

import numpy as np
import pytest

from fedhealth.asked_once import release_words
from fedhealth.cli import main
from fedhealth.core.errors import Refused
from fedhealth.core.privacy_event import Gaussian, event_from
from fedhealth.evaluation.margins import MarginLayout
from fedhealth.privacy.ledger import Ledger
from fedhealth.release import fit
from fedhealth.releasing import Planned
from fedhealth.server.margins import counted
from fedhealth.server.store import Store
from fedhealth.simulate import asked_here, clients, fresh_folder, identified
from fedhealth.site.masked_round import MaskedRound
from fedhealth.synthesize_command import planned

SITES = ["galen-heart", "harrow-fen", "port-amity"]
SMOKE = ["experiment=smoke", "source=synthetic"]
ENOUGH, FEW = "source.size=1200", "source.size=300"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small mixture will do."""
    monkeypatch.setattr(fit, "ROWS", 150)
    monkeypatch.setattr(fit, "STEPS", 60)


@pytest.fixture
def synthesize(tmp_path):
    return lambda *words: main(
        ["synthesize", *SMOKE, f"run.folder={tmp_path / 'run'}", *words, "--out", str(tmp_path / "release")]
    )


@pytest.mark.slow
def test_a_release_comes_with_its_card_and_its_check_and_is_charged_once_to_every_hospital(
    synthesize, tmp_path, capsys
):
    assert synthesize(ENOUGH, "--epsilon", "3") == 0
    out = tmp_path / "release"
    assert {path.name for path in out.iterdir()} == {"patients.csv", "card.md", "card.json"}
    apart = tmp_path / "release-validation"
    assert {path.name for path in apart.iterdir()} == {"validation.md", "validation.json"}
    assert not [path for path in (apart, *apart.iterdir()) if path.stat().st_mode & 0o077]
    assert f"NOT to be published, for the hospitals alone: {apart / 'validation.md'}" in capsys.readouterr().out
    card, check = (json.loads(path.read_text()) for path in (out / "card.json", apart / "validation.json"))
    rows = (out / "patients.csv").read_text().splitlines()
    assert len(rows) - 1 == card["rows"] == check["patients"]["synthetic"]
    assert card["rows"] == pytest.approx(check["patients"]["train"], abs=150)
    assert card["sha256"]["patients.csv"] == hashlib.sha256((out / "patients.csv").read_bytes()).hexdigest()
    assert card["hospitals_in_the_sum"] == 3
    assert re.search(r"ε = (3|2\.9\d), δ = 1e-06", card["privacy"])
    assert check["total_variation"]["synthetic"]["one_way_mean"] < 0.1
    for name in SITES:
        (row,) = Ledger(tmp_path / "run" / "ledgers" / name / "ledger.sqlite").rows()
        assert (row.what, row.view) == ("query.margins", "sums")
        assert isinstance(event_from(row.event), Gaussian)


@pytest.mark.parametrize("lost", [0, 1])
def test_the_noise_that_is_told_is_that_of_the_keys_which_came(tmp_path, monkeypatch, lost):
    """Of four hospitals, one of which signs who is in the sum and then reveals nothing."""
    step = MaskedRound.step

    def stepped(self, request):
        if lost and request.purpose == "query.reveal" and self.keys.folder.name == "norrvik":
            raise Refused("lost", rule="a hospital must answer", found="a power cut", remedy="Wait.")
        return step(self, request)

    monkeypatch.setattr(MaskedRound, "step", stepped)
    four = f"sites.names=[{','.join([*SITES, 'norrvik'])}]"
    words = [*SMOKE, FEW, four, "rules.quorum=3", f"run.folder={tmp_path / 'run'}"]
    simulation = planned(release_words(words, 3.0))
    store = Store(fresh_folder(simulation))
    simulation = identified(simulation, store)
    with asked_here(simulation, store) as grid:
        _, hospitals, noise = counted(simulation.study, grid)
    planned_for = Planned.of(simulation.study)
    promised = planned_for.mechanism.noise_multiplier * planned_for.layout.sensitivity
    assert hospitals == 4
    # Who told is left with a third of the variance, who did not with the half that three hospitals need.
    assert noise == pytest.approx(promised * math.sqrt((4 - lost) / 3 + lost / 2), rel=1e-2)


def test_without_noise_the_masked_sum_is_the_counts_of_all_patients_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.privacy.noise_share._drawn", lambda n, parts, keys: np.zeros(n, dtype=np.int64))
    simulation = planned(release_words([*SMOKE, FEW, f"run.folder={tmp_path / 'run'}"], 3.0))
    layout = MarginLayout.of(simulation.study)
    parts = [client.cohort.part("train") for client in clients(simulation).values()]
    pooled = layout.counts(np.vstack([layout.cells(part.columns, part.y) for part in parts]))
    store = Store(fresh_folder(simulation))
    simulation = identified(simulation, store)
    with asked_here(simulation, store) as grid:
        found, hospitals, noise = counted(simulation.study, grid)
    assert hospitals == 3
    assert found == pytest.approx(pooled, abs=1e-3)
    # What it would be: three shares, of which two must be enough.
    promised = Planned.of(simulation.study).mechanism.noise_multiplier * layout.sensitivity
    assert noise == pytest.approx(promised * math.sqrt(3 / 2), rel=1e-2)


def test_fewer_than_two_thousand_patients_are_refused_by_policy(synthesize, tmp_path, capsys):
    assert synthesize(FEW, "--epsilon", "8") == 3
    assert "at least 2,000 training patients" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()


@pytest.mark.slow
def test_patients_too_near_to_real_ones_are_not_written_and_the_hospitals_see_why(
    synthesize, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("fedhealth.release.floor.MOST_NEAR", 0.1)
    assert synthesize(ENOUGH, "--epsilon", "8") == 3
    assert "nearer to a patient behind them" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()
    assert {path.name for path in (tmp_path / "release-validation").iterdir()} == {"validation.md", "validation.json"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a release must have an epsilon"),
        (["--epsilon", "-1"], "above 0 and at most 100"),
        (["--epsilon", "nan"], "must be finite"),
        (["secagg=plain", "--epsilon", "3"], "secagg=masked"),
        (["experiment=survival", "--epsilon", "3"], "whose outcome is a time"),
    ],
)
def test_what_makes_no_release_is_refused_in_one_line(synthesize, tmp_path, capsys, words, said):
    assert synthesize(*words) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert len(found.splitlines()) == 1
    assert not (tmp_path / "release").exists()


def test_a_folder_with_something_in_it_is_left_alone(synthesize, tmp_path, capsys):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "patients.csv").write_text("mine")
    assert synthesize("--epsilon", "3") == 2
    assert (tmp_path / "release" / "patients.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("within", "said"),
    [
        ("release/validation", "must lie outside it, since it is never published"),
        ("release", "must lie outside it"),
        ("else/../release", "must lie outside it"),
        ("taken", "its validation must have a folder of its own"),
    ],
)
def test_what_is_never_published_is_not_put_where_it_could_be(synthesize, tmp_path, capsys, within, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    assert synthesize("--epsilon", "3", "--validation", str(tmp_path / within)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_simulation_with_the_privacy_of_a_release_is_sent_to_synthesize(tmp_path, capsys):
    words = ["experiment=smoke", "privacy=release", "secagg=masked", f"run.folder={tmp_path / 'run'}"]
    with contextlib.suppress(SystemExit):
        assert main(["simulate", *words]) == 2
    assert "Use fedhealth synthesize" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
